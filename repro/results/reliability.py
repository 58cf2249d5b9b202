"""Whether an importance-sampled number can be trusted: effective sample size and Pareto k."""

import math
from dataclasses import dataclass

import numpy as np

from repro.config.traits import SAMPLED
from repro.results.record import Result

MIN_EFFECTIVE_SIZE = 2.0  # median over sequences; below it an estimate rests on one sample
RULE = (
    f"the median effective sample size is below {MIN_EFFECTIVE_SIZE:.0f} or the median Pareto k "
    "above min(1 − 1/log₁₀ K, 0.7)"
)


@dataclass(frozen=True)
class Reliability:
    """Medians over the test sequences and seeds of a cell.

    Attributes:
        size: effective sample size.
        pareto_k: shape of the weights' tail; NaN where it was not computed.
        doubtful: whether either of them says that more samples would still change the estimate.
    """

    size: float
    pareto_k: float
    doubtful: bool


def reliability(cell: list[Result]) -> Reliability:
    """Return how far a cell's importance-sampled estimate can be trusted, by its weights."""
    samples = cell[0].evaluation["num_samples"]
    size = _median(cell, "ess")
    known = all("pareto_k" in result.per_sequence for result in cell)
    k = _median(cell, "pareto_k") if known else math.nan
    sampled = cell[0].likelihood == SAMPLED
    return Reliability(size, k, sampled and is_doubtful(size, k, samples))


def is_doubtful(size: float, pareto_k: float, samples: int) -> bool:
    """Return whether more samples would still change an estimate, by RULE.

    Args:
        size, pareto_k: medians over sequences; NaN for a Pareto k that was not computed.
        samples: K.
    """
    return size < MIN_EFFECTIVE_SIZE or pareto_k > max_pareto_k(samples)


def max_pareto_k(num_samples: int) -> float:
    """Return the Pareto k up to which K samples suffice (Vehtari et al. 2024, arXiv 1507.02646)."""
    return min(1.0 - 1.0 / math.log10(num_samples), 0.7)


def _median(cell: list[Result], statistic: str) -> float:
    return float(np.median([result.values(statistic) for result in cell]))
