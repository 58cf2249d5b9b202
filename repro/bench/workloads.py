"""What is timed: models and batches in the shapes of real data, with synthetic values."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from repro.data.batches import Batch, real_steps
from repro.models import build
from repro.models.base import ModelSpec, SequenceModel


@dataclass(frozen=True)
class Workload:
    """A model and one batch of data for it.

    Attributes:
        name: what the table calls it.
        family, head, sizes: of the model.
        lengths: the lengths from which the batch's are drawn. batch: how many. dim: D.
        similar: whether the batch holds sequences of similar length, out of twelve batches.
        ones: the share of ones in binary data.
        muon: whether Muon updates the matrices, instead of Adam.
    """

    name: str
    family: str
    head: str
    sizes: dict
    lengths: Sequence[int]
    batch: int
    dim: int
    similar: bool = False
    ones: float = 4 / 88
    muon: bool = False


def _vrnn(hidden: int, latent: int, layers: int = 1, components: int = 20) -> dict:
    widths = [hidden] * layers
    names = ("features_x", "features_z", "encoder", "prior", "decoder")
    return {
        "latent": latent,
        "hidden": hidden,
        "components": components,
        "initial_weights": 0.08,
        **dict.fromkeys(names, widths),
    }


DMM = {
    "latent": 100,
    "transition": 200,
    "emission": 100,
    "embedding": 400,
    "inference_network": "st-r",
    "inference_hidden": 400,
    "forget_bias": -5.0,
    "initial_cell": 1.0,
    "dropout": 0.0,
    "initial_weights": 0.1,
}
# As Pyro's example of the model: a ReLU RNN that reads x itself.
RELU_DMM = {
    **DMM,
    "embedding": None,
    "inference_cell": "relu",
    "inference_hidden": 600,
}
# As in the preset music.
FAST_DMM = {**DMM, "embedding": 200, "inference_hidden": 200}
RNN = {
    "features": [500],
    "hidden": 500,
    "decoder": [500],
    "components": 20,
    "initial_weights": 0.08,
}

# The 229 training chorales of jsb_chorales: how many (second) have each number of steps (first).
CHORALES = {
    25: 1, 33: 17, 37: 3, 39: 1, 40: 1, 41: 15, 44: 3, 45: 7, 48: 13, 49: 23, 50: 1, 51: 1, 52: 8,
    53: 4, 54: 1, 55: 1, 56: 2, 57: 18, 58: 1, 60: 4, 61: 9, 63: 2, 64: 7, 65: 29, 66: 1, 68: 5,
    69: 3, 72: 4, 73: 3, 76: 8, 77: 3, 80: 1, 82: 1, 83: 2, 84: 2, 85: 2, 86: 1, 88: 1, 89: 1,
    93: 1, 96: 2, 97: 1, 98: 1, 101: 1, 102: 1, 105: 1, 108: 2, 109: 3, 113: 2, 114: 1, 120: 1,
    128: 1, 129: 1,
}  # fmt: skip
# Nottingham has 254 steps on average; handwriting about 600; speech: half a second in frames of 200
# samples.
JSB = [length for length, count in CHORALES.items() for _ in range(count)], 20, 88
NOTTINGHAM = range(180, 321), 20, 88
HANDWRITING = [600], 20, 3
WORKLOADS = [
    Workload("DMM, JSB, random batches", "dmm", "bernoulli", DMM, *JSB),
    Workload("DMM, JSB, similar lengths", "dmm", "bernoulli", DMM, *JSB, similar=True),
    Workload("DMM, our recipe, JSB", "dmm", "bernoulli", FAST_DMM, *JSB, muon=True),
    Workload("DMM, Nottingham", "dmm", "bernoulli", DMM, *NOTTINGHAM),
    Workload("DMM, ReLU RNN, JSB, random batches", "dmm", "bernoulli", RELU_DMM, *JSB),
    Workload(
        "DMM, ReLU RNN, JSB, similar lengths", "dmm", "bernoulli", RELU_DMM, *JSB, similar=True
    ),
    Workload("DMM, ReLU RNN, Nottingham", "dmm", "bernoulli", RELU_DMM, *NOTTINGHAM),
    Workload("VRNN 100, music", "vrnn", "bernoulli", _vrnn(100, 16), [60], 20, 88),
    Workload("VRNN 500, music", "vrnn", "bernoulli", _vrnn(500, 100), [60], 20, 88),
    Workload("VRNN 500, handwriting", "vrnn", "bivariate_mixture", _vrnn(500, 50), *HANDWRITING),
    Workload("VRNN 500, speech", "vrnn", "gaussian", _vrnn(500, 200), [40], 128, 200),
    Workload("RNN-GMM 500, handwriting", "rnn", "bivariate_mixture", RNN, *HANDWRITING),
    Workload("NADE 500, MNIST", "marginal", "nade", {"nade_hidden": 500}, [1], 50, 784, ones=0.13),
]


def make(workload: Workload, seed: int = 0) -> tuple[SequenceModel, Batch, Tensor]:
    """Return a model, a batch and the noise of one sample, (T, 1, B, Z)."""
    torch.manual_seed(seed)
    dim = workload.dim
    spec = ModelSpec(
        workload.name,
        workload.family,
        workload.head,
        workload.sizes,
        dim,
        [0.0] * dim,
        [1.0] * dim,
        {},
    )
    model = build(spec)
    lengths = torch.tensor(workload.lengths)
    lengths = lengths[torch.randint(len(lengths), (12 * workload.batch,))]
    lengths = lengths.sort().values if workload.similar else lengths
    first = 6 * workload.batch if workload.similar else 0  # the batch in the middle
    lengths = lengths[first : first + workload.batch]
    x = torch.randn(int(lengths.max()), workload.batch, dim)
    if workload.head in ("bernoulli", "nade"):
        x = (torch.special.ndtr(x) < workload.ones).float()
    if workload.head.startswith("bivariate"):
        x[..., 0] = (x[..., 0] > 1.5).float()
    x = x.where(real_steps(lengths, len(x)).unsqueeze(-1), 0.0)
    noise = torch.randn(len(x), 1, workload.batch, model.latent)
    return model, Batch(x, lengths, list(range(workload.batch))), noise
