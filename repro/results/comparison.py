"""Tests over seeds of whether a cell's new trainings are as good as the stored ones."""

import math
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from scipy import stats
from scipy.special import stdtr

from repro.results.record import Result, paired_difference

LEVEL = 0.05  # chance that a run as good as the stored one is called worse anywhere in the table
POWER = 0.8  # the probability with which a detectable loss is found
MARGIN = 0.05  # nats per step; the DMM authors' own reruns spread as far
ROUNDING = 1e-6  # relative error of stored decimals and of sums


@dataclass(frozen=True)
class Comparison:
    """A new cell compared with the stored one, in nats per step, higher is better.

    Attributes:
        new, stored: means over seeds.
        error, degrees: standard error of their difference between independent seeds, and its
            degrees of freedom (infinite where a single seed on each side leaves only sequences).
        p_worse, p_better: one-sided p-values, before any correction for many cells.
    """

    new: float
    stored: float
    error: float
    degrees: float
    p_worse: float
    p_better: float

    @staticmethod
    def of(new: list[Result], old: list[Result], metric: str) -> "Comparison":
        """Return the comparison of two cells of one recipe on the same test sequences."""
        values, reference = (np.array([r.per_step(metric) for r in side]) for side in (new, old))
        if len(values) == len(reference) == 1:
            return _of_single_seeds(new[0], old[0], metric)
        same_seeds = [r.seed for r in new] == [r.seed for r in old]
        return compare_samples(values, reference, paired=same_seeds)

    def detectable(self, tests: int) -> float:
        """Return the loss that one of `tests` comparisons finds with probability POWER."""
        if math.isinf(self.degrees):
            return max(MARGIN, 3.0 * self.error)
        limit = stats.t.isf(LEVEL / (2 * tests), self.degrees)
        return float((limit + stats.t.isf(1.0 - POWER, self.degrees)) * self.error)


def compare_samples(new: np.ndarray, old: np.ndarray, paired: bool) -> Comparison:
    """Return the comparison of two samples of seeds; `paired` if both are in the same order."""
    difference = float(new.mean() - old.mean())
    rounding = ROUNDING * abs(old.mean())
    degrees = len(new) + len(old) - 2
    squares = ((new - new.mean()) ** 2).sum() + ((old - old.mean()) ** 2).sum()
    error = math.sqrt(squares / degrees * (1 / len(new) + 1 / len(old)))
    p_values = [_p_values(difference, error, degrees, rounding)]
    if paired:
        differences = new - old
        spread = float(differences.std(ddof=1) / math.sqrt(len(differences)))
        p_values.append(_p_values(difference, spread, len(differences) - 1, rounding))
    worse, better = (min(1.0, len(p_values) * min(side)) for side in zip(*p_values, strict=True))
    return Comparison(float(new.mean()), float(old.mean()), error, float(degrees), worse, better)


def holm(p_values: list[float]) -> list[bool]:
    """Return which hypotheses Holm's procedure rejects at LEVEL over all of them (Holm 1979)."""
    rejected = [False] * len(p_values)
    for rank, i in enumerate(np.argsort(p_values)):
        if p_values[i] > LEVEL / (len(p_values) - rank):
            break
        rejected[i] = True
    return rejected


def _p_values(
    difference: float, error: float, degrees: float, rounding: float
) -> tuple[float, float]:
    if abs(difference) <= rounding:
        return 1.0, 1.0
    if error <= rounding:  # runs are bitwise repeatable, and all seeds moved by the same amount
        return (0.0, 1.0) if difference < 0 else (1.0, 0.0)
    t = difference / error
    return float(stdtr(degrees, t)), float(stdtr(degrees, -t))  # Student's t below and above


def _of_single_seeds(new: Result, old: Result, metric: str) -> Comparison:
    _, error = paired_difference([new], metric, [old], metric)
    values = new.per_step(metric), old.per_step(metric)
    difference = values[0] - values[1]
    beyond = abs(difference) > max(MARGIN, 3.0 * error)
    worse, better = beyond and difference < 0, beyond and difference > 0
    return Comparison(*values, error, math.inf, float(not worse), float(not better))


def estimator(cell: list[Result]) -> str:
    """Return the metric closest to log p(x): the higher of IS and FIVO, both lower bounds."""
    if not all("particles" in r.evaluation for r in cell):
        return "is"
    fivo, sampled = (sum(r.per_step(metric) for r in cell) for metric in ("fivo", "is"))
    return "fivo" if fivo > sampled else "is"


def best_of(cells: list[list[Result]], metrics: list[str]) -> tuple[int, set[int]]:
    """Return the index of the best cell of one data set, and those that cannot be told from it.

    Args:
        cells: of different models, on the same test sequences.
        metrics: the statistic to use for each; nats per step, higher is better.
    """
    means = [np.mean([r.per_step(m) for r in c]) for c, m in zip(cells, metrics, strict=True)]
    best, below = int(np.argmax(means)), significantly_below(cells, metrics)
    return best, {i for i in range(len(cells)) if i != best and (i, best) not in below}


def significantly_below(cells: list[list[Result]], metrics: list[str]) -> set[tuple[int, int]]:
    """Return the pairs (i, j) of cells in which i is significantly worse than j, by two tests.

    Trainings are compared by the t-test of two samples of seeds (not paired, since the seeds of
    different models have nothing in common). Test sequences are shared by all models, so their
    differences are tested sequence by sequence. The larger p-value counts. If both have one seed,
    the loss must exceed MARGIN and three standard errors over sequences.

    Holm's correction is for all pairs, not for those with the best cell alone: which one is best is
    chosen by the same numbers, and the best of many equal cells is better than the others by luck.

    Args: as for `best_of`.
    """
    sides = list(zip(cells, metrics, strict=True))
    pairs = list(permutations(range(len(cells)), 2))
    rejected = holm([p_below(*sides[i], *sides[j]) for i, j in pairs])
    return {pair for pair, is_rejected in zip(pairs, rejected, strict=True) if is_rejected}


def p_below(cell: list[Result], metric: str, best: list[Result], best_metric: str) -> float:
    """Return the p-value of a cell's loss to another model's cell, the larger of two tests'.

    One test is over seeds, one over test sequences; see `significantly_below`. Where both cells
    have one seed it is 0 or 1, by MARGIN and three standard errors over sequences.
    """
    lengths = best[0].values("length")
    if len(lengths) == 1:
        return 1.0  # one sequence says nothing about others
    difference, error = paired_difference(cell, metric, best, best_metric)
    if len(cell) == len(best) == 1:
        return float(difference >= -max(MARGIN, 3.0 * error))
    values = np.array([r.per_step(metric) for r in cell])
    reference = np.array([r.per_step(best_metric) for r in best])
    rounding = ROUNDING * abs(float(reference.mean()))
    over_sequences, _ = _p_values(difference, error, len(lengths) - 1, rounding)
    return max(over_sequences, compare_samples(values, reference, paired=False).p_worse)
