"""The check against the Kalman filter with the true parameters, on linear-Gaussian data."""

import math

import torch
from torch import Tensor

from repro.inference.bounds import effective_sample_size, importance_weighted
from repro.models.base import ModelSpec
from repro.models.linear_gaussian import LinearGaussian
from repro.results.findings import FAILED, PASSED, UNCHECKED
from repro.tasks.mistakes import (
    FIRST_UNSCORED,
    LOOK_AHEAD,
    MISSING_HALF,
    MISSING_LOG_2PI,
    MISSING_LOG_SIGMA,
    VARIANCE_AS_STD,
)
from repro.tasks.probe import MAX_STANDARD_ERRORS, Observation, Probe, importance_error
from repro.tasks.total_probability import total_probability


def kalman_filter(probe: Probe) -> Observation:
    """Not above the Kalman filter with the true parameters; equal to it where that is claimed."""
    claimed = probe.claims_true_parameters
    if probe.true_parameters is None:
        return Observation(UNCHECKED, "the data are not drawn from a linear-Gaussian model")
    x, lengths = probe.task.valid.padded(list(range(min(50, len(probe.task.valid)))))
    weights = probe.log_weights(x, lengths, probe.samples, "kalman")
    value, error = importance_weighted(weights), importance_error(weights)
    if probe.scorer.sampled and float(effective_sample_size(weights).median()) < 5.0 and claimed:
        return Observation(UNCHECKED, "the effective sample size is below 5: raise samples")
    exact = _kalman_log_prob(probe, x, lengths)
    gap, steps = value - exact, float(lengths.sum())
    means = float(value.sum()) / steps, float(exact.sum()) / steps
    seen = f"{means[0]:.4f} nats per step, the filter {means[1]:.4f}"
    limit = 0.01 + MAX_STANDARD_ERRORS * error + 2.0 * error**2
    if claimed:
        failed = bool((gap.abs() > limit).any())
    else:
        noise = float(gap.std() / math.sqrt(len(gap)) + error.norm() / len(gap))
        failed = float(gap.mean()) > 0.01 + MAX_STANDARD_ERRORS * noise
    if not failed:
        return Observation(PASSED, seen)
    return Observation(FAILED, seen, _known_mistake(probe, x, lengths, value, limit))


def _kalman_log_prob(probe: Probe, x: Tensor, lengths: Tensor, **powers: float) -> Tensor:
    # log p (B,) in the task's units, with covariances raised to a power where asked.
    true = probe.true_parameters or {}
    changed = {key: torch.tensor(value, dtype=torch.float64) for key, value in true.items()}
    for key, power in powers.items():
        values, vectors = torch.linalg.eigh(changed[key])
        changed[key] = vectors @ (values**power).diag() @ vectors.T
    parameters = {key: value.tolist() for key, value in changed.items()}
    mean, std, dim = probe.task.mean.tolist(), probe.task.std.tolist(), probe.task.dim
    options = {"parameters": parameters}
    model = LinearGaussian(ModelSpec("exact", "", "gaussian", {}, dim, mean, std, options))
    noise = torch.zeros(len(x), 1, x.shape[1], model.latent)
    terms = model(probe.task.normalised(x, lengths), lengths, noise)
    return terms.log_weight[:, 0].sum(0) - lengths * probe.task.log_scale


def _known_mistake(probe: Probe, x: Tensor, lengths: Tensor, value: Tensor, limit: Tensor) -> str:
    """Return the known mistake that gives these numbers, if one does."""
    exact, dims = _kalman_log_prob(probe, x, lengths), lengths * probe.task.dim
    first = _kalman_log_prob(probe, x[:1], torch.ones_like(lengths))
    scale = lengths * float(probe.task.std.log().sum())
    constant = dims * 0.5 * math.log(2.0 * math.pi)
    known = [
        (FIRST_UNSCORED, exact - first),
        (MISSING_LOG_SIGMA, exact + scale),
        (MISSING_LOG_SIGMA, exact - scale),
        (MISSING_LOG_2PI, exact + constant),
        (MISSING_HALF, 2.0 * exact),
        (MISSING_HALF, 2.0 * (exact + constant)),
    ]
    names = ("transition_covariance", "emission_covariance")
    for chosen in (names[:1], names[1:], names):
        for power in (2.0, 0.5):
            powers = dict.fromkeys(chosen, power)
            known.append((VARIANCE_AS_STD, _kalman_log_prob(probe, x, lengths, **powers)))
    for reason, wrong in known:
        if bool(((value - wrong).abs() <= limit + 1e-3 * wrong.abs()).all()):
            return reason
    if float((value - exact).mean()) > 0:
        return total_probability(probe).reason or LOOK_AHEAD
    return "other parameters, or another model, than the data were drawn with"
