"""The plain path and the fast one: the same numbers, switched in one place, and recorded."""

import pytest
import torch
from conftest import BINARY, CASES_OF_LOOPS
from test_training import recipe

import repro.cli.run
from repro.config import recipes as configuration
from repro.errors import ConfigError
from repro.evaluation.evaluate import evaluate
from repro.kernels import dispatch
from repro.training.checkpoints import load_checkpoint
from repro.training.run import train

CASES = [*CASES_OF_LOOPS, *(("vrnn", head, {}) for head in BINARY)]
CPU = torch.device("cpu")


def hand_written(output):
    """Return the names of the functions in a graph whose backward pass is Python."""
    found, seen, waiting = set(), set(), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.add(node.name())
        waiting += [before for before, _ in node.next_functions]
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("lengths", [(5, 2, 4), (3, 3, 3), (1, 7, 1)])
@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_both_paths_have_the_same_values_and_gradients(
    family, head, sizes, lengths, small_model, ragged
):
    model = small_model(family, head, **sizes)
    samples = 2 if model.latent else 1
    x, lengths, noise = ragged(head, latent=model.latent, samples=samples, lengths=lengths)
    found = []
    for kernels in ("plain", "fast"):
        model.zero_grad()
        with dispatch.using(kernels=kernels, linear_min_flops=0):
            terms = model(x, lengths, noise)
            total = terms.log_weight.square().sum() + terms.log_likelihood.sum()
            if kernels == "plain":
                assert not hand_written(total)
            total.backward()
        reached = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        found.append([terms.log_likelihood, terms.log_prior, terms.log_proposal, *reached])
    for plain, fast in zip(*found, strict=True):
        torch.testing.assert_close(fast, plain, rtol=1e-9, atol=1e-9)


def test_the_fast_path_of_a_vrnn_is_hand_written(small_model, ragged):
    model = small_model("vrnn")
    assert hand_written(model(*ragged()).log_weight.sum())


def test_changes_end_with_their_block_even_after_an_error():
    before = dispatch.current()
    with pytest.raises(ZeroDivisionError), dispatch.using(kernels="plain"), dispatch.plain_linear():
        assert dispatch.current().plain and dispatch.current().linear_min_flops == float("inf")
        raise ZeroDivisionError
    assert dispatch.current() == before and not before.plain


@pytest.mark.parametrize("wrong", ["Plain", "", "slow", None])
def test_unknown_kernels_are_refused_with_the_choices(wrong):
    with pytest.raises(ConfigError, match=r"kernels: .* is not one of plain, fast\."):
        dispatch.using(kernels=wrong).__enter__()


@pytest.mark.parametrize("kernels", ["plain", "fast"])
def test_checkpoint_and_result_say_which_and_the_recipe_does_not(kernels, walk, tmp_path):
    with dispatch.using(kernels=kernels):
        path = train(recipe("rnn", max_epochs=1), walk, 0, tmp_path, CPU, "disabled")
    found = evaluate(path, walk, 1, [], CPU)
    assert load_checkpoint(path)[1].environment["kernels"] == kernels
    assert found.environment["training"]["kernels"] == kernels
    assert found.environment["kernels"] == "fast"
    assert "kernels" not in found.recipe and "kernels" not in found.recipe["model"]["training"]


@pytest.mark.parametrize(
    ("option", "preset", "expected"),
    [(None, None, "fast"), (None, "plain", "plain"), ("fast", "plain", "fast"),
     ("plain", None, "plain")],
)  # fmt: skip
def test_repro_train_takes_the_option_and_else_the_presets_setting(
    option, preset, expected, monkeypatch, capsys
):
    loaded = configuration.load("smoke") | ({} if preset is None else {"kernels": preset})
    monkeypatch.setattr(configuration, "load", lambda name: loaded)
    seen = []
    monkeypatch.setattr(
        "repro.training.run.train_seeds", lambda *a, **k: seen.append(dispatch.current().kernels)
        or [],
    )  # fmt: skip
    dataset, model = configuration.cells(loaded)[0]
    repro.cli.run.train(dataset, model, [0], "smoke", kernels=option)
    assert seen == [expected]


def test_a_preset_with_unknown_kernels_is_refused():
    loaded = configuration.load("smoke")
    assert configuration.check({**loaded, "kernels": "plain"})["kernels"] == "plain"
    with pytest.raises(ConfigError, match="kernels"):
        configuration.check({**loaded, "kernels": "slow"})
