"""The exact model against an independent Kalman filter."""

import numpy as np
import pytest
import torch
from reference.kalman import log_likelihood

from repro.data.batches import Batch
from repro.evaluation.evaluate import bound_sequences, squared_error
from repro.models import build
from repro.models.base import ModelSpec
from repro.selftest.oracles import problem
from repro.training.validation import validation_bound, validation_is

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(("latent", "dim"), [(1, 1), (3, 2)])
def test_every_log_weight_is_the_kalman_likelihood(latent, dim):
    p = problem(latent, dim)
    mean, std = [0.5] * dim, [2.0, 3.0][:dim]
    options = {"parameters": {name: value.tolist() for name, value in p.items()}}
    model = build(ModelSpec("exact", "linear_gaussian", "gaussian", {}, dim, mean, std, options))
    lengths, g = torch.tensor([6, 1, 4]), torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, dim, generator=g, dtype=torch.float64)
    noise = torch.randn(6, 50, 3, latent, generator=g, dtype=torch.float64)
    log_weight = model(x, lengths, noise).log_weight.sum(0)  # (K, B)
    for b, length in enumerate(lengths):
        raw = x[:length, b].numpy() * std + mean
        expected = log_likelihood(raw, *p.values()) + int(length) * np.log(std).sum()
        assert (log_weight[:, b] - expected).abs().max() < 1e-9


def test_evaluation_of_the_exact_model_has_no_spread(datasets):
    options = datasets["linear_gaussian"]["options"]
    exact = ModelSpec("exact", "linear_gaussian", "gaussian", {}, 1, [0.0], [7.0], options)
    x = torch.randn(8, 4, 1, generator=torch.Generator().manual_seed(1))
    batch = Batch(x, torch.tensor([8, 3, 5, 8]), [0, 1, 2, 3])
    statistics = bound_sequences(build(exact), batch, 40, [1, 10], seed=0)
    for name in ("bound", "is_1", "is_10"):
        torch.testing.assert_close(statistics[name], statistics["is"], rtol=0, atol=1e-9)
    assert statistics["is_error"].max() < 1e-6 and statistics["ess"].min() > 40 - 1e-6


def test_validation_of_the_exact_model_is_the_kalman_likelihood():
    p = problem(2, 1)
    options = {"parameters": {name: value.tolist() for name, value in p.items()}}
    model = build(ModelSpec("exact", "linear_gaussian", "gaussian", {}, 1, [0.5], [2.0], options))
    g = torch.Generator().manual_seed(0)
    part = [torch.randn(steps, 1, generator=g) for steps in (5, 1, 7)]
    total = sum(log_likelihood(x.double().numpy() * 2 + 0.5, *p.values()) for x in part)
    expected = total / 13 + np.log(2.0)
    assert abs(validation_bound(model, part, seed=0) - expected) < 1e-6
    assert abs(validation_is(model, part, seed=0, num_samples=3) - expected) < 1e-6


def test_posterior_mean_is_the_kalman_smoothers(datasets):
    """Against the joint Gaussian of z and x written out as one large vector."""
    p = problem(2, 1)
    options = {"parameters": {name: value.tolist() for name, value in p.items()}}
    model = build(ModelSpec("exact", "linear_gaussian", "gaussian", {}, 1, [0.0], [1.0], options))
    steps, draws = 4, 4000
    x = torch.randn(steps, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    A, b, Q, C, d, R = p.values()
    # z = M w + m for independent step noise w: M is block lower triangular with powers of A.
    M = np.block(
        [
            [np.linalg.matrix_power(A, i - j) if i >= j else 0 * A for j in range(steps)]
            for i in range(steps)
        ]
    )
    mean = M @ np.tile(b, steps)
    covariance = M @ np.kron(np.eye(steps), Q) @ M.T
    H = np.kron(np.eye(steps), C)
    gain = covariance @ H.T @ np.linalg.inv(H @ covariance @ H.T + np.kron(np.eye(steps), R))
    smoothed = mean + gain @ (x.numpy().ravel() - H @ mean - np.tile(d, steps))
    batch = Batch(x, torch.tensor([steps]), [0])
    true = torch.tensor(smoothed.reshape(steps, 1, 2))
    posterior = covariance - gain @ H @ covariance
    error = squared_error(model, batch, true, draws, seed=0).item()
    # The squared distance of a mean of `draws` samples has expectation tr(posterior) / draws.
    assert error < 6 * np.trace(posterior) / draws
    shifted = squared_error(model, batch, true + 1.0, draws, seed=0).item()
    assert shifted == pytest.approx(2 * steps, rel=0.1)


def test_samples_have_the_moments_of_the_model(datasets):
    options = datasets["linear_gaussian"]["options"]
    exact = ModelSpec("exact", "linear_gaussian", "gaussian", {}, 1, [0.0], [1.0], options)
    count = 20_000
    x = build(exact).sample(count, 10, torch.Generator().manual_seed(0))[-1, :, 0]
    # After ten steps z ~ N(0.5, 100), x = z / 2 + N(0, 20).
    mean, variance = 0.25, 25.0 + 20.0
    assert abs(x.mean().item() - mean) < 6 * (variance / count) ** 0.5
    assert abs(x.var().item() - variance) < 6 * variance * (2 / count) ** 0.5
