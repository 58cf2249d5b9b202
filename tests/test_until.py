"""Samples drawn until a stated error of the estimate, beside exact likelihoods."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT, spec
from test_results import result
from test_training import recipe

from repro.config import recipes as configuration
from repro.data import batches
from repro.errors import ConfigError
from repro.evaluation import evaluate as evaluation
from repro.evaluation.evaluate import (
    FIRST_SAMPLES,
    Draws,
    _groups,
    draw,
    draw_until,
    estimation_error,
    evaluate,
)
from repro.inference.bounds import importance_weighted
from repro.models import build
from repro.reports.tables import caption, display, numbers
from repro.results.check import _incomparable
from repro.training.run import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gaussian():
    """A model with untrained q, the exact log p(x) of sequences of `steps` steps, and these."""

    def make(steps, count=8):
        torch.manual_seed(1)
        model = build(spec("fixed_linear", dim=2, initial_weights=0.1)).eval()
        exact = build(spec("linear_gaussian", dim=2)).eval()
        x = exact.sample(count, steps, torch.Generator().manual_seed(0)).float()
        test = [x[:, i] for i in range(count)]
        whole = batches.collate(test, list(range(count)))
        truth = draw(exact, whole, 20, 0).log_weight()[0].sum().item() / (count * steps)
        return model, test, truth

    return make


def estimate(stop, test):
    total = sum(importance_weighted(found.log_weight()).sum().item() for found in stop.drawn)
    return total / sum(len(sequence) for sequence in test)


@pytest.mark.oracle
def test_the_stopped_estimate_is_as_close_to_the_exact_one_as_asked_for(gaussian):
    """Its root mean squared error over seeds, bias by stopping included; and it does stop."""
    model, test, truth = gaussian(1)
    asked, found, counts = 0.2, [], set()
    for seed in range(12):
        stop = draw_until(model, test, _groups(test, 100), 12800, seed, asked)
        assert stop.reached and stop.error <= asked
        found.append(estimate(stop, test) - truth)
        counts.add(stop.drawn[0].count)
    assert math.sqrt(np.mean(np.square(found))) <= asked and abs(np.mean(found)) <= asked
    assert max(counts) < 12800 and len(counts) > 1  # the seeds' own weights decide


@pytest.mark.oracle
def test_weights_with_heavy_tails_never_count_as_precise(gaussian):
    """An untrained q over four steps: far from exact, while the standard error is small."""
    model, test, truth = gaussian(4)
    stop = draw_until(model, test, _groups(test, 100), 400, 0, 1.0)
    assert not stop.reached and stop.drawn[0].count == 400
    assert abs(estimate(stop, test) - truth) > 1.0


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_error_found_covers_the_true_one(sigma):
    """Log-normal weights of mean one, whose log likelihood is 0."""
    generator, steps, true, found = torch.Generator().manual_seed(0), 50, [], []
    for _ in range(200):
        z = torch.randn(400, 20, generator=generator, dtype=torch.float64)
        log_weight = sigma * z - sigma**2 / 2
        true.append(importance_weighted(log_weight).sum().item() / steps)
        found.append(estimation_error([log_weight[:, :7], log_weight[:, 7:]], steps))
    root = math.sqrt(np.mean(np.square(true)))
    assert 0.9 * root < np.mean(found) < 2.5 * root


def test_the_same_seed_draws_the_same_bits_and_those_of_a_fixed_number(gaussian):
    model, test, _ = gaussian(1)
    once, again, other = (
        draw_until(model, test, _groups(test, 100), 800, seed, 0.12) for seed in (3, 3, 4)
    )
    weights = [torch.cat([d.log_weight() for d in stop.drawn], 1) for stop in (once, again, other)]
    assert weights[0].equal(weights[1]) and not weights[0][:100].equal(weights[2][:100])
    [group] = once.drawn
    fixed = draw(model, batches.collate(test, group.ids), group.count, 3)
    torch.testing.assert_close(fixed.log_weight(), group.log_weight(), rtol=1e-5, atol=1e-5)


def test_samples_are_added_to_those_drawn_before(gaussian):
    model, test, _ = gaussian(1)
    batch, drawn = batches.collate(test, [2, 0]), Draws([2, 0])
    for last in (100, 200, 230):
        draw(model, batch, last, 0, drawn)
        assert drawn.log_weight().shape == (last, 2) and drawn.count == last
    assert set(drawn.statistics(batch, [10])) >= {"is", "is_10", "kl", "pareto_k"}


@pytest.fixture(scope="module")
def checkpoint(walk, tmp_path_factory):
    return train(recipe(max_epochs=1), walk, 0, tmp_path_factory.mktemp("run"), CPU, "disabled")


def test_a_result_says_how_many_samples_it_took(checkpoint, walk, monkeypatch):
    monkeypatch.setattr(evaluation, "_doubtful", lambda log_weights: False)
    stopped, whole = (
        evaluate(checkpoint, walk, 250, [10, 200], CPU, until_error=error) for error in (50.0, 1e-9)
    )
    asked = stopped.evaluation["until"]
    assert stopped.evaluation["num_samples"] == FIRST_SAMPLES and asked["reached"]
    assert stopped.evaluation["curve"] == [10] and "is_200" not in stopped.per_sequence
    assert (asked["error"], asked["num_samples"]) == (50.0, 250) and asked["found"] < 50.0
    assert whole.evaluation["num_samples"] == 250 and not whole.evaluation["until"]["reached"]
    plain = evaluate(checkpoint, walk, 250, [10, 200], CPU)
    assert (
        "until" not in plain.evaluation and plain.per_sequence.keys() == whole.per_sequence.keys()
    )
    for name, values in plain.per_sequence.items():
        assert values == pytest.approx(whole.per_sequence[name], rel=1e-4, abs=1e-4), name


def with_until(reached, samples=100, seed=0, error=0.005, **changes):
    until = {"error": error, "num_samples": 2000, "found": 0.003, "reached": reached}
    evaluation = {"num_samples": samples, "curve": [], "until": until}
    return result(seed=seed, evaluation=evaluation, **changes)


def test_tables_mark_what_is_not_as_precise_as_asked_for():
    found = [
        with_until(True, model="a", title="a"),
        with_until(False, model="b", title="b"),
        result(model="c", title="c"),
    ]
    shown = display(numbers(found)).set_index("Model")["IS"]
    assert [" §" in shown[name] for name in "abc"] == [False, True, False]
    text = caption(found)
    assert "as an error of 0.005 nats per step takes, up to 2000; without" in text
    assert "**§**" in text and "§" not in caption(found[2:])


def test_results_are_compared_if_the_same_precision_was_asked_for():
    one, other = [with_until(True, 100)], [with_until(True, 400)]
    assert _incomparable(one, other) == ""
    changed = "number of samples changed"
    assert _incomparable(one, [with_until(True, 100, error=0.1)]) == changed
    assert _incomparable(one, [result()]) == changed


@pytest.mark.parametrize("until", [{"error": 0}, {"error": -1.0}, {}, {"errors": 0.1}, 0.005])
def test_precisions_that_cannot_be_are_refused(until, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.load("smoke")
    config["evaluation"]["until"] = {"error": 0.005}
    configuration.check(config)
    config["evaluation"]["until"] = until
    with pytest.raises(ConfigError, match="until"):
        configuration.check(config)
