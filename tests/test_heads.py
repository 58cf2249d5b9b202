"""Heads against enumeration, scipy and quadrature."""

import itertools

import numpy as np
import pytest
import torch
from conftest import BINARY, HEADS
from reference.parts import nade_log_prob
from scipy import integrate, stats

from repro.heads import nade, rbm
from repro.heads.basic import build_head
from repro.heads.nade import NadeHead

pytestmark = pytest.mark.oracle

SIZES = {
    "components": 3,
    "frame_hidden": 3,
    "nade_hidden": 5,
    "made_hidden": 30,
    "made_orders": 3,
    "rbm_hidden": 3,
    "rbm_gibbs_steps": 2,
    "rbm_chains": 4,
    "rbm_temperatures": 10,
}


def head_and_params(name, dim, seed=0):
    torch.manual_seed(seed)
    head = build_head(name, 4, dim, SIZES).double().eval()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    with torch.no_grad():
        return head, head(torch.randn(4, dtype=torch.float64))


STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)


@pytest.mark.parametrize("name", BINARY)
def test_probabilities_of_all_vectors_sum_to_one(name):
    head, params = head_and_params(name, 4)
    assert head.log_prob(params, STATES).exp().sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", ["nade", "made", "rbm"])
def test_every_vector_is_drawn_as_often_as_the_head_says(name):
    head, params = head_and_params(name, 4)
    count = 40_000
    many = tuple(p.expand(count, -1) for p in params)
    drawn = head.sample(many, torch.Generator().manual_seed(0))
    code = (drawn @ torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)).long()
    observed = torch.bincount(code, minlength=16).numpy()
    expected = head.log_prob(params, STATES).exp().detach().numpy() * count
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-6


def test_the_partition_function_is_the_same_over_either_layer():
    head, (hidden_bias, visible_bias) = head_and_params("rbm", 2)  # fewer visible than hidden units
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    energies = [
        visible_bias @ x + h @ hidden_bias + h @ head.read @ x
        for x in states
        for h in torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    ]
    expected = torch.logsumexp(torch.stack(energies), 0)
    torch.testing.assert_close(head.log_partition((hidden_bias, visible_bias)), expected)
    wide, params = head_and_params("rbm", 4)  # fewer hidden units
    by_states = torch.logsumexp(wide._score(params, STATES), 0)
    torch.testing.assert_close(wide.log_partition(params), by_states)


def test_annealed_importance_sampling_is_unbiased_with_any_number_of_temperatures():
    """Few temperatures give weights of high variance, whose mean is still right."""
    head, params = head_and_params("rbm", 4)
    exact = head.log_partition(params)
    stream, base = torch.Generator().manual_seed(0), torch.randn(4).double()
    rows = [*(p.expand(1, -1) for p in params), base]

    def estimate(chains, temperatures):
        with torch.no_grad():
            return (
                rbm.annealed_importance_sampling(head.read, *rows, chains, temperatures, stream)
                - exact
            )

    for temperatures in (1, 3):
        ratios = torch.cat([estimate(5, temperatures) for _ in range(4000)]).exp()
        assert (ratios.mean() - 1.0).abs() < 6 * ratios.std() / len(ratios) ** 0.5
    assert estimate(1000, 500).abs().item() < 0.02


def test_annealing_begins_at_the_datas_means_and_finds_modes_that_the_biases_hide():
    """An RBM that prefers all values or none: the biases favour none, the data have all."""
    wide = SIZES | {"rbm_hidden": 12, "rbm_chains": 50, "rbm_temperatures": 200}
    head = build_head("rbm", 1, 30, wide).double()
    with torch.no_grad():
        head.read.fill_(1.0)
    a, c = torch.full((1, 12), -18.0).double(), torch.full((1, 30), -4.0).double()
    exact = head._enumerated((a, c))
    head.train()
    head.log_prob((a, c), torch.ones(8, 30).double())
    assert head.eval().log_partition((a, c)).sub(exact).abs().item() < 0.1
    stream = torch.Generator().manual_seed(0)
    with torch.no_grad():
        assert (
            rbm.annealed_importance_sampling(head.read, a, c, c[0], 50, 200, stream).item()
            < exact.item() - 10.0
        )


def test_many_rows_are_annealed_in_chunks(monkeypatch):
    head, _ = head_and_params("rbm", 4)
    rows = torch.randn(2, 7, 3).double(), torch.randn(2, 7, 4).double()
    monkeypatch.setattr(rbm, "MAX_ENUMERATED_UNITS", 0)
    whole = head.log_partition(rows)
    monkeypatch.setattr(rbm, "MAX_HIDDEN_VALUES", 3 * 4 * 4)  # three rows at a time
    torch.testing.assert_close(head.log_partition(rows), whole, rtol=0, atol=1e-12)


