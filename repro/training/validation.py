"""How good a model is on the validation part while it trains."""

from collections.abc import Callable

import torch
from torch import Tensor

from repro.data import batches
from repro.inference.bounds import importance_weighted
from repro.inference.objectives import annealed_elbo
from repro.models.base import SequenceModel, Terms
from repro.runtime.seeding import generator

# Sequences × samples per call; more if they are so short that the steps add up to less than this.
VALIDATION_ROWS, VALIDATION_STEPS = 50, 500
STEPS_AT_ONCE = 64


def validation_bound(
    model: SequenceModel, part: batches.Tensors | list[Tensor], seed: int
) -> float:
    """Return the ELBO of the validation part with one sample, in nats per step.

    The noise is the same at every call, so that epochs are compared on the same draw.
    """
    return _per_step(model, part, generator(seed, "validation", device=part[0].device), 1, _elbo)


def validation_is(
    model: SequenceModel, part: batches.Tensors | list[Tensor], seed: int, num_samples: int
) -> float:
    """Return the importance-weighted estimate of log p of the validation part, in nats per step.

    Compared with the bound, it tells whether a change is due to the model or to q. It has its own
    random numbers, the same at every call, so that a training is the same with and without it.
    """
    stream = generator(seed, "validation samples", device=part[0].device)
    return _per_step(model, part, stream, num_samples, _importance_weighted)


@torch.no_grad()
def _per_step(
    model: SequenceModel,
    part: batches.Tensors | list[Tensor],
    stream: torch.Generator,
    num_samples: int,
    summed: Callable[[Terms], float],
) -> float:
    model.eval()
    order, total, steps = batches.by_length(part), 0.0, 0
    longest = max(batches.lengths_of(part))
    size = max(1, max(VALIDATION_ROWS, VALIDATION_STEPS // longest) // num_samples)
    for start in range(0, len(order), size):
        batch = batches.collate(part, order[start : start + size])
        shape = (len(batch.x), num_samples, len(batch.ids), model.latent)
        noise = torch.randn(shape, generator=stream, device=batch.x.device)
        terms = model(batch.x, batch.lengths, noise, steps_at_once=STEPS_AT_ONCE)
        total += summed(terms)
        steps += int(batch.lengths.sum())
    return total / steps


def _elbo(terms: Terms) -> float:
    return annealed_elbo(terms, 1.0).item() * terms.log_likelihood.shape[2]


def _importance_weighted(terms: Terms) -> float:
    return importance_weighted(terms.log_weight.double().sum(0)).sum().item()
