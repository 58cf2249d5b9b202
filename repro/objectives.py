"""What training maximises."""

from typing import Any

import torch
from torch import Tensor

from repro.bounds import elbo
from repro.models.base import SequenceModel, Terms
from repro.particles import nasmc


def kl_weight(update: int, start: float, updates: int) -> float:
    """Return β of an update (from 0): it rises linearly from `start` to 1 over `updates`."""
    if update >= updates:
        return 1.0
    return start + (1.0 - start) * update / updates


def annealed_elbo(terms: Terms, weight: float) -> Tensor:
    """Return the mean over samples and sequences of the annealed ELBO, a scalar, nats/sequence."""
    return elbo(terms, weight).mean()


def by_elbo(
    model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor, weight: float, state: Any
) -> tuple[Tensor, Tensor, Any]:
    """Return the annealed ELBO, a scalar with its gradient, and the state after these steps.

    The second differs from the first where z cannot be differentiated through. Arguments as for
    `SequenceModel.advance`; weight: β of the KL.
    """
    terms, state = model.advance(x, lengths, noise, state)
    objective = annealed_elbo(terms, weight)
    surrogate = model.surrogate(x, lengths, terms, weight)
    return objective, objective if surrogate is None else objective + surrogate, state


def by_nasmc(
    model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the particle filter's estimate of log p(x), a scalar, and what to maximise (`nasmc`).

    Args:
        random: resampling draws from it. The others as for `nasmc`.
    """
    uniforms = torch.rand(noise.shape[:3], generator=random, device=noise.device)
    estimate, surrogate = nasmc(model, x, lengths, noise, uniforms)
    return estimate.mean(), surrogate
