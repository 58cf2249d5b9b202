"""Checks any model's log-likelihood for the usual mistakes, and names the likely reason.

Each check tests a property that every correct model has: probabilities sum to one, the past does
not depend on the future, and a sequence does not depend on the rest of its batch. The data are the
beginnings of a few sequences of the validation part; the test part is not read.
"""

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from repro.data import prepared
from repro.data.batches import real_steps
from repro.errors import ConfigError, ReproError
from repro.inference.bounds import effective_sample_size, importance_weighted
from repro.models.base import ModelSpec
from repro.models.linear_gaussian import LinearGaussian
from repro.results.findings import FAILED, PASSED, UNCHECKED, Audit, Finding
from repro.runtime.seeding import generator
from repro.tasks.scorers import Scorer, require_count, scorer_of
from repro.tasks.task import Task

SEQUENCES, STEPS = 6, 8  # that most checks use
NO_STEP_TERMS = "the model gives no exact log p of each step"
MAX_STANDARD_ERRORS = 6.0  # a larger difference between sampled numbers is not chance
FLOAT32_TOLERANCE = 1e-4  # of rounding in float32, absolute (nats) and relative
TOTAL_TOLERANCE = 0.01  # by how much a total probability may differ from 1
CONSTANT_TOLERANCE = 0.02  # nats by which a total may differ from a constant that explains it
ENUMERATED_BITS = 8  # more dimensions than these are held at the values in the data
QUADRATURE_POINTS, SAMPLED_QUADRATURE_POINTS = 2001, 301  # of exact and of sampled models
FAR_STDS = 1000.0  # standard deviations by which a step is moved to be improbable

LOOK_AHEAD = (
    "x_t, or a later step, is seen before it is predicted (a shift or a causal mask is missing)"
)
PADDING_COUNTED = "padding is counted: mask the steps past each sequence's end"
BATCH_STATISTICS = (
    "statistics of the batch are used (batch norm in training mode?), or axes are mixed up"
)
FIRST_UNSCORED = "the first step is not scored: a model has to predict x_1 from nothing"
STEP_UNSCORED = "a step is not scored: steps are skipped, or the model's frames are at another rate"
MISSING_LOG_SIGMA = (
    "the σ of a normalisation inside the model is forgotten: add its −Σ log σ to each step"
)
MISSING_HALF = "a ½ is missing in a Gaussian log-density or a KL"
VARIANCE_AS_STD = "a variance is taken for a standard deviation, or the other way round"
MISSING_LOG_2PI = "the constant ½ log 2π of the Gaussian density is missing"
MEAN_OF_LOGS = (
    "a mean of logs (or a bound) is given where the log of a mean belongs, or a constant is wrong"
)
PROPOSAL = (
    "log q is not the density that z was drawn from: a variance taken for a standard deviation, "
    "a ½ left out, another z, or an analytic KL in its place"
)
ANALYTIC_KL = (
    "log q is the same for all samples: an analytic KL instead of log q(z | x) at the sample"
)
ONE_SEED = "every call draws the same samples: take random numbers from the generator that is given"
SAME_SAMPLES = "all samples weigh the same: averaged over samples before the log of their mean"
DIVIDED_BY_LENGTH = "the total of a sequence is divided by its number of steps"
DEPENDS_ON_K = (
    "what is returned of one sample depends on num_samples: leave log K and the mean to us"
)


