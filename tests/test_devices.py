"""What is set before anything is computed."""

import pytest
import torch

from repro.errors import ConfigError
from repro.runtime.devices import prepare_device


@pytest.mark.parametrize(("precision", "bits"), [("float32", "ieee"), ("tf32", "tf32")])
def test_products_on_a_gpu_have_the_requested_precision(precision, bits, monkeypatch):
    """torch by itself lets LSTMs use TF32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.fp32_precision
    try:
        assert prepare_device("auto", 1, precision).type == "cuda"
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.matmul.fp32_precision == bits
        assert torch.backends.cudnn.rnn.fp32_precision == bits
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cuda.matmul.fp32_precision = before[0]
        torch.backends.cudnn.fp32_precision = before[1]


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert prepare_device("auto", 1).type == "cpu"
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        prepare_device("cuda", 1)
