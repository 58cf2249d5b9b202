"""The particle filter against the Kalman filter, and resampling against its weights."""

import itertools
import math

import pytest
import torch
from conftest import LINEAR, spec
from reference.kalman import log_likelihood
from test_models import draw, terms_at_fixed_z

from repro.data.batches import Batch
from repro.evaluation.evaluate import filter_sequences
from repro.inference.objectives import by_iwae
from repro.inference.particle_filter import (
    fivo,
    multinomial,
    nasmc,
    particle_filter,
    resample,
    systematic,
)
from repro.kernels import dispatch
from repro.models import build

pytestmark = pytest.mark.oracle

SCHEMES = [systematic, multinomial]


def draws(steps, particles, runs, latent=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(steps, particles, runs, latent, generator=g, dtype=torch.float64)
    return noise, torch.rand(steps, particles, runs, generator=g, dtype=torch.float64)


def untrained(steps, runs, seed=1):
    """A linear model with an untrained recognition network, one sequence repeated."""
    torch.manual_seed(seed)
    model = build(spec("fixed_linear", initial_weights=0.2)).double().eval()
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, 1, 2, generator=g, dtype=torch.float64)
    exact = log_likelihood(x[:, 0].numpy(), *(torch.tensor(v).numpy() for v in LINEAR.values()))
    return model, x.expand(-1, runs, -1), torch.full((runs,), steps), exact


@pytest.mark.parametrize("scheme", SCHEMES)
def test_estimate_of_the_likelihood_is_unbiased(scheme):
    """E exp(FIVO) = p(x) by the Kalman filter, over many runs on one sequence."""
    steps, runs, particles = 3, 2000, 200
    model, x, lengths, exact = untrained(steps, runs)
    with torch.no_grad():
        estimates = fivo(model, x, lengths, *draws(steps, particles, runs), scheme)
    ratios = (estimates - exact).exp()
    error = ratios.std().item() / math.sqrt(runs)
    assert error < 0.05 and abs(ratios.mean().item() - 1.0) < 6 * error


def test_estimates_of_every_prefix_are_unbiased():
    """The recognition network has seen the future, which the estimate of p(x_≤t) must not show."""
    steps, runs = 4, 4000
    model, x, lengths, _ = untrained(steps, runs)
    with torch.no_grad():
        filtered = list(particle_filter(model, x, lengths, *draws(steps, 200, runs)))
    for t in range(1, steps + 1):
        prefix = x[:t, 0].numpy()
        exact = log_likelihood(prefix, *(torch.tensor(v).numpy() for v in LINEAR.values()))
        ratios = (filtered[t - 1].estimate - exact).exp()
        error = ratios.std().item() / math.sqrt(runs)
        assert error < 0.05 and abs(ratios.mean().item() - 1.0) < 6 * error


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tighter_than_plain_importance_weights_on_long_sequences(scheme):
    steps, runs, particles = 60, 100, 30
    model, x, lengths, exact = untrained(steps, runs)
    noise, uniforms = draws(steps, particles, runs)
    with torch.no_grad():
        filtered = fivo(model, x, lengths, noise, uniforms, scheme)
        log_weight = model(x, lengths, noise).log_weight.sum(0)
    plain = torch.logsumexp(log_weight, 0) - math.log(particles)
    error = math.hypot(filtered.std().item(), plain.std().item()) / math.sqrt(runs)
    assert filtered.mean() > plain.mean() + 6 * error
    assert filtered.mean() < exact + 6 * filtered.std() / math.sqrt(runs)