def test_one_z_is_annealed_once_and_again_when_weights_biases_or_means_change(monkeypatch):
    head, _ = head_and_params("rbm", 4)
    a, c = torch.randn(1, 3).double(), torch.randn(1, 4).double()
    monkeypatch.setattr(rbm, "MAX_ENUMERATED_UNITS", 0)
    calls, original = [], rbm.annealed_importance_sampling

    def watch(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(rbm, "annealed_importance_sampling", watch)
    found = [head.log_partition((a, c)).item() for _ in range(3)]
    assert len(calls) == 1 and len(set(found)) == 1
    changes = [head.read.data, head.means, a, c]
    for count, changed in enumerate(changes, start=2):
        changed += 0.1
        found.append(head.log_partition((a, c)).item())
        assert len(calls) == count
        several = tuple(p.expand(2, -1) for p in (a, c))  # takes the other branch
        assert head.log_partition(several)[0].item() == pytest.approx(found[-1], abs=1e-12)
        calls.pop()
    assert len(set(found)) == 1 + len(changes)


def test_contrastive_divergence_with_many_steps_has_the_likelihoods_gradient():
    head, (a, c) = head_and_params("rbm", 4)
    x = STATES[torch.tensor([3, 3, 5, 9, 14])]
    params = [p.detach().requires_grad_() for p in (a, c)]
    wanted = (head.read, *params)
    exact = torch.autograd.grad(head.log_prob(params, x).mean(), wanted)
    head.train()
    head.gibbs_steps, found = 100, []
    torch.manual_seed(0)
    for _ in range(60):
        value = head.log_prob(params, x.repeat(100, 1)).mean()
        found.append(torch.autograd.grad(value, wanted))
    for i, expected in enumerate(exact):
        draws = torch.stack([gradients[i] for gradients in found])
        error = draws.std(0) / len(found) ** 0.5 + 1e-12
        assert ((draws.mean(0) - expected).abs() < 6 * error).all()


def test_made_in_training_is_a_density_in_every_order_and_orders_differ():
    head, params = head_and_params("made", 4)
    head.train()
    torch.manual_seed(0)
    densities = torch.stack([head.log_prob(params, STATES).exp() for _ in range(20)])
    torch.testing.assert_close(densities.sum(1), torch.ones(20).double())
    assert densities.std(0).max() > 0.01


def test_made_conditionals_see_only_what_comes_before():
    """The derivative of each logit by each value is zero where the order forbids it."""
    head, params = head_and_params("made", 4)
    for ranks, degrees in zip(head.ranks, head.degrees, strict=True):
        x = torch.rand(4, dtype=torch.float64)
        seen = torch.autograd.functional.jacobian(
            lambda x, r=ranks, d=degrees: head._logits(params, x, r, d), x
        )
        allowed = ranks.unsqueeze(1) > ranks  # row i may see column d
        assert (seen[~allowed] == 0).all() and (seen[allowed] != 0).all()


def test_made_is_trained_in_each_of_its_orders_and_no_other():
    head, params = head_and_params("made", 4)
    each = torch.stack(
        [
            head._log_prob(params, STATES, *pair)
            for pair in zip(head.ranks, head.degrees, strict=True)
        ]
    )
    head.train()
    drawn = torch.stack([head.log_prob(params, STATES) for _ in range(50)])
    same = (drawn.unsqueeze(1) == each).all(-1)  # (call, order)
    assert same.any(1).all() and same.any(0).all()


def test_mades_dropout_keeps_the_mean_of_its_logits_and_is_only_for_training():
    head, params = head_and_params("made", 4)
    order, x = (head.ranks[0], head.degrees[0]), STATES[9].expand(50_000, -1)
    head.drop.share = 0.3
    expected = head._logits(params, x[0], *order)
    head.drop.share = 0.0
    torch.testing.assert_close(head._logits(params, x[0], *order), expected, rtol=0, atol=0)
    head.train().drop.share = 0.3
    drawn = head._logits(params, x, *order).detach()
    error = drawn.std(0) / len(drawn) ** 0.5 + 1e-12
    assert ((drawn.mean(0) - expected).abs() < 6 * error).all() and drawn.std(0).max() > 0.1


def test_nade_in_chunks_is_nade_at_once(monkeypatch):
    head, params = head_and_params("nade", 4)
    whole = head.log_prob(params, STATES)
    monkeypatch.setattr(nade, "MAX_HIDDEN_VALUES", 3 * 5 * 5)  # three vectors at a time
    torch.testing.assert_close(head.log_prob(params, STATES), whole, rtol=0, atol=1e-12)


def test_nade_is_the_plain_loop():
    """Log-probability and all gradients, also of vectors with no ones and with nothing else."""
    torch.manual_seed(0)
    dim, hidden = 59, 5
    head = NadeHead(4, dim, hidden).double()
    x = torch.bernoulli(torch.full((7, dim), 0.4, dtype=torch.float64))
    x[1], x[4], x[5, 0], x[5, -1], x[6, 0], x[6, -1] = 0.0, 1.0, 1.0, 1.0, 0.0, 0.0
    features = torch.randn(7, 4, dtype=torch.float64)
    plain = {f"head.{name}": value for name, value in head.named_parameters()}
    expected = torch.stack([nade_log_prob(plain, *each) for each in zip(features, x, strict=True)])
    ours = head.log_prob(head(features), x)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    weights = torch.rand(7, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((weights * value).sum(), list(head.parameters()), retain_graph=True)
        for value in (ours, expected)
    ]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-11)


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