def audit(
    model: Any, task: Task, true_parameters: bool = False, samples: int = 200, seed: int = 0
) -> Audit:
    """Return what was checked of a model and what failed, after printing it.

    >>> repro.audit(my_log_prob, repro.task("jsb_chorales")).failed  # [] if nothing was found

    Args:
        model: as for `repro.evaluate`, except that the path of a checkpoint is not accepted; pass
            the model itself.
        task: the checks use its validation part.
        true_parameters: whether the model claims to have the true parameters of a linear-Gaussian
            task, so that it must agree with the Kalman filter.
        samples: importance samples of each estimate, for a model that is sampled.
        seed: of the random numbers.
    Raises:
        ConfigError: the model is of no kind that can be scored, or it claims to have the true
            parameters of a task that was not drawn from a linear-Gaussian model.
    """
    require_count("samples", samples, 2)
    require_count("seed", seed, 0)
    probe = Probe(scorer_of(model, task), task, samples, seed, true_parameters)
    if true_parameters and probe.true_parameters is None:
        raise ConfigError(
            f"true_parameters: {task.name} was not drawn from a linear-Gaussian model."
        )
    findings = [Finding("shapes and finite numbers", *_output(probe))]
    if findings[0].status == PASSED:
        filtered = f"{'agreement with' if true_parameters else 'not above'} the Kalman filter"
        checks = {**CHECKS, filtered: _kalman}
        findings += [Finding(name, *_observe(check, probe)) for name, check in checks.items()]
    found = Audit(probe.scorer.name, task.name, task.sha256, findings)
    print(found)
    return found


class Observation(NamedTuple):
    """What a check saw of a model: whether it passed, and the likely reason if not."""

    status: str
    seen: str
    reason: str = ""


def _observe(check: Callable[["Probe"], Observation], probe: "Probe") -> Observation:
    try:
        return check(probe)
    except Exception as error:  # of the model's own code, whatever that is
        return Observation(FAILED, f"the model raised {type(error).__name__}: {error}")


class Estimate(NamedTuple):
    """Log p(x) or a bound, (B,), and its standard error, 0 where it is exact."""

    value: Tensor
    error: Tensor


