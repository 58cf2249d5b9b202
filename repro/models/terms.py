"""The per-step terms of log p(x) that every model returns, and operations on them.

Axes as in `repro.models.base`; all log-densities are in nats.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from repro.data.batches import real_steps
from repro.nn.gaussian import Gaussian, log_probs_and_kl


class Layer(NamedTuple):
    """One layer's share of a step's `kl` and `log_proposal`, (T, K, B) each."""

    kl: Tensor
    log_proposal: Tensor


class Terms(NamedTuple):
    """Per-step terms of log p(x), (T, K, B) each, zero past each sequence's end.

    Attributes:
        log_likelihood: log p(x_t | z_≤t, x_<t).
        log_prior: log p(z_t | z_<t, x_<t) at the sample.
        log_proposal: log q(z_t | z_<t, x) at the sample.
        kl: analytic KL(q ‖ p) of the step given the sampled past, or None if there is none.
        layers: if a step has several layers of discrete latents, the share of each, in the order in
            which they are drawn; a share depends on no layer after its own.
        distributions: q(z_t | ·) and p(z_t | ·) of the steps that `score` was given, if the family
            provides them: Gaussians, or logits of binary z, of (T, ·, B, Z). Changed terms (`each`)
            do not have them.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor
    kl: Tensor | None
    layers: tuple[Layer, ...] = ()
    distributions: tuple[Gaussian, Gaussian] | tuple[Tensor, Tensor] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Terms":
        """Return the terms changed one by one; an absent KL stays absent."""
        return Terms(
            change(self.log_likelihood),
            change(self.log_prior),
            change(self.log_proposal),
            None if self.kl is None else change(self.kl),
            tuple(Layer(*(change(share) for share in layer)) for layer in self.layers),
        )

    @property
    def log_weight(self) -> Tensor:
        """log p(x_t, z_t | ·) − log q(z_t | ·), (T, K, B)."""
        return self.log_likelihood + self.log_prior - self.log_proposal


def gaussian_terms(log_likelihood: Tensor, q: Gaussian, p: Gaussian, z: Tensor) -> Terms:
    """Return the terms of a step whose proposal q and prior p over z (T, K, B, Z) are Gaussian."""
    log_q, log_p, divergence = log_probs_and_kl(q, p, z)
    return Terms(log_likelihood, log_p, log_q, divergence, distributions=(q, p))


def without_latent(log_likelihood: Tensor, lengths: Tensor) -> Terms:
    """Return the terms of an exact model: (T, B) log-likelihoods, no latent terms, K = 1."""
    log_likelihood = log_likelihood.unsqueeze(1)  # (T, 1, B)
    zero = torch.zeros_like(log_likelihood)
    return masked(Terms(log_likelihood, zero, zero, zero), lengths)


def masked(terms: Terms, lengths: Tensor) -> Terms:
    """Return the terms with zeros past each sequence's end."""
    inside = real_steps(lengths, len(terms.log_likelihood)).unsqueeze(1)  # (T, 1, B)
    return terms.each(lambda term: term.where(inside, 0.0))


def concatenate(scored: list[Terms]) -> Terms:
    """Return the terms of successive segments as those of the whole."""
    if len(scored) == 1:
        return scored[0]
    kl = [terms.kl for terms in scored if terms.kl is not None]
    layers = zip(*(terms.layers for terms in scored), strict=True)
    return Terms(
        torch.cat([terms.log_likelihood for terms in scored]),
        torch.cat([terms.log_prior for terms in scored]),
        torch.cat([terms.log_proposal for terms in scored]),
        torch.cat(kl) if kl else None,
        tuple(Layer(*map(torch.cat, zip(*parts, strict=True))) for parts in layers),
    )
