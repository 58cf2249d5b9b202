"""Bounds on log p(x) from per-step terms alone, independent of models and data sets."""

import math

import torch
from torch import Tensor

from repro.models.base import Terms


def elbo(terms: Terms, kl_weight: float | Tensor = 1.0) -> Tensor:
    """Return the evidence lower bound of each sequence for each sample, (K, B), in nats.

    Σ_t (log p(x_t | ·) − β KL_t), with the analytic KL of each step if the model has one, else
    log q − log p at the sample (Chung et al. 2015, eq. 11; Krishnan et al. 2017, eq. 6).
    Its mean over K estimates the bound; β = `kl_weight` < 1 anneals.
    """
    kl = terms.log_proposal - terms.log_prior if terms.kl is None else terms.kl
    return (terms.log_likelihood - kl_weight * kl).sum(0)


def importance_weighted(log_weight: Tensor) -> Tensor:
    """Return the importance-weighted estimate of log p(x) of each sequence, (B,), in nats.

    log (1/K) Σ_k w_k: a lower bound in expectation, tighter as K grows (Burda et al. 2016).

    Args:
        log_weight: log w = Σ_t (log p(x_t, z_t) − log q(z_t)), (K, B).
    """
    return torch.logsumexp(log_weight, dim=0) - math.log(len(log_weight))


def effective_sample_size(log_weight: Tensor) -> Tensor:
    """Return (Σ w)² / Σ w² of each sequence, (B,), between 1 and K, from log weights (K, B)."""
    return torch.exp(2 * torch.logsumexp(log_weight, 0) - torch.logsumexp(2 * log_weight, 0))
