"""Score-function gradients against the exact gradient, by enumeration of every latent sequence."""

import itertools

import pytest
import torch
from conftest import spec

from repro.inference.objectives import annealed_elbo
from repro.models import build

pytestmark = pytest.mark.oracle
STEPS, LATENT, WEIGHT, GROUPS, SAMPLES = 3, 2, 0.7, 400, 50


def small(family, **sizes):
    torch.manual_seed(2)
    # In `eval`, the moments of the baseline do not change.
    return build(spec(family, "bernoulli", **sizes)).double().eval()


@pytest.fixture(params=[True, False], ids=["tsbn", "hmsbn"])
def model(request):
    return small("tsbn", latent=LATENT, previous_x=request.param)


@pytest.fixture(params=["tsbn", "hmsbn", "sbn of two layers"])
def any_model(request):
    if request.param.startswith("sbn"):
        return small("sbn", layers=[1] * LATENT)
    return small("tsbn", latent=LATENT, previous_x=request.param == "tsbn")


@pytest.fixture
def x():
    g = torch.Generator().manual_seed(0)
    return (torch.randn(STEPS, 1, 2, generator=g) > 0).double()


LENGTHS = torch.tensor([STEPS])


def weights_of(model):
    return {n: p for n, p in model.named_parameters() if not n.startswith("nvil")}


def exact_gradient(model, x):
    """The gradient of Σ_z q(z) Σ_t (log p(x_t | z) − β KL_t), with every z as one sample."""
    bits = itertools.product([0.0, 1.0], repeat=STEPS * LATENT)
    z = torch.tensor(list(bits)).double().view(-1, STEPS, LATENT).transpose(0, 1).unsqueeze(2)
    terms = model(x, LENGTHS, 24.0 * (0.5 - z))  # noise far on the side that makes this z
    assert terms.log_proposal.sum(0).exp().sum().item() == pytest.approx(1.0)
    values = (terms.log_likelihood - WEIGHT * terms.kl).sum(0)
    elbo = (terms.log_proposal.sum(0).exp() * values).sum()
    return torch.autograd.grad(elbo, list(weights_of(model).values()))


def estimates(model, x, together=1):
    """Gradients from GROUPS × SAMPLES draws: for each parameter (GROUPS, ...).

    `together` samples belong to one sequence; the sequence is in the batch several times.
    """
    g, found, copies = torch.Generator().manual_seed(0), [], SAMPLES // together
    for _ in range(GROUPS):
        noise = torch.randn(STEPS, together, copies, LATENT, generator=g, dtype=torch.float64)
        terms = model(x.expand(-1, copies, -1), LENGTHS.expand(copies), noise)
        surrogate = model.surrogate(x.expand(-1, copies, -1), LENGTHS.expand(copies), terms, WEIGHT)
        total = annealed_elbo(terms, WEIGHT) + surrogate
        found.append(torch.autograd.grad(total, list(weights_of(model).values())))
    return [torch.stack(parts) for parts in zip(*found, strict=True)]


@pytest.mark.parametrize("together", [1, 2, 5])
def test_mean_of_the_estimates_is_the_exact_gradient(together, any_model, x):
    found = estimates(any_model, x, together)
    for exact, draws in zip(exact_gradient(any_model, x), found, strict=True):
        error = draws.std(0) / GROUPS**0.5
        assert ((draws.mean(0) - exact).abs() <= 6 * error + 1e-12).all()


def test_variance_normalisation_divides_all_of_qs_gradient_and_nothing_else(any_model, x):
    """The score function's share alone would be the gradient of another objective."""
    exact = dict(zip(weights_of(any_model), exact_gradient(any_model, x), strict=True))
    any_model.nvil.variance.fill_(9.0)
    for (name, whole), draws in zip(exact.items(), estimates(any_model, x), strict=True):
        expected = whole / 3.0 if name.startswith(("posterior", "first", "up")) else whole
        error = draws.std(0) / GROUPS**0.5
        assert ((draws.mean(0) - expected).abs() <= 6 * error + 1e-12).all()


