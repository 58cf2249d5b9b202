"""The tail of importance weights, by Pareto-smoothed importance sampling."""

from importlib.util import find_spec

import numpy as np

MIN_SAMPLES = 25  # with fewer, the largest fifth of them is too short a tail to fit
MIN_RANGE = 1e-9  # of log weights, nats; a smaller one is rounding


def pareto_k(log_weight: np.ndarray) -> np.ndarray | None:
    """Return the shape of the generalised Pareto distribution fitted to each sequence's tail, (B,).

    Above 0.5 the weights' variance is infinite; above 0.7 no practical number of samples suffices
    (Vehtari et al. 2024, arXiv 1507.02646). Equal weights (an exact posterior) have no tail: 0.

    Args:
        log_weight: (K, B).
    Returns:
        None if the tail cannot be fitted: below 25 samples, or without arviz-stats (which a
        machine that only trains and evaluates need not have).
    """
    if len(log_weight) < MIN_SAMPLES or find_spec("arviz_stats") is None:
        return None
    from arviz_stats.base import array_stats

    shapes = np.zeros(log_weight.shape[1])
    uneven = np.ptp(log_weight, axis=0) > MIN_RANGE
    if uneven.any():
        # psislw takes leave-one-out log-likelihoods, which are the negative log weights. If z is
        # discrete, the tail's smallest weights can be equal, which numpy would warn about.
        with np.errstate(divide="ignore", invalid="ignore"):
            shapes[uneven] = array_stats.psislw(-log_weight[:, uneven], axis=0)[1]
    return shapes
