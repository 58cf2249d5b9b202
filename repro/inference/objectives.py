"""The objectives that training maximises: ELBO, IWAE with VIMCO, FIVO and NASMC."""

from typing import Any

import torch
from torch import Tensor

from repro.errors import require_known
from repro.inference.bounds import elbo, importance_weighted
from repro.inference.particle_filter import fivo, nasmc
from repro.models.base import SequenceModel, Terms

FILTER_OBJECTIVES = ("fivo", "nasmc")


def annealed_elbo(terms: Terms, weight: float) -> Tensor:
    """Return the mean over samples and sequences of the annealed ELBO, a scalar, nats/sequence."""
    return elbo(terms, weight).mean()


def by_elbo(
    model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor, weight: float, state: Any
) -> tuple[Tensor, Tensor, Any]:
    """Return the annealed ELBO, what to maximise, and the state after these steps.

    The first two are scalars in nats per sequence. They differ only if no gradient flows through z;
    then the second adds the model's surrogate. Arguments as for `SequenceModel.advance`; weight: β
    of the KL.
    """
    terms, state = model.advance(x, lengths, noise, state)
    objective = annealed_elbo(terms, weight)
    surrogate = model.surrogate(x, lengths, terms, weight)
    return objective, objective if surrogate is None else objective + surrogate, state


def by_iwae(
    model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor, weight: float
) -> tuple[Tensor, Tensor]:
    """Return the importance-weighted bound of K samples, a scalar, and what to maximise.

    Both are in nats per sequence: log (1/K) Σ_k w_k with w = p(x | z) (p(z) / q(z | x))^β (Burda et
    al. 2016, arXiv 1509.00519, eq. 8). If z is discrete, the second has VIMCO's gradient, which
    needs K ≥ 2. Arguments as for `by_elbo`.
    """
    terms = model(x, lengths, noise)
    ratio = terms.log_prior - terms.log_proposal
    log_weight = (terms.log_likelihood + weight * ratio).sum(0)  # (K, B)
    bound = importance_weighted(log_weight)
    if not model.traits.discrete:
        return bound.mean(), bound.mean()
    score = vimco(log_weight.detach(), terms.log_proposal.sum(0))
    return bound.mean(), (bound + score).mean()


def vimco(log_weight: Tensor, log_q: Tensor) -> Tensor:
    """Return a surrogate with the score-function part of the gradient of log (1/K) Σ w, (B,).

    Σ_k (L − L_k) log q(z_k), where L is the bound and L_k the bound with w_k replaced by the
    geometric mean of the others, which does not depend on z_k: a baseline that needs no network
    (Mnih & Rezende 2016, arXiv 1602.06725, eq. 7 to 10).

    Args:
        log_weight: without a gradient.
        log_q: of the whole sequence. Both (K, B), K ≥ 2.
    """
    count = len(log_weight)
    mean_of_others = (log_weight.sum(0) - log_weight) / (count - 1)
    diagonal = torch.eye(count, dtype=torch.bool, device=log_weight.device).unsqueeze(-1)
    with_replaced = torch.where(
        diagonal, mean_of_others, log_weight.unsqueeze(1)
    )  # of sample j, its k replaced
    signal = importance_weighted(log_weight) - importance_weighted(with_replaced)
    return (signal * log_q).sum(0)


def by_filter(
    name: str,
    model: SequenceModel,
    x: Tensor,
    lengths: Tensor,
    noise: Tensor,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the particle filter's estimate of log p(x), a scalar, and what to maximise.

    Args:
        name: `fivo`, the estimate itself, or `nasmc`.
        random: the generator of the resampling's random numbers. The others as for `fivo`.
    Raises:
        ConfigError: there is no objective with this name.
    """
    require_known("objective", name, FILTER_OBJECTIVES)
    uniforms = torch.rand(noise.shape[:3], generator=random, device=noise.device)
    if name == "fivo":
        estimate = fivo(model, x, lengths, noise, uniforms).mean()
        return estimate, estimate
    estimate, surrogate = nasmc(model, x, lengths, noise, uniforms)
    return estimate.mean(), surrogate
