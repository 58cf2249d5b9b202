"""What every model promises, for each family that has a file."""

import itertools

import pytest
import torch
from conftest import BINARY, VARIANTS, dim_of, families, heads_of, spec
from reference import models as plain

from repro.errors import ConfigError
from repro.models import build
from repro.models.base import RENAMED_METHODS, ModelSpec, SequenceModel, Terms

pytestmark = pytest.mark.oracle

CASES = [
    (family, head, sizes)
    for family in families()
    for head in heads_of(family)
    for sizes in VARIANTS.get(family, {"": {}}).values()
]
LATENT = [case for case in CASES if build(spec(case[0])).latent]
PLAIN = [case for case in CASES if hasattr(plain, case[0])]
WITH_KL = [case for case in LATENT if not case[2].get("flows")]
ROUNDING = 1e-12  # of derivatives whose paths cancel


def kl_of(terms):
    """The KL of each step, analytic or at the sample."""
    return terms.log_proposal - terms.log_prior if terms.kl is None else terms.kl


@pytest.mark.parametrize(("family", "head", "sizes"), PLAIN)
def test_equals_plain_model_in_values_and_gradients(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    terms = model(x, lengths, noise)
    p = dict(model.named_parameters())
    known = p | dict(model.named_buffers())
    expected = [
        getattr(plain, family)(known, spec(family, head, **sizes).sizes, x[:n, b], noise[:n, k, b])
        for b, n in enumerate(lengths)
        for k in range(noise.shape[1])
    ]
    sums = {}
    for i, name in enumerate(Terms._fields[:4]):
        term = kl_of(terms) if name == "kl" else getattr(terms, name)
        ours = term.permute(2, 1, 0)  # (B, K, T)
        flat = torch.cat(
            [ours[b, k, :n] for b, n in enumerate(lengths) for k in range(len(ours[b]))]
        )
        theirs = torch.stack([step[i] for sequence in expected for step in sequence])
        torch.testing.assert_close(flat, theirs, rtol=1e-10, atol=1e-10)
        sums[name] = (ours.sum(), theirs.sum())
    elbos = [
        likelihood - kl for likelihood, kl in zip(sums["log_likelihood"], sums["kl"], strict=True)
    ]
    gradients = [torch.autograd.grad(elbo, list(p.values()), allow_unused=True) for elbo in elbos]
    for name, ours, theirs in zip(p, *gradients, strict=True):
        if ours is not None or theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10, msg=name)


