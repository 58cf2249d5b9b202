"""The checks of an audit that compare a model's numbers on inputs that differ in one respect."""

import math

import torch
from torch import Tensor

from repro.errors import ReproError
from repro.inference.bounds import importance_weighted
from repro.results.findings import FAILED, PASSED, UNCHECKED
from repro.tasks.mistakes import (
    BATCH_STATISTICS,
    DEPENDS_ON_K,
    FIRST_UNSCORED,
    LOOK_AHEAD,
    ONE_SEED,
    PADDING_COUNTED,
    SAME_SAMPLES,
)
from repro.tasks.probe import (
    FLOAT32_TOLERANCE,
    MAX_STANDARD_ERRORS,
    Estimate,
    Observation,
    Probe,
    changed,
    importance_error,
)

NO_STEP_TERMS = "the model gives no exact log p of each step"
FAR_STDS = 1000.0  # standard deviations by which a step is moved to be improbable


def shapes_and_finite_numbers(probe: Probe) -> Observation:
    """Log p has the right shape and is finite."""
    try:
        weights = probe.log_weights(
            probe.masked(probe.ragged_lengths), probe.ragged_lengths, probe.samples, "output"
        )
    except ReproError as error:
        return Observation(FAILED, str(error))
    if not weights.isfinite().all():
        return Observation(FAILED, f"log p has {int((~weights.isfinite()).sum())} not finite")
    return Observation(PASSED, "sampled" if probe.scorer.sampled else "exact")


def same_input_same_output(probe: Probe) -> Observation:
    """The same input and seed give the same numbers."""
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


def another_seed_other_samples(probe: Probe) -> Observation:
    """Another seed gives other samples; weights that do not depend on the sample say nothing."""
    if not probe.scorer.sampled:
        return Observation(UNCHECKED, "the model is exact")
    x = probe.masked(probe.ragged_lengths)
    one, two = (probe.log_weights(x, probe.ragged_lengths, 10, "fresh", i) for i in range(2))
    gap, spread = float((one - two).abs().max()), float(one.std(0).max())
    seen = f"samples of another seed differ by up to {gap:.2g} nats"
    failed = spread > FLOAT32_TOLERANCE and gap < FLOAT32_TOLERANCE * spread
    return Observation(FAILED, seen, ONE_SEED) if failed else Observation(PASSED, seen)


def no_effect_of_padding(probe: Probe) -> Observation:
    """More padding changes nothing."""
    x = probe.masked(probe.ragged_lengths)
    longer = torch.cat([x, x.new_zeros(5, *x.shape[1:])])
    one = probe.bound(x, probe.ragged_lengths, "padding")
    two = probe.bound(longer, probe.ragged_lengths, "padding", 2)
    return _compared(one, two, "with 5 more steps of padding", PADDING_COUNTED)


def no_effect_of_neighbours(probe: Probe) -> Observation:
    """Other sequences in the batch change nothing."""
    x = probe.masked(probe.ragged_lengths)
    if x.shape[1] < 2:
        return Observation(UNCHECKED, "the validation part has one sequence")
    others = x.clone()
    others[:, 1:] = probe.masked(probe.ragged_lengths, changed(probe, probe.x))[:, 1:]
    one, two = (probe.bound(v, probe.ragged_lengths, "neighbours") for v in (x, others))
    first = Estimate(one.value[:1], one.error[:1]), Estimate(two.value[:1], two.error[:1])
    return _compared(*first, "with other sequences in the batch", BATCH_STATISTICS)


def no_effect_of_order(probe: Probe) -> Observation:
    """The order of the sequences in the batch changes nothing."""
    x = probe.masked(probe.ragged_lengths)
    permutation = torch.arange(len(probe.ragged_lengths)).roll(1)
    one = probe.bound(x, probe.ragged_lengths, "order")
    two = probe.bound(x[:, permutation], probe.ragged_lengths[permutation], "order", 2)
    inverse = permutation.argsort()
    restored = Estimate(two.value[inverse], two.error[inverse])
    return _compared(one, restored, "in a batch of another order", BATCH_STATISTICS)


