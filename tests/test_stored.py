"""What the stored results must satisfy, whatever was measured."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from conftest import ROOT

from repro.errors import DataError
from repro.results.record import error_over_sequences, read_cell
from repro.results.stored import accept

STORED, TABLES = ROOT / "results", ROOT / "paper_tables"
CELLS = sorted(path.relative_to(STORED).parts for path in STORED.glob("*/*/*/"))


def cell(parts):
    return read_cell(STORED, *parts)


@pytest.mark.parametrize("parts", CELLS, ids="/".join)
def test_the_importance_sampled_estimate_is_not_below_the_bound(parts):
    for result in cell(parts):
        noise = np.hypot(result.monte_carlo_error("bound"), result.monte_carlo_error("is"))
        assert result.per_step("is") >= result.per_step("bound") - 3 * noise - 1e-9


@pytest.mark.parametrize("parts", CELLS, ids="/".join)
def test_the_seeds_of_a_cell_have_the_same_settings_and_data(parts):
    found = cell(parts)
    for result in found[1:]:
        assert result.recipe == found[0].recipe
        assert result.data["sha256"] == found[0].data["sha256"]


@pytest.mark.parametrize(
    "parts", [p for p in CELLS if (STORED / p[0] / p[1] / "exact").exists()], ids="/".join
)
def test_no_model_beats_the_kalman_filter(parts):
    preset, dataset, _ = parts
    exact = read_cell(STORED, preset, dataset, "exact")[0]
    for result in cell(parts):
        gap = result.values("is") - exact.values("is")
        lengths = result.values("length")
        limit = 3 * np.hypot(error_over_sequences(gap, lengths), result.monte_carlo_error("is"))
        assert result.per_step("is") <= exact.per_step("is") + limit + 1e-9


def test_the_dmm_is_within_two_percent_of_the_kalman_filter():
    exact = read_cell(STORED, "starter", "linear_gaussian", "exact")[0].per_step("is")
    for result in cell(("starter", "linear_gaussian", "dmm")):
        assert abs(result.per_step("is") - exact) < 0.02 * abs(exact)


@pytest.mark.parametrize("parts", [p for p in CELLS if p[2] != "exact"], ids="/".join)
def test_training_improved_the_validation_bound_by_a_large_margin(parts):
    for result in cell(parts):
        before = result.training["untrained_validation_bound"]
        after = result.training["best_validation_bound"]
        assert after > before + 0.1 * abs(before)


@pytest.mark.parametrize("parts", CELLS, ids="/".join)
def test_every_result_says_where_it_comes_from(parts):
    for result in cell(parts):
        for environment in (result.environment, result.environment["training"]):
            assert len(environment["commit"]) == 40 and environment["clean"]
            assert environment["device"] and environment["threads"] >= 1
        assert result.recipe["model"]["name"] == result.model
        assert len(result.per_sequence["is"]) == result.data["sequences"]["test"]


@pytest.mark.fault
@pytest.mark.parametrize(("where", "advice"), [("stored", "remove it"), ("new", "or the other")])
def test_seeds_that_were_trained_with_other_settings_are_not_mixed(where, advice, tmp_path):
    one, two = cell(("starter", "linear_gaussian", "dmm"))[:2]
    recipe = copy.deepcopy(two.recipe)
    recipe["model"]["training"]["max_epochs"] = 7
    other = replace(two, recipe=recipe)
    if where == "stored":
        accept([other], tmp_path)
    before = sorted(tmp_path.rglob("*.json"))
    with pytest.raises(
        DataError, match=rf"dmm: seeds 0 and 1 .* \(model.training.max_epochs: .* 7\)\. .*{advice}"
    ):
        accept([one] if where == "stored" else [one, other], tmp_path)
    assert sorted(tmp_path.rglob("*.json")) == before
    accept([one, two], tmp_path)  # replaces the one with other settings
    assert [r.recipe for r in read_cell(tmp_path, "starter", "linear_gaussian", "dmm")] == [
        one.recipe,
        two.recipe,
    ]


@pytest.mark.fault
def test_seeds_of_other_data_settings_or_samples_are_not_mixed_and_no_cell_is_stored(tmp_path):
    (good,) = cell(("starter", "linear_gaussian", "marginal"))[:1]
    one, two = cell(("starter", "linear_gaussian", "dmm"))[:2]
    of_other_data = replace(two, data={**two.data, "sha256": "0" * 64})
    recipe = copy.deepcopy(two.recipe)
    recipe["model"]["training"]["flows"] = None
    for other, what in (
        (of_other_data, "data: "),
        (replace(two, recipe=recipe), "flows: no setting"),
        (
            replace(two, evaluation={**two.evaluation, "num_samples": 7}),
            r"samples: \(200,\) and \(7,\)",
        ),
        (replace(two, evaluation={**two.evaluation, "particles": 9}), "particles: 0 and 9"),
    ):
        with pytest.raises(DataError, match=what):
            accept([good, one, other], tmp_path)
        assert not list(tmp_path.rglob("*.json"))
