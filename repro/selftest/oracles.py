"""Estimators against a known truth: the exact likelihood of a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from repro.inference.bounds import importance_weighted
from repro.inference.particle_filter import fivo
from repro.models.base import ModelSpec
from repro.models.linear_gaussian import Context, LinearGaussian
from repro.runtime.seeding import generator

PROPOSAL_SCALE = 1.4  # of the wrong proposal's standard deviations; above 1, weights are bounded
RUNS, RUNS_OF_LENGTHS = 4000, 300
SAMPLES = (1, 2, 5, 10, 20, 50, 100, 200)
STEPS = 10
LENGTHS = (5, 10, 20, 40, 80)
PARTICLES = 50


class Mismatched(LinearGaussian):
    """The exact model with a proposal that is wider than the posterior, and off centre."""

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        context = super().encode(x, lengths)
        return context._replace(cholesky=PROPOSAL_SCALE * context.cholesky)


def problem(latent: int, dim: int) -> dict[str, np.ndarray]:
    """Return the parameters of a linear-Gaussian state space model, drawn at random."""
    rng = np.random.default_rng(latent)

    def covariance(size: int) -> np.ndarray:
        root = rng.standard_normal((size, size))
        return root @ root.T + 0.3 * np.eye(size)

    return {
        "transition_matrix": 0.6 * rng.standard_normal((latent, latent)),
        "transition_offset": rng.standard_normal(latent),
        "transition_covariance": covariance(latent),
        "emission_matrix": rng.standard_normal((dim, latent)),
        "emission_offset": rng.standard_normal(dim),
        "emission_covariance": covariance(dim),
    }


def exact_log_likelihood(x: np.ndarray, p: dict[str, np.ndarray]) -> float:
    """Return log p(x) for x (T, D): the density of all steps as one Gaussian vector, by scipy."""
    steps, transition = len(x), p["transition_matrix"]
    powers = [np.linalg.matrix_power(transition, n) for n in range(steps)]
    zero = np.zeros_like(transition)
    # z = M w for independent step noise w: M is block lower triangular.
    response = np.block(
        [[powers[t - s] if t >= s else zero for s in range(steps)] for t in range(steps)]
    )
    emission = np.kron(np.eye(steps), p["emission_matrix"])
    noise = np.kron(np.eye(steps), p["transition_covariance"])
    covariance = emission @ response @ noise @ response.T @ emission.T
    covariance += np.kron(np.eye(steps), p["emission_covariance"])
    offsets = np.tile(p["transition_offset"], steps)
    mean = emission @ response @ offsets + np.tile(p["emission_offset"], steps)
    return float(stats.multivariate_normal(mean, covariance).logpdf(x.ravel()))


def build(family: type[LinearGaussian], p: dict[str, np.ndarray]) -> LinearGaussian:
    """Return a model with the parameters of `problem`."""
    dim = len(p["emission_matrix"])
    options = {"parameters": {name: value.tolist() for name, value in p.items()}}
    zeros, ones = [0.0] * dim, [1.0] * dim
    return family(ModelSpec("exact", "", "gaussian", {}, dim, zeros, ones, options))


def exactness() -> pd.DataFrame:
    """Return how far log weights under the exact posterior are from the exact log-likelihood."""
    rows = []
    for latent, dim in ((1, 1), (3, 2)):
        p = problem(latent, dim)
        model = build(LinearGaussian, p)
        x, exact = _sequence(model, p, STEPS)
        log_weight = _log_weights(model, x, 1000, 1)
        rows.append(
            {
                "Latent dimensions": latent,
                "log p(x), nats": exact,
                "Largest error of 1000 log weights, nats": float((log_weight - exact).abs().max()),
            }
        )
    return pd.DataFrame(rows)


def convergence() -> pd.DataFrame:
    """Return the estimates' bias, spread and mean of p̂(x) / p(x) against K, with theory.

    For weights of relative variance v, the estimate from K of them has mean −v / 2K and standard
    deviation √(v / K) to first order; exp of it has mean 1 at every K.
    """
    p = problem(1, 1)
    model = build(Mismatched, p)
    x, exact = _sequence(model, p, STEPS)
    log_ratio = _log_weights(model, x, max(SAMPLES), RUNS) - exact  # (K, runs)
    variance = float(log_ratio.exp().var())
    rows = []
    for count in SAMPLES:
        estimates = torch.cat([importance_weighted(g) for g in log_ratio.split(count)])
        ratio = estimates.exp()
        rows.append(
            {
                "samples": count,
                "bias": float(estimates.mean()),
                "bias_theory": -variance / (2 * count),
                "spread": float(estimates.std()),
                "spread_theory": math.sqrt(variance / count),
                "mean_ratio": float(ratio.mean()),
                "mean_ratio_error": float(ratio.std() / math.sqrt(len(ratio))),
            }
        )
    return pd.DataFrame(rows)


def lengths() -> pd.DataFrame:
    """Return the error of plain importance weights and of FIVO against T, at equal K."""
    p = problem(1, 1)
    model = build(Mismatched, p)
    rows = []
    for steps in LENGTHS:
        x, exact = _sequence(model, p, steps)
        plain = importance_weighted(_log_weights(model, x, PARTICLES, RUNS_OF_LENGTHS))
        uniforms = torch.rand(
            steps, PARTICLES, RUNS_OF_LENGTHS, generator=generator(0, "uniforms", steps)
        )
        batch, ends, noise = _repeated(model, x, PARTICLES, RUNS_OF_LENGTHS)
        with torch.no_grad():
            filtered = fivo(model, batch, ends, noise, uniforms)
        for name, values in (("IS", plain), ("FIVO", filtered)):
            gap = (values - exact) / steps
            error = float(gap.std() / math.sqrt(RUNS_OF_LENGTHS))
            rows.append(
                {"steps": steps, "estimate": name, "gap": float(gap.mean()), "error": error}
            )
    return pd.DataFrame(rows)


def _sequence(model: LinearGaussian, p: dict[str, np.ndarray], steps: int) -> tuple[Tensor, float]:
    x = model.sample(1, steps, generator(0, "sequence", steps))
    return x, exact_log_likelihood(x[:, 0].numpy(), p)


def _repeated(
    model: LinearGaussian, x: Tensor, samples: int, runs: int
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (len(x), samples, runs, model.latent)
    noise = torch.randn(shape, generator=generator(0, "noise", *shape), dtype=torch.float64)
    return x.expand(-1, runs, -1), torch.full((runs,), len(x)), noise


def _log_weights(model: LinearGaussian, x: Tensor, samples: int, runs: int) -> Tensor:
    with torch.no_grad():
        return model(*_repeated(model, x, samples, runs), steps_at_once=1).log_weight.sum(0)
