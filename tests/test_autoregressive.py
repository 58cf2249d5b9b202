"""Exact autoregressive families: what each promises beside what every model does."""

import itertools

import pytest
import torch
from conftest import SIZES, VARIANTS, spec

import repro.models.mamba
import repro.models.transformer
from repro.errors import ConfigError
from repro.models import build
from repro.models.autoregressive import AutoregressiveModel
from repro.training.stacked import StackedModels

CASES = [
    (family, sizes)
    for family in SIZES
    if isinstance(build(spec(family)), AutoregressiveModel)
    for sizes in VARIANTS.get(family, {"": {}}).values()
]


def held(state):
    """Numbers in a state."""
    return sum(tensor.numel() for tensor in state)


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_any_segments_of_a_long_sequence_give_its_likelihood(family, sizes, small_model, ragged):
    """In float32, where positions and products over a long past lose digits first."""
    model = small_model(family, **sizes).float()
    x, lengths, noise = ragged(lengths=(700, 700), latent=0, samples=1)
    x, noise = x.float(), noise.float()
    with torch.no_grad():
        whole, whole_state = model.advance(x, lengths, noise)
        state, cut, sizes_held = None, [], []
        for part in x.split([1, 299, 1, 1, 7, 391]):
            terms, state = model.advance(part, lengths * 0 + len(part), noise[: len(part)], state)
            cut.append(terms.log_likelihood)
            sizes_held.append(held(state))
    torch.testing.assert_close(torch.cat(cut), whole.log_likelihood, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(state, whole_state, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert sizes_held[1:] == [sizes_held[1]] * 5  # bounded: 300 steps fill it


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_a_sample_is_drawn_from_what_its_likelihood_reads(family, sizes, small_model):
    """The head is given the same features in both, step by step."""
    model, read = small_model(family, **sizes).float(), []
    model.head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.no_grad():
        x = model.sample(3, 6, torch.Generator().manual_seed(0))
        drawn_from = torch.cat(read)
        read.clear()
        model(x, torch.tensor([6, 6, 6]), x.new_zeros(6, 1, 3, 0))
    torch.testing.assert_close(drawn_from, torch.cat(read))


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_sequences_are_drawn_as_often_as_they_are_likely(family, sizes, small_model):
    """All eight of three steps of one bit: their likelihoods sum to 1, and samples follow them."""
    model, draws = small_model(family, "bernoulli", dim=1, **sizes).float(), 20_000
    every = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3))).T.unsqueeze(-1)  # (3, 8, 1)
    with torch.no_grad():
        terms = model(every, torch.full((8,), 3), every.new_zeros(3, 1, 8, 0))
        expected = terms.log_likelihood.sum((0, 1)).exp()
        drawn = model.sample(draws, 3, torch.Generator().manual_seed(0))[..., 0].long()
    assert expected.sum() == pytest.approx(1.0, abs=1e-5)
    found = torch.bincount(4 * drawn[0] + 2 * drawn[1] + drawn[2], minlength=8) / draws
    error = (expected * (1.0 - expected) / draws).sqrt()
    assert ((found - expected).abs() < 5 * error).all()


@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_dropout_follows_the_models_generator_and_spares_evaluation(
    family, sizes, small_model, ragged
):
    model = small_model(family, dropout=0.4, **sizes)
    x, lengths, noise = ragged(latent=0, samples=1)
    found = []
    for seed in (0, 0, 1):
        model.set_generator(torch.Generator().manual_seed(seed))
        found.append(model.train()(x, lengths, noise).log_likelihood)
    assert found[0].equal(found[1]) and not found[0].equal(found[2])
    without = small_model(family, **sizes)(x, lengths, noise).log_likelihood
    assert model.eval()(x, lengths, noise).log_likelihood.equal(without)


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_models_of_several_seeds_compute_side_by_side_what_each_does_alone(family, sizes, ragged):
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        models.append(build(spec(family, **sizes)).double())
    batches = [ragged(latent=0, samples=1, seed=seed) for seed in range(2)]
    alone = []
    for model, (x, lengths, noise) in zip(models, batches, strict=True):
        bound = model(x, lengths, noise).log_likelihood.sum() / len(lengths)
        alone.append([bound, *torch.autograd.grad(-bound, list(model.parameters()))])
    assert all(model.can_stack for model in models)
    stack = StackedModels(models)
    x, lengths, noise = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
    objectives, _, *gradients = stack.gradients(
        torch.tensor(1.0), torch.tensor([3, 3]), x, lengths, noise
    )
    for s, expected in enumerate(alone):
        found = [objectives[s], *(gradient[s] for gradient in gradients)]
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.fault
@pytest.mark.parametrize(("family", "sizes"), CASES)
def test_a_state_of_something_else_is_refused(family, sizes, small_model, ragged):
    model = small_model(family, **sizes)
    x, lengths, noise = ragged(latent=0, samples=1)
    _, other = model.advance(x[:, :2], lengths[:2], noise[:, :, :2])
    for state in (other, x, (x, x), type(other)(x)):
        with pytest.raises(ConfigError, match="cannot continue from this state") as error:
            model.advance(x, lengths, noise, state)
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.oracle
@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize(
    ("family", "module", "bound"),
    [
        ("transformer", repro.models.transformer, "QUERIES_AT_ONCE"),
        ("mamba", repro.models.mamba, "STEPS_AT_ONCE"),
    ],
)
def test_a_bound_on_memory_changes_nothing(
    family, module, bound, at_once, small_model, ragged, monkeypatch
):
    x, lengths, noise = ragged(latent=0, samples=1, lengths=(9, 9))
    found = []
    for _ in range(2):
        model = small_model(family)
        terms = model(x, lengths, noise)
        terms.log_likelihood.sum().backward()
        found.append([terms.log_likelihood, *(p.grad for p in model.parameters())])
        monkeypatch.setattr(module, bound, at_once)
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("family", "sizes", "reach"),
    [
        *(("transformer", {"context": n, "blocks": 2}, 2 * (n - 1)) for n in (1, 2, 4)),
        *(("tcn", {"kernel": k, "blocks": 2}, 2 * 3 * (k - 1)) for k in (1, 2, 3)),
    ],
)
def test_a_window_ends_where_its_docstring_says(family, sizes, reach, small_model, ragged):
    wide = {"features": [32], "hidden": 32, "decoder": [32]}  # some ReLUs stay open
    model = small_model(family, **wide, **sizes)
    x, lengths, noise = ragged(latent=0, samples=1, lengths=(16,))
    likelihood = model(x.requires_grad_(), lengths, noise).log_likelihood[-1].sum()
    (gradient,) = torch.autograd.grad(likelihood, x)
    seen = gradient.abs().sum((1, 2))[:-1] > 0
    assert seen.tolist() == [False] * (14 - reach) + [True] * (reach + 1)  # x_{t-1} is the last


@pytest.mark.fault
@pytest.mark.parametrize(
    ("family", "key", "cells"),
    [("rnn", "cell", "lstm, gru, tanh"), ("minimal_rnn", "minimal_cell", "mingru, minlstm")],
)
def test_an_unknown_cell_is_refused(family, key, cells):
    with pytest.raises(ConfigError, match=f"^{key}: 'elman' is not one of {cells}"):
        build(spec(family, **{key: "elman"}))


@pytest.mark.fault
@pytest.mark.parametrize("heads", [3, 8, 16])
def test_heads_that_do_not_divide_the_width_are_refused(heads):
    with pytest.raises(ConfigError, match=f"make `hidden` a multiple of {2 * heads}"):
        build(spec("transformer", heads=heads))