class Probe:
    """A model, and the sequences on which it is checked."""

    def __init__(self, scorer: Scorer, task: Task, samples: int, seed: int, claimed: bool) -> None:
        self.scorer, self.task, self.samples, self.seed = scorer, task, samples, seed
        self.claims_true_parameters = claimed
        longest = sorted(task.valid.lengths, reverse=True)
        self.steps = min(STEPS, longest[:3][-1])
        ids = [i for i, n in enumerate(task.valid.lengths) if n >= self.steps][:SEQUENCES]
        self.x = torch.stack([task.valid[i][: self.steps] for i in ids], dim=1)  # (T, B, D)
        T, B = self.steps, len(ids)
        self.full_lengths = torch.full((B,), T)
        self.ragged_lengths = torch.tensor([T, max(1, T // 2), T, max(1, T - 1), 1, T][:B])
        original = task.units == "original"
        self.std = task.std.float() if original else torch.ones(task.dim)

    @cached_property
    def total(self) -> Observation:
        """The check of total probability, whose reason explains other checks that fail."""
        return _probabilities_sum(self)

    @property
    def true_parameters(self) -> dict | None:
        """The true linear-Gaussian parameters, where the data were drawn with such."""
        return prepared.made_by(self.task.file).get("options", {}).get("parameters")

    def masked(self, lengths: Tensor, x: Tensor | None = None) -> Tensor:
        """Return x (T, B, D), `self.x` by default, cut to `lengths`: zero past each end."""
        x = self.x if x is None else x
        inside = real_steps(lengths, len(x)).unsqueeze(-1)
        return x.where(inside, 0.0)[: int(lengths.max())]

    def terms(self, x: Tensor, lengths: Tensor) -> Tensor | None:
        """Return log p(x_t | x_<t), (T, B), in nats; None if the model has no per-step terms."""
        if self.scorer.sampled:
            return None
        log_probs = self.scorer.exact(x, lengths)
        return log_probs if log_probs.ndim == 2 else None

    def log_weights(self, x: Tensor, lengths: Tensor, count: int, *purpose: int | str) -> Tensor:
        """Return log weights (K, B) in nats; for an exact model log p(x), with K = 1."""
        if not self.scorer.sampled:
            log_probs = self.scorer.exact(x, lengths)
            return (log_probs if log_probs.ndim == 1 else log_probs.sum(0)).unsqueeze(0)
        log_p, log_q = self.scorer.log_densities(
            x, lengths, count, generator(self.seed, "audit", *purpose)
        )
        return log_p - log_q

    def bound(self, x: Tensor, lengths: Tensor, *purpose: int | str) -> Estimate:
        """Return the mean log weight, whose error is better known than that of the IS estimate."""
        weights = self.log_weights(x, lengths, self.samples, *purpose)
        error = weights.std(0) if len(weights) > 1 else torch.zeros_like(weights[0])
        return Estimate(weights.mean(0), error / math.sqrt(len(weights)))


def _differ(one: Estimate, two: Estimate) -> Tensor:
    noise = MAX_STANDARD_ERRORS * (one.error**2 + two.error**2).sqrt()
    return (one.value - two.value).abs() > FLOAT32_TOLERANCE * (1.0 + one.value.abs()) + noise


def _compared(one: Estimate, two: Estimate, what: str, reason: str) -> Observation:
    gap = float((one.value - two.value).abs().max())
    failed = bool(_differ(one, two).any())
    error = float((one.error**2 + two.error**2).sqrt().max())
    seen = f"log p moves by up to {gap:.2g} nats {what}"
    seen += f" (sampling alone: ± {error:.2g})" if error else ""
    return Observation(FAILED, seen, reason) if failed else Observation(PASSED, seen)


def _output(probe: Probe) -> Observation:
    try:
        weights = probe.log_weights(
            probe.masked(probe.ragged_lengths), probe.ragged_lengths, probe.samples, "output"
        )
    except ReproError as error:
        return Observation(FAILED, str(error))
    if not weights.isfinite().all():
        return Observation(FAILED, f"log p has {int((~weights.isfinite()).sum())} not finite")
    return Observation(PASSED, "sampled" if probe.scorer.sampled else "exact")


def _repeats(probe: Probe) -> Observation:
    x = probe.masked(probe.ragged_lengths)
    one, two = (probe.log_weights(x, probe.ragged_lengths, 10, "repeat") for _ in range(2))
    gap = float((one - two).abs().max())
    failed = gap > FLOAT32_TOLERANCE * (1.0 + float(one.abs().max()))
    reason = (
        "random numbers are not drawn from the generator"
        if probe.scorer.sampled
        else "dropout is on (`model.eval()`), or an estimate is given as exact"
    )
    status = FAILED if failed else PASSED
    seen = f"a second call differs by up to {gap:.2g} nats"
    return Observation(status, seen, reason if failed else "")


def _fresh_samples(probe: Probe) -> Observation:
    """Another seed gives other samples; weights that do not depend on the sample say nothing."""
    if not probe.scorer.sampled:
        return Observation(UNCHECKED, "the model is exact")
    x = probe.masked(probe.ragged_lengths)
    one, two = (probe.log_weights(x, probe.ragged_lengths, 10, "fresh", i) for i in range(2))
    gap, spread = float((one - two).abs().max()), float(one.std(0).max())
    seen = f"samples of another seed differ by up to {gap:.2g} nats"
    failed = spread > FLOAT32_TOLERANCE and gap < FLOAT32_TOLERANCE * spread
    return Observation(FAILED, seen, ONE_SEED) if failed else Observation(PASSED, seen)


def _padding(probe: Probe) -> Observation:
    x = probe.masked(probe.ragged_lengths)
    longer = torch.cat([x, x.new_zeros(5, *x.shape[1:])])
    one = probe.bound(x, probe.ragged_lengths, "padding")
    two = probe.bound(longer, probe.ragged_lengths, "padding", 2)
    return _compared(one, two, "with 5 more steps of padding", PADDING_COUNTED)


def _neighbours(probe: Probe) -> Observation:
    x = probe.masked(probe.ragged_lengths)
    if x.shape[1] < 2:
        return Observation(UNCHECKED, "the valid part has one sequence")
    others = x.clone()
    others[:, 1:] = probe.masked(probe.ragged_lengths, _changed(probe, probe.x))[:, 1:]
    one, two = (probe.bound(v, probe.ragged_lengths, "neighbours") for v in (x, others))
    first = Estimate(one.value[:1], one.error[:1]), Estimate(two.value[:1], two.error[:1])
    return _compared(*first, "with other sequences in the batch", BATCH_STATISTICS)


def _order(probe: Probe) -> Observation:
    x, permutation = (
        probe.masked(probe.ragged_lengths),
        torch.arange(len(probe.ragged_lengths)).roll(1),
    )
    one = probe.bound(x, probe.ragged_lengths, "order")
    two = probe.bound(x[:, permutation], probe.ragged_lengths[permutation], "order", 2)
    inverse = permutation.argsort()
    restored = Estimate(two.value[inverse], two.error[inverse])
    return _compared(one, restored, "in a batch of another order", BATCH_STATISTICS)


def _changed(probe: Probe, x: Tensor) -> Tensor:
    return 1.0 - x if probe.task.kind == "binary" else x + probe.std


def _look_ahead(probe: Probe) -> Observation:
    terms = probe.terms(probe.x, probe.full_lengths)
    if probe.steps < 2 or terms is None:
        why = "sequences have one step" if probe.steps < 2 else NO_STEP_TERMS
        return Observation(UNCHECKED, f"{why}; total probability sees some of it")
    gaps = []
    for t in range(1, probe.steps):
        x = torch.cat([probe.x[:t], _changed(probe, probe.x[t:])])
        other = probe.terms(x, probe.full_lengths)
        gaps.append(float((terms - other)[:t].abs().max()))  # type: ignore[operator]
    gap = max(gaps)
    seen = f"log p(x_t | x_<t) moves by up to {gap:.2g} nats with later steps"
    failed = gap > FLOAT32_TOLERANCE * (1.0 + float(terms.abs().max()))
    return Observation(FAILED, seen, LOOK_AHEAD) if failed else Observation(PASSED, seen)


def _steps_sum(probe: Probe) -> Observation:
    terms = probe.terms(probe.x, probe.full_lengths)
    if terms is None:
        return Observation(UNCHECKED, NO_STEP_TERMS)
    gap = 0.0
    for t in range(1, probe.steps + 1):
        lengths = torch.full_like(probe.full_lengths, t)
        whole = probe.log_weights(probe.masked(lengths), lengths, 1)[0]
        gap = max(gap, float((terms[:t].sum(0) - whole).abs().max()))
    seen = f"the first t steps and a sequence of t steps differ by up to {gap:.2g} nats"
    failed = gap > FLOAT32_TOLERANCE * (1.0 + float(terms.sum(0).abs().max()))
    return Observation(FAILED, seen, LOOK_AHEAD) if failed else Observation(PASSED, seen)


def _longer(probe: Probe) -> Observation:
    if probe.task.kind != "binary" or probe.steps < 2:
        return Observation(UNCHECKED, "for sequences of discrete data only")
    rise = -math.inf
    before = Estimate(torch.zeros(len(probe.full_lengths)), torch.zeros(len(probe.full_lengths)))
    failed = False
    for t in range(1, probe.steps + 1):
        lengths = torch.full_like(probe.full_lengths, t)
        weights = probe.log_weights(probe.masked(lengths), lengths, probe.samples, "longer", t)
        now = Estimate(importance_weighted(weights), _importance_error(weights))
        gap = now.value - before.value
        noise = MAX_STANDARD_ERRORS * (now.error**2 + before.error**2).sqrt()
        failed = failed or bool((gap > FLOAT32_TOLERANCE * (1.0 + now.value.abs()) + noise).any())
        rise, before = max(rise, float(gap.max())), now
    seen = f"log p of t steps less that of t − 1 is at most {rise:.3g}"
    return Observation(FAILED, seen, LOOK_AHEAD) if failed else Observation(PASSED, seen)


def _importance_error(weights: Tensor) -> Tensor:
    return (1.0 / effective_sample_size(weights) - 1.0 / len(weights)).clamp(min=0.0).sqrt()


def _first(probe: Probe) -> Observation:
    one = torch.ones_like(probe.full_lengths)
    x = torch.cat([probe.x[:1], _changed(probe, probe.x[:1])], dim=1)
    lengths = torch.cat([one, one])
    log_probs = importance_weighted(probe.log_weights(x, lengths, probe.samples, "first"))
    spread = float(log_probs.max() - log_probs.min())
    flat = spread < FLOAT32_TOLERANCE and (
        probe.task.kind != "binary" or float(log_probs.abs().max()) < FLOAT32_TOLERANCE
    )
    seen = f"log p(x_1) is between {float(log_probs.min()):.4g} and {float(log_probs.max()):.4g}"
    reason = FIRST_UNSCORED if float(log_probs.abs().max()) < FLOAT32_TOLERANCE else LOOK_AHEAD
    return Observation(FAILED, seen, reason) if flat else Observation(PASSED, seen)


def _far(probe: Probe) -> Observation:
    if probe.task.kind == "binary":
        return Observation(UNCHECKED, "for real data only")
    smallest_falls = []
    for t in sorted({1, probe.steps}):
        lengths = torch.full_like(probe.full_lengths, t)
        x = probe.masked(lengths)
        far = x.clone()
        columns = slice(1, None) if probe.task.kind == "strokes" else slice(None)
        far[t - 1, :, columns] += FAR_STDS * probe.std[columns]
        near, moved = (
            importance_weighted(probe.log_weights(v, lengths, probe.samples, "far"))
            for v in (x, far)
        )
        smallest_falls.append((near - moved).nan_to_num(math.inf, math.inf).min())
    fall = float(min(smallest_falls))
    seen = f"log p falls by {fall:.3g} nats or more when a step moves by {FAR_STDS:g} σ"
    return Observation(FAILED, seen, LOOK_AHEAD) if fall < 1.0 else Observation(PASSED, seen)


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


def _total(probe: Probe) -> Observation:
    return probe.total


def _probabilities_sum(probe: Probe) -> Observation:
    kind, dim = probe.task.kind, probe.task.dim
    if kind != "binary" and (kind != "real" or dim > 1):
        return Observation(UNCHECKED, "for binary data, and real data of one dimension, only")
    whole = kind == "real" or dim <= ENUMERATED_BITS
    largest, reason, failed, noise = 0.0, "", False, 0.0
    seen = []
    for t in range(1, min(probe.steps, 2 if probe.scorer.sampled else 3) + 1):
        conditional = _conditional(probe, t)
        noise = max(noise, conditional.error)
        gap = conditional.total - 1.0
        wrong = (
            abs(gap) if whole else gap
        ) > TOTAL_TOLERANCE + MAX_STANDARD_ERRORS * conditional.error
        largest = max(largest, abs(gap))
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
            float(_importance_error(before)),
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
        log_p, log_q = probe.scorer.log_densities(
            probe.x, probe.full_lengths, 50, generator(probe.seed, "audit", "reason")
        )
        if float((log_p - log_q).std(0).max()) < FLOAT32_TOLERANCE:
            return SAME_SAMPLES
        if float(log_q.std(0).max()) < FLOAT32_TOLERANCE:
            return ANALYTIC_KL
        return _missing_constant(probe, conditional) or PROPOSAL
    averaged = t * (conditional.log_p + conditional.before) - (t - 1) * conditional.before
    if t > 1 and abs(float((averaged.exp() * conditional.weight).sum()) - 1.0) < TOTAL_TOLERANCE:
        return DIVIDED_BY_LENGTH
    if probe.task.kind == "binary":
        if float(conditional.log_p.abs().max()) < FLOAT32_TOLERANCE:
            return FIRST_UNSCORED if t == 1 else STEP_UNSCORED
        return LOOK_AHEAD if conditional.total > 1.0 else MEAN_OF_LOGS
    if float(conditional.log_p.max() - conditional.log_p.min()) < 1e-2:
        unscored = FIRST_UNSCORED if t == 1 else STEP_UNSCORED
        return unscored if float(conditional.log_p.abs().max()) < FLOAT32_TOLERANCE else LOOK_AHEAD
    share = conditional.log_p.exp() * conditional.weight / conditional.total
    mean = float((share * conditional.points).sum())
    spread = max(float((share * (conditional.points - mean) ** 2).sum()) ** 0.5, FLOAT32_TOLERANCE)
    squared = float(
        ((conditional.log_p / 2).exp() * conditional.weight).sum()
    )  # 1 if p is a density squared
    if constant := _missing_constant(probe, conditional):
        return constant
    known = [
        (MISSING_HALF, squared, (1.0, math.sqrt(2.0 * math.pi))),
        (MISSING_HALF, conditional.total, (math.sqrt(2.0), math.sqrt(0.5))),
        (VARIANCE_AS_STD, conditional.total, tuple(spread**n for n in (1, -1, 0.5, -0.5, 2, -2))),
    ]
    for reason, value, totals in known:
        if any(_explains(value, one) for one in totals):
            return reason
    return LOOK_AHEAD if conditional.total > 1.0 else MEAN_OF_LOGS


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


def _samples(probe: Probe) -> Observation:
    """Many samples in one call against few: the bound stays, IS does not fall."""
    if not probe.scorer.sampled:
        return Observation(UNCHECKED, "the model is exact")
    x, few, many = probe.masked(probe.full_lengths), 8, max(64, probe.samples)
    calls = [probe.log_weights(x, probe.full_lengths, few, "few", i) for i in range(many // few)]
    large = probe.log_weights(x, probe.full_lengths, many, "many")
    small = torch.cat(calls)
    bounds = [Estimate(w.mean(0), w.std(0) / math.sqrt(len(w))) for w in (small, large)]
    single = torch.stack([importance_weighted(w) for w in calls])
    error = (single.var(0) / len(single) + _importance_error(large) ** 2).sqrt()
    fall = single.mean(0) - importance_weighted(large)
    seen = (
        f"IS rises by {float(-fall.mean()):.3g} nats from K = {few} to {many}, the bound by "
        f"{float((bounds[1].value - bounds[0].value).mean()):.3g}"
    )
    if float(large.std(0).max()) < FLOAT32_TOLERANCE and bool(_differ(*bounds).any()):
        return Observation(FAILED, seen, SAME_SAMPLES)
    falls = bool((fall > FLOAT32_TOLERANCE * (1 + fall.abs()) + MAX_STANDARD_ERRORS * error).any())
    if falls or bool(_differ(*bounds).any()):
        return Observation(FAILED, seen, DEPENDS_ON_K)
    return Observation(PASSED, seen)


def _kalman(probe: Probe) -> Observation:
    """Not above the Kalman filter with the true parameters; equal to it where that is claimed."""
    claimed = probe.claims_true_parameters
    if probe.true_parameters is None:
        return Observation(UNCHECKED, "the data are not drawn from a linear-Gaussian model")
    x, lengths = probe.task.valid.padded(list(range(min(50, len(probe.task.valid)))))
    weights = probe.log_weights(x, lengths, probe.samples, "kalman")
    value, error = importance_weighted(weights), _importance_error(weights)
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
            known.append(
                (
                    VARIANCE_AS_STD,
                    _kalman_log_prob(probe, x, lengths, **dict.fromkeys(chosen, power)),
                )
            )
    for reason, wrong in known:
        if bool(((value - wrong).abs() <= limit + 1e-3 * wrong.abs()).all()):
            return reason
    if float((value - exact).mean()) > 0:
        return probe.total.reason or LOOK_AHEAD
    return "other parameters, or another model, than the data were drawn with"


CHECKS = {
    "same input, same output": _repeats,
    "another seed, other samples": _fresh_samples,
    "no effect of padding": _padding,
    "no effect of neighbours": _neighbours,
    "no effect of order": _order,
    "no look-ahead": _look_ahead,
    "steps sum to the total": _steps_sum,
    "longer is not more probable": _longer,
    "the first step is scored": _first,
    "steps far away are improbable": _far,
    "probabilities sum to 1": _total,
    "IS does not fall with K": _samples,
}
