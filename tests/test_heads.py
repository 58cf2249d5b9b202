"""Heads against enumeration, scipy and quadrature."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from repro.nn.heads import build_head


def head_and_params(name, dim, seed=0):
    torch.manual_seed(seed)
    head = build_head(name, 4, dim, {"components": 3}).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        return head, head(torch.randn(4, dtype=torch.float64))


def test_bernoulli_probabilities_sum_to_one():
    head, logits = head_and_params("bernoulli", 4)
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
    assert head.log_prob(logits, states).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_gaussian_equals_scipy():
    head, params = head_and_params("gaussian", 3)
    x = torch.randn(3, dtype=torch.float64)
    expected = stats.norm(params.mean.numpy(), params.std.numpy()).logpdf(x.numpy()).sum()
    assert head.log_prob(params, x).item() == pytest.approx(expected, abs=1e-12)


def test_mixture_equals_scipy():
    head, params = head_and_params("gaussian_mixture", 2)
    log_weights, components = params
    x = torch.randn(2, dtype=torch.float64)
    expected = sum(
        w * stats.multivariate_normal(m.numpy(), np.diag(s.numpy() ** 2)).pdf(x.numpy())
        for w, m, s in zip(log_weights.exp().tolist(), *components, strict=True)
    )
    assert head.log_prob(params, x).item() == pytest.approx(np.log(expected), abs=1e-10)


@pytest.mark.parametrize("name", ["gaussian", "gaussian_mixture"])
def test_densities_integrate_to_one(name):
    head, params = head_and_params(name, 1)
    mass, _ = integrate.quad(
        lambda v: head.log_prob(params, torch.tensor([v], dtype=torch.float64)).exp().item(),
        -60,
        60,
        limit=500,
    )
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "gaussian_mixture"])
def test_samples_follow_the_density(name):
    """The mean of log p over samples is minus the entropy, here by enumeration or quadrature."""
    head, params = head_and_params(name, 1)
    count = 40_000
    if name == "gaussian_mixture":
        log_weights, components = params
        many = (
            log_weights.expand(count, -1),
            type(components)(*(c.expand(count, -1, -1) for c in components)),
        )
    elif name == "gaussian":
        many = type(params)(*(p.expand(count, -1) for p in params))
    else:
        many = params.expand(count, -1)
    x = head.sample(many, torch.Generator().manual_seed(0))
    log_p = head.log_prob(params, x)

    def weighted(v):
        value = head.log_prob(params, torch.tensor([v], dtype=torch.float64)).item()
        return np.exp(value) * value

    if name == "bernoulli":
        expected = weighted(0.0) + weighted(1.0)
    else:
        expected, _ = integrate.quad(weighted, -40, 40, limit=500)
    error = log_p.std().item() / count**0.5
    assert abs(log_p.mean().item() - expected) < 6 * error


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "gaussian_mixture"])
def test_far_away_values_give_finite_log_densities_and_gradients(name):
    torch.manual_seed(0)
    head = build_head(name, 4, 2, {"components": 3})
    features = (torch.randn(6, 4) * 100).requires_grad_()
    x = torch.full((6, 2), 1.0 if name == "bernoulli" else 1000.0)
    log_p = head.log_prob(head(features), x)
    log_p.sum().backward()
    assert log_p.isfinite().all() and features.grad.isfinite().all()