@pytest.mark.parametrize(("family", "head", "sizes"), PLAIN)
def test_float32_stays_within_1e5_of_float64(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    exact = model(x, lengths, noise).log_weight.sum(0)
    single = model.float()(x.float(), lengths, noise.float()).log_weight.sum(0)
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_terms_do_not_depend_on_neighbours_or_padding(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    together = model(x, lengths, noise).log_weight
    for b, length in enumerate(lengths.tolist()):
        alone = model(x[:length, b : b + 1], lengths[b : b + 1], noise[:length, :, b : b + 1])
        torch.testing.assert_close(together[:length, :, b], alone.log_weight[:, :, 0])
        assert (together[length:, :, b] == 0).all()


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_values_in_the_padding_change_nothing(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    filled = x.clone()
    for b, length in enumerate(lengths.tolist()):
        filled[length:, b] = 1.0
    a, b = (model(values, lengths, noise).log_weight for values in (x, filled))
    torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize(("family", "head", "sizes"), LATENT)
def test_scoring_in_blocks_equals_scoring_at_once(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent)
    whole, blocks = (model(x, lengths, noise, steps_at_once=n) for n in (None, 2))
    for ours, theirs in zip(whole, blocks, strict=True):
        torch.testing.assert_close(ours, theirs)


def forget(model):
    """Make a recognition network's RNNs see one step each, so that cuts in time hide nothing."""
    for name, p in model.named_parameters():
        if "rnns" in name and "weight_hh" in name:
            p.data.zero_()
        if "lstm" in name:
            p.data.chunk(4)[1].fill_(-1e6 if "bias" in name else 0.0)  # the forget gate


@pytest.mark.parametrize("family", ["dmm", "vrnn", "storn", "srnn", "tsbn"])
def test_what_is_dropped_of_the_inputs_is_read_by_no_generative_term(family, small_model, ragged):
    """With every z fixed and everything dropped, p(x_T | ·) is the same for any x before."""
    sizes = {"previous_x": True} if family in ("dmm", "tsbn") else {}
    model = small_model(family, **sizes, input_dropout=1.0 - 1e-12)
    x, lengths, noise = ragged(lengths=(4,), latent=model.latent, samples=1)
    z = draw(model, x, lengths, noise)
    other, found = torch.cat([2.0 * x[:-1], x[-1:]]), []
    for training in (False, True):
        model.train(training)
        terms = (terms_at_fixed_z(model, each, lengths, z) for each in (x, other))
        found.append([each.log_likelihood[-1] for each in terms])
    assert not torch.allclose(*found[0])
    torch.testing.assert_close(*found[1])


@pytest.mark.parametrize(
    ("family", "head", "sizes"), [case for case in CASES if build(spec(case[0])).can_continue]
)
@pytest.mark.parametrize("steps_at_once", [None, 1])
def test_segments_with_carried_state_equal_the_whole(
    family, head, sizes, steps_at_once, small_model, ragged
):
    model = small_model(family, head, **sizes)
    forget(model)
    samples = 2 if model.latent else 1
    x, lengths, noise = ragged(head, lengths=(6, 6), latent=model.latent, samples=samples)
    whole, state, cut = model(x, lengths, noise), None, []
    for part, part_noise in zip(x.split(4), noise.split(4), strict=True):
        here = torch.full_like(lengths, len(part))
        terms, state = model.advance(part, here, part_noise, state, steps_at_once)
        cut.append(terms)
    for ours, *theirs in zip(whole[:3], *(terms[:3] for terms in cut), strict=True):
        torch.testing.assert_close(ours, torch.cat(theirs))
    torch.testing.assert_close(kl_of(whole), torch.cat([kl_of(terms) for terms in cut]))


@pytest.mark.parametrize("family", ["storn", "srnn"])
def test_a_family_that_cannot_continue_from_a_state_says_so(family, small_model, ragged):
    model = small_model(family)
    x, lengths, noise = ragged(latent=model.latent)
    _, state = model.advance(x, lengths, noise)
    with pytest.raises(ConfigError, match="cannot continue from the state of an earlier segment"):
        model.advance(x, lengths, noise, state)


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_generative_terms_do_not_look_at_the_future(family, head, sizes, small_model, ragged):
    """With every z fixed, log p(x_t | ·) at t ignores x_>t and log p(z_t | ·) ignores x_≥t."""
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, lengths=(5,), latent=model.latent, samples=1)
    terms = terms_at_fixed_z(model, x.requires_grad_(), lengths, draw(model, x, lengths, noise))
    for t in range(len(x)):
        (likelihood,) = torch.autograd.grad(terms.log_likelihood[t].sum(), x, retain_graph=True)
        assert (likelihood[t + 1 :].abs() < ROUNDING).all()
        if terms.log_prior.requires_grad:
            (prior,) = torch.autograd.grad(
                terms.log_prior[t].sum(), x, retain_graph=True, allow_unused=True
            )
            assert prior is None or (prior[t:].abs() < ROUNDING).all()


@pytest.mark.parametrize(
    ("family", "head", "sizes"),
    [case for case in CASES if case[1] in BINARY],
)
def test_probabilities_of_the_next_step_sum_to_one(family, head, sizes, small_model, ragged):
    """Over all values of x_t at fixed z and x_<t; they would not if the decoder had seen x_t."""
    model = small_model(family, head, dim=3, **sizes)
    x, lengths, noise = ragged(head, dim=3, lengths=(4,), latent=model.latent, samples=1)
    z, total = draw(model, x, lengths, noise), 0.0
    for values in itertools.product([0.0, 1.0], repeat=3):
        x[-1, 0] = torch.tensor(values)
        total += terms_at_fixed_z(model, x, lengths, z).log_likelihood[-1].exp().item()
    assert total == pytest.approx(1.0, abs=1e-12)


def _steps(context):
    return [type(context)(*fields) for fields in zip(*(f.unbind() for f in context), strict=True)]


def draw(model, x, lengths, noise):
    if not model.latent:
        return None
    with torch.no_grad():
        state, drawn = model.initial(noise.shape[1], x), []
        for context, noise_t in zip(_steps(model.encode(x, lengths)), noise, strict=True):
            state, step = model.propose(context, state, noise_t)
            drawn.append(step.z)
    return drawn


def terms_at_fixed_z(model, x, lengths, z):
    """The terms when q is made to draw these z: the noise follows x, z does not."""
    if z is None:
        return model(x, lengths, x.new_zeros(len(x), 1, x.shape[1], 0))
    context = model.encode(x, lengths)
    state, steps = model.initial(1, x), []
    for at_t, z_t in zip(_steps(context), z, strict=True):
        if model.traits.discrete:  # of 0 and 1: noise far on either side
            state, step = model.propose(at_t, state, torch.where(z_t > 0.5, -12.0, 12.0))
            steps.append(step)
            continue
        if getattr(model, "flows", None):
            state, step = model.propose(at_t, state, through_flows(model, at_t, state, z_t))
            steps.append(step)
            continue
        zero = torch.zeros_like(z_t)
        _, centre = model.propose(at_t, state, zero)
        _, edge = model.propose(at_t, state, zero + 1.0)
        state, step = model.propose(at_t, state, (z_t - centre.z) / (edge.z - centre.z))
        steps.append(step)
    stacked = type(steps[0])(*(torch.stack(f) for f in zip(*steps, strict=True)))
    return model.score(context, stacked)


def through_flows(model, at_t, state, z_t):
    """The noise that flows change into z_t, by Newton's method; its derivatives are exact, too."""

    def drawn(noise):
        return model.propose(at_t, state, noise.view_as(z_t))[1].z.flatten()

    noise = torch.zeros_like(z_t.flatten())
    for _ in range(30):
        slope = torch.autograd.functional.jacobian(drawn, noise.detach())
        noise = noise.detach() - torch.linalg.solve(slope, drawn(noise.detach()) - z_t.flatten())
    return noise.view_as(z_t)


@pytest.mark.parametrize(("family", "head", "sizes"), WITH_KL)
def test_analytic_kl_is_the_mean_of_its_samples(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, _ = ragged(head, lengths=(1, 1))
    draws = 20_000
    g = torch.Generator().manual_seed(3)
    noise = torch.randn(1, draws, 2, model.latent, generator=g, dtype=torch.float64)
    with torch.no_grad():
        terms = model(x, lengths, noise)
    sampled = terms.log_proposal - terms.log_prior
    error = sampled.std(1) / draws**0.5
    # Where q and p are the same, both are 0 but for rounding.
    assert ((sampled.mean(1) - terms.kl.mean(1)).abs() <= 6 * error + 1e-12).all()


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_gradients_reach_every_parameter(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes)
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    terms = model(x, lengths, noise)
    rest = model.surrogate(x, lengths, terms, 1.0)
    total = (terms.log_likelihood - kl_of(terms)).sum()
    (total if rest is None else total + rest).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_dropout_of_an_rnn_spares_its_memory(small_model, ragged):
    """Step by step with the same masks: on the input, and on what is read from h."""
    model = small_model("rnn", "gaussian", dropout=0.4).train()
    x, lengths, noise = ragged(latent=0, samples=1)
    steps, batch = x.shape[:2]
    drops = model.drop_features, model.drop_hidden
    for drop in drops:
        drop.mask = drop.draw(steps, batch, x)
    terms, _ = model.advance(x, lengths, noise)
    w_x, w_h, b_x, b_h = model.lstm.parameters()
    hidden = cell = x.new_zeros(batch, model.lstm.hidden_size)
    for t in range(steps):
        read = model.head(model.decoder(drops[1].mask[t] * hidden))
        expected = model.head.log_prob(read, x[t]) * (t < lengths)
        torch.testing.assert_close(terms.log_likelihood[t, 0], expected)
        pushed = drops[0].mask[t] * model.features(x[t])
        i, f, g, o = (pushed @ w_x.T + b_x + hidden @ w_h.T + b_h).chunk(4, dim=-1)
        cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_samples_have_the_requested_shape_and_follow_the_generator(
    family, head, sizes, small_model
):
    model = small_model(family, head, **sizes).float()
    with torch.no_grad():
        a, b = (model.sample(4, 6, torch.Generator().manual_seed(5)) for _ in range(2))
    assert a.shape == (6, 4, dim_of(head)) and a.isfinite().all() and a.equal(b)


def test_sampled_first_steps_have_the_likelihood_the_model_gives_them(small_model):
    """E over samples of log p(x_1) equals E under quadrature: sampler and density agree."""
    model = small_model("rnn", "gaussian", dim=1).float()
    with torch.no_grad():
        x = model.sample(50_000, 1, torch.Generator().manual_seed(0))
        lengths = torch.ones(x.shape[1], dtype=torch.long)
        log_p = model(x, lengths, x.new_zeros(1, 1, x.shape[1], 0)).log_likelihood
        params = model.head(model.decoder(torch.zeros(1, 1, 6)))
    entropy = 0.5 * torch.log(2 * torch.pi * torch.e * params.std**2)
    error = log_p.std() / x.shape[1] ** 0.5
    assert (log_p.mean() + entropy).abs() < 6 * error


def test_an_own_model_is_loaded_by_its_full_name():
    own = ModelSpec("own", "reference.own:build", "gaussian", {"scale": 2.0}, 1, [0.0], [1.0], {})
    assert build(own).scale == 2.0


@pytest.mark.parametrize(("old", "new"), sorted(RENAMED_METHODS.items()))
def test_a_method_under_its_old_name_still_works_and_names_the_new_one(old, new):
    def method(self):
        return old

    with pytest.deprecated_call(match=new):
        family = type("Own", (SequenceModel,), {old: method})
    assert getattr(family(), new)() == old