@pytest.mark.parametrize("name", ["gaussian", "gaussian_mixture", "autoregressive"])
def test_densities_integrate_to_one(name):
    head, params = head_and_params(name, 1)
    mass, _ = integrate.quad(
        lambda v: head.log_prob(params, torch.tensor([v], dtype=torch.float64)).exp().item(),
        -60,
        60,
        limit=500,
    )
    assert mass == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", ["bernoulli", "gaussian", "gaussian_mixture", "autoregressive"])
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
        many = params.expand(count, -1)  # logits, or the features that a frame starts from
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


def test_a_frame_of_two_values_has_mass_one_and_is_sampled_as_it_is_scored():
    """Sums over a fine grid: the mass, and the entropy, which samples must agree with."""
    head, features = head_and_params("autoregressive", 2)
    axis = torch.linspace(-30, 30, 1201, dtype=torch.float64)
    grid = head.log_prob(features, torch.cartesian_prod(axis, axis))
    cell = (axis[1] - axis[0]).item() ** 2
    assert grid.exp().sum().item() * cell == pytest.approx(1.0, abs=1e-4)
    entropy = -(grid.exp() * grid).sum().item() * cell
    count = 20_000
    x = head.sample(features.expand(count, -1), torch.Generator().manual_seed(0))
    log_p = head.log_prob(features, x)
    assert abs(log_p.mean().item() + entropy) < 6 * log_p.std().item() / count**0.5


@pytest.mark.parametrize("name", ["bivariate", "bivariate_mixture"])
def test_strokes_equal_scipy(name):
    head, params = head_and_params(name, 3)
    for lift in (0.0, 1.0):
        x = torch.tensor([lift, 0.3, -0.8], dtype=torch.float64)
        total = 0.0
        for m, weight in enumerate(params.log_weights.exp().tolist()):
            sx, sy = params.offset.std[m].tolist()
            cross = params.correlation[m].item() * sx * sy
            normal = stats.multivariate_normal(
                params.offset.mean[m].numpy(), [[sx**2, cross], [cross, sy**2]]
            )
            total += weight * normal.pdf(x[1:].numpy())
        chance = torch.sigmoid(params.lift).item()
        total *= chance if lift else 1.0 - chance
        assert head.log_prob(params, x).item() == pytest.approx(np.log(total), abs=1e-9)


def test_sampled_strokes_have_the_moments_of_their_mixture():
    head, params = head_and_params("bivariate_mixture", 3, seed=1)
    count = 100_000
    many = type(params)(
        params.lift.expand(count),
        params.log_weights.expand(count, -1),
        params.correlation.expand(count, -1),
        type(params.offset)(*(p.expand(count, -1, -1) for p in params.offset)),
    )
    x = head.sample(many, torch.Generator().manual_seed(0))
    weights, mean, std = params.log_weights.exp(), params.offset.mean, params.offset.std
    products = mean.prod(-1) + params.correlation * std.prod(-1)  # E Δx Δy of a component
    expected = [
        torch.sigmoid(params.lift),
        (weights * mean[:, 0]).sum(),
        (weights * mean[:, 1]).sum(),
        (weights * products).sum(),
    ]
    found = [x[:, 0], x[:, 1], x[:, 2], x[:, 1] * x[:, 2]]
    for values, truth in zip(found, expected, strict=True):
        assert (values.mean() - truth).abs() < 6 * values.std() / count**0.5


@pytest.mark.parametrize(
    "name",
    HEADS,
)
def test_far_away_values_give_finite_log_densities_and_gradients(name):
    torch.manual_seed(0)
    dim = 3 if name == "bivariate_mixture" else 2
    head = build_head(name, 4, dim, SIZES)
    features = (torch.randn(6, 4) * 100).requires_grad_()
    x = torch.full((6, dim), 1.0 if name in BINARY else 1000.0)
    log_p = head.log_prob(head(features), x)
    log_p.sum().backward()
    assert log_p.isfinite().all() and features.grad.isfinite().all()
