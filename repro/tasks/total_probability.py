"""The check that the probabilities of x_t sum to one, and why they may not."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from repro.inference.bounds import importance_weighted
from repro.results.findings import FAILED, PASSED, UNCHECKED
from repro.runtime.seeding import generator
from repro.tasks.mistakes import (
    ANALYTIC_KL,
    DIVIDED_BY_LENGTH,
    FIRST_UNSCORED,
    LOOK_AHEAD,
    MEAN_OF_LOGS,
    MISSING_HALF,
    MISSING_LOG_2PI,
    MISSING_LOG_SIGMA,
    PROPOSAL,
    SAME_SAMPLES,
    STEP_UNSCORED,
    VARIANCE_AS_STD,
)
from repro.tasks.probe import (
    FLOAT32_TOLERANCE,
    MAX_STANDARD_ERRORS,
    Observation,
    Probe,
    importance_error,
)

TOTAL_TOLERANCE = 0.01  # by how much a total probability may differ from 1
CONSTANT_TOLERANCE = 0.02  # nats by which a total may differ from a constant that explains it
ENUMERATED_BITS = 8  # more dimensions than these are held at the values in the data
QUADRATURE_POINTS, SAMPLED_QUADRATURE_POINTS = 2001, 301  # of exact and of sampled models


class Conditional(NamedTuple):
    """The density of x_t given a past, evaluated at N points.

    Attributes:
        log_p: log p(x_t | x_<t) at each point, (N,), nats.
        weight: quadrature weights, (N,).
        points: the first dimension of x_t at each point, (N,).
        total: Σ weight · p, which is 1 if the points cover all of x_t. error: its standard error.
        before: log p(x_<t), nats.
    """

    log_p: Tensor
    weight: Tensor
    points: Tensor
    total: float
    error: float
    before: float


def total_probability(probe: Probe) -> Observation:
    """Σ p(x_t | x_<t) over x_t is 1 for the first steps; over some of the x_t, at most 1."""
    kind, dim = probe.task.kind, probe.task.dim
    if kind != "binary" and (kind != "real" or dim > 1):
        return Observation(UNCHECKED, "for binary data, and real data of one dimension, only")
    whole = kind == "real" or dim <= ENUMERATED_BITS
    reason, failed, noise = "", False, 0.0
    seen = []
    for t in range(1, min(probe.steps, 2 if probe.scorer.sampled else 3) + 1):
        conditional = _conditional(probe, t)
        noise = max(noise, conditional.error)
        gap = conditional.total - 1.0
        wrong = (
            abs(gap) if whole else gap
        ) > TOTAL_TOLERANCE + MAX_STANDARD_ERRORS * conditional.error
        seen.append(
            f"{conditional.total:.4g}"
            + (f" ± {conditional.error:.1g}" if conditional.error else "")
        )
        if wrong and not failed:
            failed, reason = True, _reason(probe, conditional, t)
    what = "over all x_t" if whole else f"over {2**ENUMERATED_BITS} values of x_t (at most 1)"
    text = f"{what}, t = 1, …: {', '.join(seen)}"
    if failed:
        return Observation(FAILED, text, reason)
    noisy = noise > 0.2
    return Observation(UNCHECKED if noisy else PASSED, text + (": too noisy" if noisy else ""))


def _conditional(probe: Probe, t: int) -> Conditional:
    if probe.task.kind == "binary":
        points = _patterns(probe, t)
        return _integrated(probe, t, points, torch.ones(len(points), dtype=torch.float64))
    count = SAMPLED_QUADRATURE_POINTS if probe.scorer.sampled else QUADRATURE_POINTS
    centre, scale = float(probe.x[t - 1, 0, 0]), float(probe.std[0])
    u = torch.linspace(-6.0, 6.0, count, dtype=torch.float64)
    for _ in range(4):  # closer around the peak, until half of the points give the same total
        points = centre + scale * torch.sinh(u)
        weight = scale * torch.cosh(u) * float(u[1] - u[0])
        conditional = _integrated(probe, t, points.float().unsqueeze(1), weight)
        half = float((conditional.log_p[::2].exp() * 2.0 * weight[::2]).sum())
        if probe.scorer.sampled or abs(half - conditional.total) <= 0.002 * conditional.total:
            return conditional
        centre, scale = float(points[conditional.log_p.argmax()]), 0.3 * scale
    return conditional


def _patterns(probe: Probe, t: int) -> Tensor:
    # All settings of the bits that vary most, the others as in the data; (N, D).
    dim = probe.task.dim
    share = torch.stack([x.mean(0) for x in probe.task.valid]).mean(0)
    chosen = (share * (1.0 - share)).argsort(descending=True)[: min(dim, ENUMERATED_BITS)]
    numbers = torch.arange(2 ** len(chosen)).unsqueeze(1)
    points = probe.x[t - 1, 0].repeat(len(numbers), 1)
    points[:, chosen] = ((numbers >> torch.arange(len(chosen))) & 1).float()
    return points


def _integrated(probe: Probe, t: int, points: Tensor, weight: Tensor) -> Conditional:
    past = probe.x[: t - 1, :1].expand(-1, len(points), -1)
    x, lengths = torch.cat([past, points.unsqueeze(0)]), torch.full((len(points),), t)
    weights = torch.cat(
        [
            probe.log_weights(part, n, probe.samples, "total", t, i)
            for i, (part, n) in enumerate(_chunks(x, lengths, probe))
        ],
        dim=1,
    ).nan_to_num(-math.inf)
    log_before, error_before = 0.0, 0.0
    if t > 1:
        one = torch.tensor([t - 1])
        before = probe.log_weights(probe.x[: t - 1, :1], one, 20 * probe.samples, "before", t)
        log_before, error_before = (
            float(importance_weighted(before)),
            float(importance_error(before)),
        )
    log_p = importance_weighted(weights) - log_before
    p = log_p.exp()
    total = float((p * weight).sum())
    count = len(weights)
    spread = (weights - log_before).exp().std(0) if count > 1 else torch.zeros_like(p)
    error = math.hypot(float((weight * spread).norm()) / math.sqrt(count), total * error_before)
    return Conditional(log_p, weight, points[:, 0], total, error, log_before)


def _chunks(x: Tensor, lengths: Tensor, probe: Probe) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(1, 20_000 // probe.samples) if probe.scorer.sampled else 500
    for start in range(0, len(lengths), size):
        yield x[:, start : start + size], lengths[start : start + size]


def _reason(probe: Probe, conditional: Conditional, t: int) -> str:
    """Return what most likely makes the probabilities of x_t sum to something else."""
    if probe.scorer.sampled:
        return _reason_of_sampled(probe, conditional)
    averaged = t * (conditional.log_p + conditional.before) - (t - 1) * conditional.before
    if t > 1 and abs(float((averaged.exp() * conditional.weight).sum()) - 1.0) < TOTAL_TOLERANCE:
        return DIVIDED_BY_LENGTH
    binary = probe.task.kind == "binary"
    is_zero = float(conditional.log_p.abs().max()) < FLOAT32_TOLERANCE
    is_flat = float(conditional.log_p.max() - conditional.log_p.min()) < 1e-2
    if is_zero and (binary or is_flat):
        return FIRST_UNSCORED if t == 1 else STEP_UNSCORED
    if is_flat and not binary:
        return LOOK_AHEAD
    constant = "" if binary else _missing_constant(probe, conditional) or _wrong_scale(conditional)
    return constant or (LOOK_AHEAD if conditional.total > 1.0 else MEAN_OF_LOGS)


def _reason_of_sampled(probe: Probe, conditional: Conditional) -> str:
    log_p, log_q = probe.scorer.log_densities(
        probe.x, probe.full_lengths, 50, generator(probe.seed, "audit", "reason")
    )
    if float((log_p - log_q).std(0).max()) < FLOAT32_TOLERANCE:
        return SAME_SAMPLES
    if float(log_q.std(0).max()) < FLOAT32_TOLERANCE:
        return ANALYTIC_KL
    return _missing_constant(probe, conditional) or PROPOSAL


def _wrong_scale(conditional: Conditional) -> str:
    """Return which wrong power or scale of a density of real numbers the total is, if it is one."""
    total = conditional.total
    share = conditional.log_p.exp() * conditional.weight / total  # NaN if the total is 0
    mean = float((share * conditional.points).sum())
    variance = float((share * (conditional.points - mean) ** 2).sum())
    spread = max(variance**0.5, FLOAT32_TOLERANCE)
    total_of_root = float(((conditional.log_p / 2).exp() * conditional.weight).sum())
    known = [
        (MISSING_HALF, total_of_root, (1.0, math.sqrt(2.0 * math.pi))),
        (MISSING_HALF, total, (math.sqrt(2.0), math.sqrt(0.5))),
        (VARIANCE_AS_STD, total, tuple(spread**n for n in (1, -1, 0.5, -0.5, 2, -2))),
    ]
    for reason, value, totals in known:
        if any(_explains(value, one) for one in totals):
            return reason
    return ""


def _explains(value: float, one: float) -> bool:
    # Totals of wrong models may be 0 or infinite.
    return 0.0 < value < math.inf and one > 0.0 and abs(math.log(value / one)) < CONSTANT_TOLERANCE


def _missing_constant(probe: Probe, conditional: Conditional) -> str:
    """Return which forgotten constant of a density of real numbers the total is, if it is one."""
    if probe.task.kind != "real":
        return ""
    for reason, one in (
        (MISSING_LOG_SIGMA, float(probe.task.std[0])),
        (MISSING_LOG_2PI, math.sqrt(2.0 * math.pi)),
    ):
        if _explains(conditional.total, one) or _explains(conditional.total, 1.0 / one):
            return reason
    return ""
