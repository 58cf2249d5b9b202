"""The particle filter: its estimate of log p(x), and training by it (FIVO, NASMC)."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from repro.inference.bounds import effective_sample_size, importance_weighted
from repro.kernels.dispatch import detached_samples
from repro.kernels.linear import deferred_weight_gradients
from repro.models.base import SequenceModel, Terms
from repro.models.time_loop import stack_steps, unbind_steps

Scheme = Callable[[Tensor], Tensor]


def systematic(uniforms: Tensor) -> Tensor:
    """Return K points in [0, 1), (K, B), evenly spaced from one uniform number of each sequence."""
    count = len(uniforms)
    steps = torch.arange(count, dtype=uniforms.dtype, device=uniforms.device).unsqueeze(1)
    return (steps + uniforms[:1]) / count


def multinomial(uniforms: Tensor) -> Tensor:
    """Return K independent points in [0, 1), (K, B)."""
    return uniforms


def resample(log_weight: Tensor, points: Tensor) -> Tensor:
    """Return the ancestor of each particle, (K, B), drawn in proportion to weights (K, B).

    A particle's ancestor is the one whose share of the unit interval contains its point (K, B).
    """
    shares = torch.softmax(log_weight, dim=0).cumsum(0)
    ancestors = torch.searchsorted(shares.T.contiguous(), points.T.contiguous(), right=True)
    return ancestors.T.clamp(max=len(log_weight) - 1)  # the last share may end below 1


def fivo(
    model: SequenceModel,
    x: Tensor,
    lengths: Tensor,
    noise: Tensor,
    uniforms: Tensor,
    scheme: Scheme = systematic,
) -> Tensor:
    """Return the particle filter's estimate of log p(x) of each sequence, (B,), in nats.

    Its expectation is a lower bound of log p(x) (Maddison et al. 2017, arXiv 1705.09279). The
    gradient flows through weights and z, not through the choice of ancestors, whose score functions
    are left out because of their variance (their section 4). Arguments as for `particle_filter`.
    """
    *_, last = particle_filter(model, x, lengths, noise, uniforms, scheme)
    return last.estimate


def nasmc(
    model: SequenceModel, x: Tensor, lengths: Tensor, noise: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the filter's estimate of log p(x), (B,), and what to maximise, a scalar.

    Neural adaptive sequential Monte Carlo (Gu, Ghahramani & Turner 2015, arXiv 1506.03338): the
    gradient of the scalar is the mean over sequences of

        Σ_t Σ_k w̃_t^k ∇ [log p(x_t, z_t^k | ·) + log q(z_t^k | ·)],

    with the filter's normalised weights w̃_t and every z held constant. It moves p up the likelihood
    and q towards the filtering posterior in the inclusive KL(p ‖ q), under which q must cover all
    of that posterior; the ELBO has KL(q ‖ p). Arguments as for `particle_filter`.
    """
    with detached_samples():
        steps = list(particle_filter(model, x, lengths, noise, uniforms))
    total = noise.new_zeros(noise.shape[2])
    for t, (terms, log_weight, _) in enumerate(steps):
        weight = torch.softmax(log_weight.detach(), dim=0).to(noise.dtype)
        score = terms.log_likelihood + terms.log_prior + terms.log_proposal
        total = total + (weight * score[0]).sum(0).where(t < lengths, 0.0)
    return steps[-1].estimate.detach(), total.mean()


class Filtered(NamedTuple):
    """After a step: its terms (1, K, B), log weights (K, B), and the estimate of log p(x_≤t), (B,).

    The weights are those since the last resampling. The estimate of p(x_≤t), not of its logarithm,
    is unbiased for every t, even if q has looked ahead. Past a sequence's end it stays the same.
    """

    terms: Terms
    log_weight: Tensor
    estimate: Tensor


def particle_filter(
    model: SequenceModel,
    x: Tensor,
    lengths: Tensor,
    noise: Tensor,
    uniforms: Tensor,
    scheme: Scheme = systematic,
) -> Iterator[Filtered]:
    """Yield the state of a particle filter after every step.

    The model's own q proposes; whenever the effective sample size falls below K/2, the estimate is
    multiplied by the mean weight and the particles are resampled (Maddison et al. 2017, algorithm
    1).

    Args:
        x: (T, B, D), zero past each length. lengths: (B,).
        noise: standard normal (T, K, B, Z).
        uniforms: in [0, 1), (T, K, B).
        scheme: `systematic` or `multinomial`.
    """
    count = noise.shape[1]
    state = model.initial(count, x)
    log_weight = noise.new_zeros(noise.shape[1:3], dtype=torch.float64)  # (K, B)
    estimate = log_weight[0]
    particle_index = torch.arange(count, device=x.device).unsqueeze(1)
    steps = zip(unbind_steps(model.encode(x, lengths)), noise.unbind(), strict=True)
    with deferred_weight_gradients(model):
        for t, (context, noise_t) in enumerate(steps):
            state, step = model.propose(context, state, noise_t)
            terms = model.score(stack_steps([context]), stack_steps([step]))
            increment = terms.log_weight[0].double()
            log_weight = log_weight + increment.where(t < lengths, 0.0)
            now = estimate + torch.logsumexp(log_weight, dim=0) - math.log(count)
            yield Filtered(terms, log_weight, now)
            detached = log_weight.detach()
            low_ess = (effective_sample_size(detached) < count / 2) & (t + 1 < lengths)
            if low_ess.any():
                points = scheme(uniforms[t].double())
                ancestors = resample(detached, points).where(low_ess, particle_index).unsqueeze(-1)
                state = type(state)(*(s.gather(0, ancestors.expand_as(s)) for s in state))
                estimate = estimate + importance_weighted(log_weight).where(low_ess, 0.0)
                log_weight = log_weight.where(~low_ess, 0.0)