def test_without_the_score_function_the_gradient_is_wrong(any_model, x):
    """How the test above would fail for an estimator that forgets how z depends on q."""
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(STEPS, 20_000, 1, LATENT, generator=g, dtype=torch.float64)
    total = annealed_elbo(any_model(x, LENGTHS, noise), WEIGHT)
    partial = torch.autograd.grad(total, list(weights_of(any_model).values()))
    exact = exact_gradient(any_model, x)
    distances = [(a - b).norm() for a, b in zip(partial, exact, strict=True)]
    assert max(distances) > 0.05


def test_each_part_of_the_baseline_lowers_the_variance(model, x):
    """None; the mean; the network that has learned the values; other samples instead."""

    def variance(together=1):
        of_q = [i for i, name in enumerate(weights_of(model)) if name.startswith("posterior")]
        draws = estimates(model, x, together)
        return sum(draws[i].var(0).sum().item() for i in of_q)

    for parameter in model.nvil.network.parameters():
        parameter.data.zero_()
    found = [variance()]
    noise = torch.randn(STEPS, 20_000, 1, LATENT, dtype=torch.float64)
    with torch.no_grad():
        terms = model(x, LENGTHS, noise)
        values = (terms.log_likelihood - WEIGHT * terms.kl).mean((1, 2))
    model.nvil.mean.fill_(values.flip(0).cumsum(0).mean())
    found.append(variance())
    model.nvil.mean.zero_()
    torch.manual_seed(0)
    for parameter in model.nvil.network.parameters():
        torch.nn.init.normal_(parameter)
    optimizer = torch.optim.Adam(model.nvil.parameters(), lr=0.02)
    for _ in range(500):
        optimizer.zero_grad()
        (-model.surrogate(x, LENGTHS, terms, WEIGHT)).backward()
        optimizer.step()
    found.append(variance())
    assert found[0] > 1.5 * found[1] > 1.5 * found[2], found
    for parameter in model.nvil.network.parameters():
        parameter.data.zero_()
    assert variance(together=SAMPLES) < 0.5 * found[0]


def test_moments_follow_the_signal_and_padding_is_not_part_of_it(model):
    x = torch.ones(STEPS, 1000, 2).double()
    lengths = torch.tensor([STEPS, 1]).repeat(500)
    noise = torch.randn(STEPS, 1, 1000, LATENT, dtype=torch.float64)
    terms = model(x, lengths, noise)
    model.train()
    for parameter in model.nvil.network.parameters():
        parameter.data.zero_()
    for _ in range(60):
        model.surrogate(x, lengths, terms, 1.0)
    values = (terms.log_likelihood - terms.kl).flip(0).cumsum(0).flip(0)
    valid = torch.cat([values[:, 0, ::2].flatten(), values[0, 0, 1::2]])
    torch.testing.assert_close(model.nvil.mean, valid.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.nvil.variance, valid.var(), rtol=1e-4, atol=1e-4)


def test_a_net_of_one_layer_is_an_hmsbn_of_one_step(x):
    net, chain = small("sbn", layers=[3]), small("tsbn", latent=3, previous_x=False)
    with torch.no_grad():
        torch.nn.init.normal_(net.top)
        chain.prior_z.bias.copy_(net.top)
        chain.posterior_x.weight[:, : x.shape[-1]] = net.first.weight
        chain.posterior_x.bias.copy_(net.first.bias)
    chain.head.load_state_dict(net.head.state_dict())
    one, noise = torch.tensor([1]), torch.randn(1, 5, 1, 3, dtype=torch.float64)
    for ours, theirs in zip(net(x[:1], one, noise)[:4], chain(x[:1], one, noise)[:4], strict=True):
        torch.testing.assert_close(ours, theirs)


def test_layers_in_the_wrong_order_give_a_wrong_gradient(x):
    """How the test of the mean would fail for costs that leave out what depends on a layer."""
    net = small("sbn", layers=[1, 1])
    exact = exact_gradient(net, x)
    forward = net.forward
    net.forward = lambda *given: _reversed_layers(forward(*given))
    wrong = [
        ((draws.mean(0) - whole).abs() > 6 * draws.std(0) / GROUPS**0.5 + 1e-12).any()
        for whole, draws in zip(exact, estimates(net, x), strict=True)
    ]
    assert any(wrong)


def _reversed_layers(terms):
    return terms._replace(layers=terms.layers[::-1])
