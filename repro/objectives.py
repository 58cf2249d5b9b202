"""What training maximises."""

from torch import Tensor

from repro.bounds import elbo
from repro.models.base import Terms


def kl_weight(update: int, start: float, updates: int) -> float:
    """Return β of an update (from 0): it rises linearly from `start` to 1 over `updates`."""
    if update >= updates:
        return 1.0
    return start + (1.0 - start) * update / updates


def annealed_elbo(terms: Terms, weight: float) -> Tensor:
    """Return the mean over samples and sequences of the annealed ELBO, a scalar, nats/sequence."""
    return elbo(terms, weight).mean()
