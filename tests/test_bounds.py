"""Bounds against a chain whose likelihood is known by enumeration, and against arithmetic."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import genpareto

from repro.inference.bounds import effective_sample_size, elbo, importance_weighted
from repro.inference.objectives import annealed_elbo
from repro.inference.pareto import pareto_k
from repro.models.base import Terms

pytestmark = pytest.mark.oracle


def discrete_chain(draws, seed=0):
    """log weights of a 2-state hidden Markov chain under a wrong proposal, and exact log p(x)."""
    rng = np.random.default_rng(seed)
    start, move = np.array([0.7, 0.3]), np.array([[0.9, 0.1], [0.4, 0.6]])
    emit, x = np.array([[0.8, 0.2], [0.3, 0.7]]), [0, 1, 1, 0, 1]
    exact = 0.0
    for states in np.ndindex(*[2] * len(x)):  # all 32 paths
        p = start[states[0]] * emit[states[0], x[0]]
        for t in range(1, len(x)):
            p *= move[states[t - 1], states[t]] * emit[states[t], x[t]]
        exact += p
    q = np.array([0.45, 0.55])
    z = rng.choice(2, p=q, size=(len(x), draws))
    log_prior = np.log(np.concatenate([start[z[:1]], move[z[:-1], z[1:]]]))
    terms = (np.log(emit[z, np.array(x)[:, None]]), log_prior, np.log(q[z]))
    return Terms(*(torch.tensor(t).unsqueeze(-1) for t in terms), kl=None), math.log(exact)


def test_bounds_agree_with_enumeration():
    terms, exact = discrete_chain(draws=200_000)
    log_weight = terms.log_weight.sum(0)
    weights = (log_weight - exact).exp()
    error = weights.std().item() / math.sqrt(len(weights))
    assert abs(weights.mean().item() - 1.0) < 6 * error  # E[w] = p(x)
    assert importance_weighted(log_weight).item() == pytest.approx(exact, abs=6 * error)
    bounds = elbo(terms)
    assert bounds.mean().item() < exact
    # The sampled-KL ELBO of a sample is its log weight.
    torch.testing.assert_close(bounds, log_weight)


def test_estimate_rises_with_samples_towards_the_exact_value():
    terms, exact = discrete_chain(draws=60_000, seed=1)
    log_weight = terms.log_weight.sum(0)
    means, errors = [], []
    for k in (1, 4, 16, 64):
        groups = torch.stack([importance_weighted(g) for g in log_weight.split(k) if len(g) == k])
        means.append(groups.mean().item())
        errors.append(groups.std().item() / math.sqrt(len(groups)))
    for lower, higher, error in zip(means, means[1:], errors, strict=False):
        assert higher > lower - 6 * error
    assert means[-1] < exact + 6 * errors[-1]


def test_effective_sample_size_at_its_extremes():
    equal = torch.zeros(10, 1)
    single = torch.full((10, 1), -1e4)
    single[3] = 0.0
    assert effective_sample_size(equal).item() == pytest.approx(10.0)
    assert effective_sample_size(single).item() == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [0.3, 1.0, 2.0])
def test_pareto_k_is_the_shape_that_the_weights_were_drawn_with(shape):
    weights = genpareto(shape).rvs((20_000, 20), random_state=0)
    found = pareto_k(np.log(weights))
    error = found.std(ddof=1) / math.sqrt(20)
    assert error < 0.05 and abs(found.mean() - shape) < 6 * error


def test_pareto_k_without_a_tail():
    assert pareto_k(np.zeros((20, 3))) is None
    assert (pareto_k(np.full((200, 3), -1e4)) == 0).all()


def test_annealing_weighs_only_the_kl():
    ones = torch.ones(4, 2, 3)
    terms = Terms(-ones, ones, ones, 2 * ones)
    assert annealed_elbo(terms, 0.25).item() == pytest.approx(4 * (-1 - 0.25 * 2))
