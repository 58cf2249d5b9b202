"""Training by the importance-weighted bound: its gradient, with and without differentiable z."""

import itertools

import pytest
import torch
from conftest import spec

from repro.inference.objectives import by_iwae
from repro.models import build

pytestmark = pytest.mark.oracle
STEPS, LATENT, WEIGHT, GROUPS, COPIES = 3, 2, 0.7, 400, 50
LENGTHS = torch.tensor([STEPS])


@pytest.fixture
def x():
    g = torch.Generator().manual_seed(0)
    return (torch.randn(STEPS, 1, 2, generator=g) > 0).double()


@pytest.fixture(params=["tsbn", "sbn of two layers"])
def discrete(request):
    torch.manual_seed(2)
    if request.param == "tsbn":
        return build(spec("tsbn", "bernoulli", latent=LATENT)).double()
    return build(spec("sbn", "bernoulli", layers=[1] * LATENT)).double()


def weights_of(model):
    """All parameters except those of NVIL's baseline, which VIMCO does not need."""
    return [p for name, p in model.named_parameters() if not name.startswith("nvil")]


def exact_gradient(model, x):
    """The gradient of Σ_z Σ_z' q(z) q(z') log (w + w') / 2 over every pair of latent sequences."""
    bits = itertools.product([0.0, 1.0], repeat=STEPS * LATENT)
    z = torch.tensor(list(bits)).double().view(-1, STEPS, LATENT).transpose(0, 1).unsqueeze(2)
    terms = model(x, LENGTHS, 24.0 * (0.5 - z))  # noise far on the side that makes this z
    log_q = terms.log_proposal.sum(0).squeeze(-1)
    ratio = terms.log_prior - terms.log_proposal
    log_w = (terms.log_likelihood + WEIGHT * ratio).sum(0).squeeze(-1)
    pairs = torch.logaddexp(log_w[:, None], log_w) - torch.tensor(2.0).log()
    bound = ((log_q[:, None] + log_q).exp() * pairs).sum()
    return torch.autograd.grad(bound, weights_of(model)), bound.item()


def estimates(model, x):
    g, found, bounds = torch.Generator().manual_seed(0), [], []
    for _ in range(GROUPS):
        noise = torch.randn(STEPS, 2, COPIES, LATENT, generator=g, dtype=torch.float64)
        many, lengths = x.expand(-1, COPIES, -1), LENGTHS.expand(COPIES)
        bound, to_maximise = by_iwae(model, many, lengths, noise, WEIGHT)
        found.append(torch.autograd.grad(to_maximise, weights_of(model)))
        bounds.append(bound.detach())
    return [torch.stack(parts) for parts in zip(*found, strict=True)], torch.stack(bounds)


def test_vimco_has_the_exact_gradient_in_the_mean(discrete, x):
    found, bounds = estimates(discrete, x)
    gradients, value = exact_gradient(discrete, x)
    assert (bounds.mean() - value).abs() < 6 * bounds.std() / GROUPS**0.5
    for exact, draws in zip(gradients, found, strict=True):
        error = draws.std(0) / GROUPS**0.5
        assert ((draws.mean(0) - exact).abs() <= 6 * error + 1e-12).all()


def test_vimcos_baseline_lowers_the_variance(discrete, x, monkeypatch):
    def total():
        return sum(draws.var(0).sum().item() for draws in estimates(discrete, x)[0])

    def without_baseline(log_weight, log_q):
        return (torch.logsumexp(log_weight, 0) * log_q).sum(0)

    with_baseline = total()
    monkeypatch.setattr("repro.inference.objectives.vimco", without_baseline)
    assert with_baseline < 0.5 * total()


@pytest.mark.parametrize("family", ["vrnn", "dmm"])
def test_a_differentiable_z_weighs_the_gradients_of_single_samples(family):
    """∇ log Σ w = Σ_k w̃_k ∇ log w_k (Burda et al. 2016, eq. 14), each sample run alone."""
    torch.manual_seed(0)
    model = build(spec(family)).double()
    x, lengths = torch.randn(4, 1, 2).double(), torch.tensor([4])
    noise = torch.randn(4, 3, 1, model.latent).double()
    bound, to_maximise = by_iwae(model, x, lengths, noise, 1.0)
    weights = list(model.parameters())
    found = torch.autograd.grad(to_maximise, weights)
    log_w, alone = [], []
    for k in range(3):
        value = model(x, lengths, noise[:, k : k + 1]).log_weight.sum()
        log_w.append(value.detach())
        alone.append(torch.autograd.grad(value, weights))
    shares = torch.stack(log_w).exp() / torch.stack(log_w).exp().sum()
    assert bound.item() == pytest.approx(torch.stack(log_w).exp().mean().log().item())
    for ours, parts in zip(found, zip(*alone, strict=True), strict=True):
        expected = sum(share * part for share, part in zip(shares, parts, strict=True))
        torch.testing.assert_close(ours, expected)