def test_with_the_exact_posterior_it_is_the_kalman_likelihood(ragged):
    options = {"parameters": LINEAR}
    exact = build(spec("linear_gaussian")._replace(options=options, sizes={}))
    x, lengths, noise = ragged(samples=8)
    estimate = fivo(exact, x, lengths, noise, torch.rand(noise.shape[:3]))
    expected = exact(x, lengths, noise).log_weight.sum(0)[0]
    torch.testing.assert_close(estimate, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", ["vrnn", "dmm"])
def test_without_resampling_it_is_the_importance_weighted_estimate(family, small_model, ragged):
    """Two particles never fall below an effective size of one."""
    model = small_model(family)
    x, lengths, noise = ragged(samples=2)
    estimate = fivo(model, x, lengths, noise, torch.rand(noise.shape[:3]))
    log_weight = model(x, lengths, noise).log_weight.sum(0)
    torch.testing.assert_close(estimate, torch.logsumexp(log_weight, 0) - math.log(2))


@pytest.mark.parametrize("family", ["vrnn", "dmm", "srnn"])
def test_gradient_without_resampling_is_that_of_the_importance_weighted_bound(family, ragged):
    torch.manual_seed(0)
    model = build(spec(family)).double()
    x, lengths, noise = ragged(samples=2)
    weights = list(model.parameters())
    estimate = fivo(model, x, lengths, noise, torch.rand(noise.shape[:3])).mean()
    bound, _ = by_iwae(model, x, lengths, noise, 1.0)
    pair = (torch.autograd.grad(value, weights, allow_unused=True) for value in (estimate, bound))
    for ours, theirs in zip(*pair, strict=True):
        if ours is not None or theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


def plain_fivo(model, x, noise, uniforms):
    """One sequence, particle by particle, ancestors by counting; how often it resampled."""
    count, total, resampled = noise.shape[1], 0.0, 0
    context, state = model.encode(x, torch.tensor([len(x)])), model.initial(count, x)
    log_w = [torch.zeros(()).double()] * count
    for t in range(len(x)):
        context_t = type(context)(*(c[t : t + 1] for c in context))
        state, step = model.propose(type(context)(*(c[t] for c in context)), state, noise[t])
        scored = model.score(context_t, type(step)(*(s.unsqueeze(0) for s in step))).log_weight
        log_w = [log_w[k] + scored[0, k, 0] for k in range(count)]
        w = [v.exp().item() for v in log_w]
        mean = sum(v.exp() for v in log_w) / count
        if t == len(x) - 1:
            return total + mean.log(), resampled
        if sum(w) ** 2 / sum(v * v for v in w) < count / 2:
            points = [(k + uniforms[t, 0, 0].item()) / count for k in range(count)]
            heap = list(itertools.accumulate(v / sum(w) for v in w))
            chosen = [sum(edge <= point for edge in heap) for point in points]
            state = type(state)(*(torch.stack([s[k] for k in chosen]) for s in state))
            total, log_w, resampled = total + mean.log(), [0.0 * v for v in log_w], resampled + 1


@pytest.mark.parametrize("family", ["vrnn", "dmm"])
def test_gradient_with_resampling_is_that_of_a_plain_loop_over_each_sequence(family, ragged):
    torch.manual_seed(0)
    model = build(spec(family)).double()
    x, lengths, noise = ragged(samples=6)
    x, uniforms = 3.0 * x, torch.rand(noise.shape[:3], dtype=torch.float64)  # surprising data
    weights, alone, times = list(model.parameters()), 0.0, 0
    for b, length in enumerate(lengths.tolist()):
        noise_b, uniforms_b = (v[:length, :, b : b + 1] for v in (noise, uniforms))
        estimate, resampled = plain_fivo(model, x[:length, b : b + 1], noise_b, uniforms_b)
        alone, times = alone + estimate, times + resampled
    together = fivo(model, x, lengths, noise, uniforms).sum()
    assert times > 0 and together.item() == pytest.approx(alone.item())
    pair = (torch.autograd.grad(value, weights, allow_unused=True) for value in (together, alone))
    for ours, theirs in zip(*pair, strict=True):
        if ours is not None or theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("objective", [fivo, lambda *a: nasmc(*a)[1]], ids=["fivo", "nasmc"])
def test_steps_that_share_a_weight_gradient_have_torchs(objective, ragged):
    torch.manual_seed(0)
    model = build(spec("vrnn"))
    x, lengths, noise = (v.float() if v.is_floating_point() else v for v in ragged(samples=6))
    weights, arguments = list(model.parameters()), (x, lengths, noise, torch.rand(noise.shape[:3]))
    with dispatch.using(linear_min_flops=0):
        ours = torch.autograd.grad(objective(model, *arguments).mean(), weights)
    with dispatch.plain_linear():
        theirs = torch.autograd.grad(objective(model, *arguments).mean(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_ancestors_are_drawn_in_proportion_to_their_weights(scheme):
    weights = torch.tensor([0.5, 0.0, 0.2, 0.3])
    runs = 20_000
    log_weight = weights.log().unsqueeze(1).expand(4, runs)
    points = scheme(torch.rand(4, runs, generator=torch.Generator().manual_seed(0)))
    ancestors = resample(log_weight, points)
    for k, weight in enumerate(weights.tolist()):
        count = (ancestors == k).double().sum(0)
        error = max(count.std().item(), 1e-9) / math.sqrt(runs)
        assert abs(count.mean().item() - 4 * weight) < 6 * error + 1e-9


@pytest.mark.parametrize("family", ["vrnn", "dmm"])
def test_a_sequences_estimate_does_not_depend_on_its_batch(family, small_model, ragged):
    model = small_model(family).float()
    x, lengths, _ = ragged(lengths=(6, 3, 5))
    x = x.float()
    together = filter_sequences(model, Batch(x, lengths, [4, 9, 2]), 20, seed=3)
    for b, (identity, length) in enumerate(zip([4, 9, 2], lengths.tolist(), strict=True)):
        alone = Batch(x[:length, b : b + 1], lengths[b : b + 1], [identity])
        torch.testing.assert_close(filter_sequences(model, alone, 20, seed=3)[0], together[b])


def test_nasmc_follows_the_filtering_posterior_found_by_enumeration():
    """Σ_t E ∇ [log p(x_t, z_t | ·) + log q(z_t | ·)] over it; K = 2000 leaves little bias."""
    steps, latent, particles, runs, groups = 3, 2, 2000, 4, 40
    torch.manual_seed(2)
    model = build(spec("tsbn", "bernoulli", latent=latent, previous_x=True)).double().eval()
    weights = [p for name, p in model.named_parameters() if not name.startswith("nvil")]
    g = torch.Generator().manual_seed(0)
    x, length = (torch.randn(steps, 1, 2, generator=g) > 0).double(), torch.tensor([steps])
    bits = torch.tensor(list(itertools.product([0.0, 1.0], repeat=steps * latent))).double()
    z = bits.view(-1, steps, latent).transpose(0, 1).unsqueeze(2)
    terms = model(x, length, 24.0 * (0.5 - z))  # noise far on the side that makes this z
    joint = (terms.log_likelihood + terms.log_prior).detach().cumsum(0)
    score = terms.log_likelihood + terms.log_prior + terms.log_proposal
    exact = torch.autograd.grad((torch.softmax(joint, dim=1) * score).sum(), weights)
    many, found = x.expand(-1, runs, -1), []
    for group in range(groups):
        noise, uniforms = draws(steps, particles, runs, latent, seed=group)
        estimate, objective = nasmc(model, many, length.expand(runs), noise, uniforms)
        assert not estimate.requires_grad
        found.append(torch.autograd.grad(objective, weights))
    for whole, parts in zip(exact, zip(*found, strict=True), strict=True):
        parts = torch.stack(parts)
        error = parts.std(0) / groups**0.5
        assert ((parts.mean(0) - whole).abs() <= 6 * error + 0.01 * whole.abs().max()).all()
        assert whole.abs().max() > 0.01


@pytest.mark.parametrize("family", ["vrnn", "dmm", "srnn", "storn"])
def test_nasmc_keeps_every_sample_constant(family):
    """With one particle: the gradient of log p(x, z) + log q(z | x) at constant z."""
    torch.manual_seed(0)
    model = build(spec(family)).double().eval()
    x, length = torch.randn(4, 1, 2, dtype=torch.float64), torch.tensor([4])
    noise, uniforms = draws(4, 1, 1)
    held = terms_at_fixed_z(model, x, length, draw(model, x, length, noise))
    score = (held.log_likelihood + held.log_prior + held.log_proposal).sum()
    weights = list(model.parameters())
    expected = torch.autograd.grad(score, weights, allow_unused=True)
    found = torch.autograd.grad(
        nasmc(model, x, length, noise, uniforms)[1], weights, allow_unused=True
    )
    for ours, theirs in zip(found, expected, strict=True):
        if ours is not None or theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_nasmc_learns_nothing_past_a_sequences_end():
    torch.manual_seed(0)
    model = build(spec("vrnn")).double().eval()
    x, noise, uniforms = torch.randn(5, 2, 2).double(), *draws(5, 6, 2)
    lengths = torch.tensor([5, 2])
    total = nasmc(model, x, lengths, noise, uniforms)[1]
    x[2:, 1] = 7.0
    torch.testing.assert_close(nasmc(model, x, lengths, noise, uniforms)[1], total)
