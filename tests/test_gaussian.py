"""Diagonal Gaussians against torch.distributions."""

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from repro.nn.gaussian import Gaussian, GaussianLayer, kl, log_probs_and_kl, standard_normal

pytestmark = pytest.mark.oracle


def random_gaussian(seed):
    g = torch.Generator().manual_seed(seed)
    mean, std = torch.randn(2, 7, 3, generator=g, dtype=torch.float64)
    return Gaussian(mean, std.abs() + 0.1)


def as_torch(gaussian):
    return Independent(Normal(gaussian.mean, gaussian.std), 1)


def test_log_density_and_kl_equal_torch_distributions():
    q, p = random_gaussian(0), random_gaussian(1)
    torch.testing.assert_close(q.log_prob(p.mean), as_torch(q).log_prob(p.mean))
    torch.testing.assert_close(kl(q, p), kl_divergence(as_torch(q), as_torch(p)))
    standard = standard_normal(q.mean)
    torch.testing.assert_close(kl(q, standard), kl_divergence(as_torch(q), as_torch(standard)))


@pytest.mark.parametrize("gradients", [True, False])
def test_the_three_terms_of_a_step_equal_torch_distributions(gradients):
    q, p, z = random_gaussian(0), random_gaussian(1), random_gaussian(2).mean
    with torch.set_grad_enabled(gradients):
        found = log_probs_and_kl(q, p, z)
    expected = as_torch(q).log_prob(z), as_torch(p).log_prob(z)
    torch.testing.assert_close(found, (*expected, kl_divergence(as_torch(q), as_torch(p))))


def test_the_three_terms_leave_their_inputs_as_they_are():
    q, p, z = random_gaussian(0), random_gaussian(1), random_gaussian(2).mean
    before = [tensor.clone() for tensor in (*q, *p, z)]
    with torch.no_grad():
        log_probs_and_kl(q, p, z)
    assert all(tensor.equal(old) for tensor, old in zip((*q, *p, z), before, strict=True))


def test_layer_gives_the_spread_that_its_paper_says():
    torch.manual_seed(0)
    for variance in (False, True):
        layer = GaussianLayer(4, 3, variance=variance).double()
        features = torch.randn(5, 4, dtype=torch.float64)
        raw = layer.linear(features)[:, 3:]
        softplus = torch.log(1 + torch.exp(raw))
        expected = (softplus + 1e-8).sqrt() if variance else softplus + 1e-4
        torch.testing.assert_close(layer(features).std, expected)


def test_extreme_inputs_stay_finite():
    layer = GaussianLayer(1, 1, variance=True)
    with torch.no_grad():
        layer.linear.weight.fill_(1.0)
    for value in (-1e4, 1e4):
        gaussian = layer(torch.tensor([[value]]))
        assert gaussian.log_prob(torch.zeros(1, 1)).isfinite().all()