def no_look_ahead(probe: Probe) -> Observation:
    """Log p(x_t | x_<t) does not depend on later steps."""
    terms = probe.terms(probe.x, probe.full_lengths)
    if probe.steps < 2 or terms is None:
        why = "sequences have one step" if probe.steps < 2 else NO_STEP_TERMS
        return Observation(UNCHECKED, f"{why}; total probability sees some of it")
    gaps = []
    for t in range(1, probe.steps):
        x = torch.cat([probe.x[:t], changed(probe, probe.x[t:])])
        other = probe.terms(x, probe.full_lengths)
        gaps.append(float((terms - other)[:t].abs().max()))  # type: ignore[operator]
    gap = max(gaps)
    seen = f"log p(x_t | x_<t) moves by up to {gap:.2g} nats with later steps"
    failed = gap > FLOAT32_TOLERANCE * (1.0 + float(terms.abs().max()))
    return Observation(FAILED, seen, LOOK_AHEAD) if failed else Observation(PASSED, seen)


def steps_sum_to_the_total(probe: Probe) -> Observation:
    """The terms of the first t steps sum to log p of a sequence of t steps."""
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


def longer_is_not_more_probable(probe: Probe) -> Observation:
    """A longer sequence of discrete data is not more probable than its beginning."""
    if probe.task.kind != "binary" or probe.steps < 2:
        return Observation(UNCHECKED, "for sequences of discrete data only")
    rise = -math.inf
    before = Estimate(torch.zeros(len(probe.full_lengths)), torch.zeros(len(probe.full_lengths)))
    failed = False
    for t in range(1, probe.steps + 1):
        lengths = torch.full_like(probe.full_lengths, t)
        weights = probe.log_weights(probe.masked(lengths), lengths, probe.samples, "longer", t)
        now = Estimate(importance_weighted(weights), importance_error(weights))
        gap = now.value - before.value
        noise = MAX_STANDARD_ERRORS * (now.error**2 + before.error**2).sqrt()
        failed = failed or bool((gap > FLOAT32_TOLERANCE * (1.0 + now.value.abs()) + noise).any())
        rise, before = max(rise, float(gap.max())), now
    seen = f"log p of t steps less that of t − 1 is at most {rise:.3g}"
    return Observation(FAILED, seen, LOOK_AHEAD) if failed else Observation(PASSED, seen)


def first_step_is_scored(probe: Probe) -> Observation:
    """The first step is scored: another x_1 has another log p."""
    one = torch.ones_like(probe.full_lengths)
    x = torch.cat([probe.x[:1], changed(probe, probe.x[:1])], dim=1)
    lengths = torch.cat([one, one])
    log_probs = importance_weighted(probe.log_weights(x, lengths, probe.samples, "first"))
    spread = float(log_probs.max() - log_probs.min())
    flat = spread < FLOAT32_TOLERANCE and (
        probe.task.kind != "binary" or float(log_probs.abs().max()) < FLOAT32_TOLERANCE
    )
    seen = f"log p(x_1) is between {float(log_probs.min()):.4g} and {float(log_probs.max()):.4g}"
    reason = FIRST_UNSCORED if float(log_probs.abs().max()) < FLOAT32_TOLERANCE else LOOK_AHEAD
    return Observation(FAILED, seen, reason) if flat else Observation(PASSED, seen)


def far_steps_are_improbable(probe: Probe) -> Observation:
    """A step that is moved far away becomes improbable."""
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


def is_does_not_fall_with_samples(probe: Probe) -> Observation:
    """Many samples in one call against few: the bound stays, IS does not fall."""
    if not probe.scorer.sampled:
        return Observation(UNCHECKED, "the model is exact")
    x, few, many = probe.masked(probe.full_lengths), 8, max(64, probe.samples)
    calls = [probe.log_weights(x, probe.full_lengths, few, "few", i) for i in range(many // few)]
    large = probe.log_weights(x, probe.full_lengths, many, "many")
    small = torch.cat(calls)
    bounds = [Estimate(w.mean(0), w.std(0) / math.sqrt(len(w))) for w in (small, large)]
    single = torch.stack([importance_weighted(w) for w in calls])
    error = (single.var(0) / len(single) + importance_error(large) ** 2).sqrt()
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


def _compared(one: Estimate, two: Estimate, what: str, reason: str) -> Observation:
    gap = float((one.value - two.value).abs().max())
    failed = bool(_differ(one, two).any())
    error = float((one.error**2 + two.error**2).sqrt().max())
    seen = f"log p moves by up to {gap:.2g} nats {what}"
    seen += f" (sampling alone: ± {error:.2g})" if error else ""
    return Observation(FAILED, seen, reason) if failed else Observation(PASSED, seen)


def _differ(one: Estimate, two: Estimate) -> Tensor:
    noise = MAX_STANDARD_ERRORS * (one.error**2 + two.error**2).sqrt()
    return (one.value - two.value).abs() > FLOAT32_TOLERANCE * (1.0 + one.value.abs()) + noise
