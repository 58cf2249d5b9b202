"""Averages, errors, tables and verdicts from hand-made Results."""

import dataclasses
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import bootstrap

from repro.errors import DataError
from repro.reports.figures import (
    draw_estimate_against_samples,
    draw_learning_curves,
    write_figures,
)
from repro.reports.published import open_columns
from repro.reports.tables import display, numbers, with_error, write_tables
from repro.results import record as results_module
from repro.results.check import compare, render, summary
from repro.results.record import (
    Result,
    aggregate,
    error_over_sequences,
    interval,
    read,
    result_path,
    write,
)
from repro.results.reliability import reliability

LENGTHS = np.array([4.0, 9.0, 6.0, 2.0, 7.0])


def result(seed=0, model="dmm", shift=0.0, spread=0.05, error=0.01, **changes):
    """A Result whose per-step values scatter around −2 + shift between seeds and sequences."""
    rng = np.random.default_rng([seed, *map(ord, model)])
    values = (
        LENGTHS * (-2.0 + shift + spread * rng.standard_normal()) + rng.standard_normal(5) * 0.1
    )
    per_sequence = {
        "length": LENGTHS,
        "bound": values - 0.5,
        "bound_error": np.full(5, error),
        "is": values,
        "is_error": np.full(5, error),
        "ess": np.full(5, 30.0),
        "log_likelihood": values,
        "kl": np.full(5, 0.5),
    }
    fields = {
        "schema": results_module.SCHEMA,
        "preset": "test",
        "dataset": "walk",
        "model": model,
        "title": model.upper(),
        "seed": seed,
        "likelihood": "sampled",
        "true_parameters": False,
        "data": {
            "name": "walk",
            "kind": "real",
            "dim": 2,
            "std": [2.0, 3.0],
            "sha256": "a",
            "sequences": {"test": 5},
            "steps": {"test": 28},
        },
        "evaluation": {"num_samples": 100, "curve": []},
        "training": {"parameters": 1234, "epochs": 3, "seconds": 1.5, "cpu_seconds": 1.0},
        "environment": {"commit": "c" * 40, "training": {"device": "CPU", "threads": 1}},
        "recipe": {
            "model": {"name": model, "heads": {"real": "gaussian"}},
            "dataset": {"options": {}},
        },
        "per_sequence": {name: column.tolist() for name, column in per_sequence.items()},
    }
    return Result(**{**fields, **changes})


def test_three_averages_follow_their_definitions():
    r = result()
    values = [(v, n) for v, n in zip(r.per_sequence["is"], LENGTHS, strict=True)]
    assert r.per_step("is") == pytest.approx(sum(v for v, _ in values) / sum(n for _, n in values))
    assert r.mean_of_averages("is") == pytest.approx(sum(v / n for v, n in values) / 5)
    assert r.per_sequence_mean("is") == pytest.approx(sum(v for v, _ in values) / 5)
    assert r.monte_carlo_error("is") == pytest.approx(math.sqrt(5 * 0.01**2) / 28)


@pytest.mark.parametrize("seed", range(3))
def test_the_average_after_the_first_step_counts_only_the_other_steps(seed):
    rng = np.random.default_rng(seed)
    steps = [rng.normal(-2.0, 1.0, n) for n in (3, 1, 7, 2)]  # one sequence has no second step
    divergences = [rng.exponential(1.0, len(s)) for s in steps]
    bounds = [s.sum() - d.sum() for s, d in zip(steps, divergences, strict=True)]
    r = result(
        per_sequence={
            "length": [len(s) for s in steps],
            "bound": bounds,
            "first_log_likelihood": [s[0] for s in steps],
        }
    )
    averages = [
        (s[1:].sum() - d.sum()) / len(s[1:])
        for s, d in zip(steps, divergences, strict=True)
        if len(s) > 1
    ]
    assert r.bound_after_first() == pytest.approx(np.mean(averages))


def test_an_evaluation_too_old_for_the_first_steps_share_is_named():
    with pytest.raises(DataError, match=r"dmm on walk, seed 0, does not have .* evaluate again"):
        result().bound_after_first()


def test_error_over_sequences_agrees_with_the_bootstrap():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, size=300).astype(float)
    values = -2.0 * lengths + rng.standard_normal(300) * np.sqrt(lengths)
    resampled = bootstrap(
        (values, lengths),
        lambda v, n: v.sum() / n.sum(),
        paired=True,
        vectorized=False,
        n_resamples=2000,
        rng=rng,
    ).standard_error
    assert error_over_sequences(values, lengths) == pytest.approx(resampled, rel=0.1)


def test_interval_of_one_seed_is_scipys_bootstrap():
    one = result(spread=0.5)
    values, lengths = one.values("is"), one.values("length")
    expected = bootstrap(
        (values, lengths),
        lambda v, n, axis: v.sum(axis) / n.sum(axis),
        paired=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    assert interval([one], "is") == pytest.approx(tuple(expected), rel=0.01)


def test_interval_contains_the_truth_as_often_as_stated():
    """Ten seeds and sixty sequences, each with its own effect on every step."""
    rng, hits, repeats = np.random.default_rng(0), 0, 200
    for _ in range(repeats):
        lengths = rng.integers(20, 80, 60).astype(float)
        difficulty = 0.3 * rng.standard_normal(60)
        cell = [
            result(per_sequence={"length": lengths, "is": lengths * (-2 + difficulty + effect)})
            for effect in 0.05 * rng.standard_normal(10)
        ]
        low, high = interval(cell, "is")
        hits += low <= -2 <= high
    error = math.sqrt(0.95 * 0.05 / repeats)
    assert 0.92 - 6 * error < hits / repeats < 0.95 + 6 * error


def test_doubt_follows_the_weights():
    steady = {**result().per_sequence, "pareto_k": [0.1] * 5}
    heavy = {**steady, "pareto_k": [0.1, 0.8, 0.9, 0.8, 0.9]}
    few = {**steady, "ess": [1.5] * 5}
    cells = [[result(per_sequence=values)] for values in (steady, heavy, few)]
    assert [reliability(cell).doubtful for cell in cells] == [False, True, True]
    assert reliability(cells[1]).pareto_k == 0.8
    assert math.isnan(reliability([result()]).pareto_k)


def test_aggregate_averages_over_seeds():
    cell = [result(seed) for seed in range(4)]
    values = [r.per_step("is") for r in cell]
    estimate = aggregate(cell, "is")
    assert estimate.value == pytest.approx(np.mean(values))
    assert estimate.over_seeds == pytest.approx(np.std(values, ddof=1) / 2)
    assert estimate.monte_carlo == pytest.approx(cell[0].monte_carlo_error("is") / 2)
    assert math.isnan(aggregate(cell[:1], "is").over_seeds)


def test_results_survive_writing_and_reading(tmp_path):
    path = tmp_path / "r.json"
    write(result(), path)
    assert read(path) == result()


def test_learning_curves_come_with_the_results(tmp_path):
    curve = {"epoch": [0, 2, 3], "valid_bound": [-9.0, -3.0, -2.5], "valid_is": [-8.0, -2.5, -2.0]}
    trained = {**result().training, "validations": curve}
    kept = [result(seed, training=trained) for seed in (0, 1)]
    without = result(model="rnn")  # by code that kept no curve
    [path] = write_figures([*kept, without], tmp_path, tmp_path)[:1]
    assert path.name == "walk-learning.svg" and path.exists()
    lines = draw_learning_curves([*kept, without]).axes[0].lines
    drawn = [line.get_xydata().tolist() for line in lines if len(line.get_xydata())]
    bounds, estimates = [[2, -3.0], [3, -2.5]], [[2, -2.5], [3, -2.0]]
    assert drawn == [bounds, bounds, estimates, estimates]
    assert draw_learning_curves([without]) is None
    assert not [p for p in write_figures([without], tmp_path, tmp_path) if "learning" in p.name]


@pytest.mark.fault
def test_broken_results_are_named(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(DataError, match="is missing"):
        read(path)
    write(result(), path)
    whole = path.read_text()
    for text, words in (
        (whole[:-20], "is not a Result"),
        (re.sub(r'"schema": \d+', '"schema": 99', whole), "has schema 99"),
        (json.dumps({**json.loads(whole), "extra": 1}), "is not a Result"),
        (whole.replace('"seed": 0', '"seed": 1'), "was changed after it was written"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=words):
            read(path)
    short = result()
    short.per_sequence["is"].pop()
    write(short, path)
    with pytest.raises(DataError, match="differ in length"):
        read(path)


@pytest.mark.fault
@pytest.mark.parametrize("samples", [1, 2, 7, 100])
def test_a_lower_bound_is_never_called_exact(samples, tmp_path):
    """Whatever a user sets: how the likelihood is computed is stored, and read everywhere."""
    weights = {**result().per_sequence, "ess": [float(samples)] * 5}
    sampled = {"num_samples": samples, "curve": []}
    cell = [result(s, evaluation=sampled, per_sequence=weights) for s in (0, 1)]
    exact = [result(s, model="rnn", likelihood="exact", evaluation=sampled) for s in (0, 1)]
    shown = display(numbers([*cell, *exact])).set_index("Model")
    assert shown["ESS"].tolist() == [f"{samples}", "exact"]
    assert ("†" in shown["IS"]["DMM"]) == (samples < 2) and "†" not in shown["IS"]["RNN"]
    assert "exact" not in open_columns([cell], [])[0].to_string()
    for one in (cell, exact):
        for r in one:
            write(r, result_path(tmp_path, "test", "walk", r.model, r.seed))
    metrics = [(v.model, v.metric) for v in compare([*cell, *exact], tmp_path, "test", True)]
    assert metrics == [("dmm", "bound"), ("dmm", "is"), ("rnn", "is")]
    (axes,) = draw_estimate_against_samples([*cell, *exact]).axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels[0] == "DMM" and "exact" in labels[1]


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-1.23456, 0.0123, "-1.235 ± 0.012"),
        (-8.5, 0.5, "-8.50 ± 0.50"),
        (-123.456, 12.0, "-123 ± 12"),
        (-1.0, 0.0, "-1.0000 ± 0.0000"),
        (-1.23456, math.nan, "-1.2346"),
    ],
)
def test_errors_decide_the_digits(value, error, text):
    assert with_error(value, error) == text


def test_a_bar_in_a_title_stays_in_its_cell(tmp_path):
    write_tables([dataclasses.replace(result(), title="DMM | mine")], tmp_path)
    header, _, row = (tmp_path / "walk.md").read_text().splitlines()[2:5]
    assert r"DMM \| mine" in row
    assert len(re.split(r"(?<!\\)\|", row)) == len(header.split("|"))


@pytest.mark.fault
@pytest.mark.parametrize("shift", [-0.5, -1e-3, 0.5])
def test_one_seed_and_one_sequence_prove_nothing(shift, tmp_path):
    def alone(**changes):
        whole = result(**changes)
        columns = {name: values[:1] for name, values in whole.per_sequence.items()}
        counts = {"sequences": {"test": 1}, "steps": {"test": 4}}
        return dataclasses.replace(whole, per_sequence=columns, data={**whole.data, **counts})

    write(alone(), result_path(tmp_path, "test", "walk", "dmm", 0))
    verdicts = compare([alone(shift=shift)], tmp_path, "test", True)
    assert {v.verdict for v in verdicts} == {"not comparable"}
    assert "one seed, one test sequence" in verdicts[0].note
    text = write_tables([alone()], tmp_path)[0].read_text()
    assert "nan" not in text and "1 test sequence" in text


def test_tables_state_numbers_errors_and_marks(tmp_path):
    low = {**result().per_sequence, "ess": [1.1] * 5}
    doubtful = [dataclasses.replace(result(s, model="poor"), per_sequence=low) for s in (0, 1)]
    exact, by_ais = (
        [result(s, model=model, likelihood=how) for s in (0, 1)]
        for model, how in (("rnn", "exact"), ("rbm", "Z by AIS"))
    )
    cells = [*exact, *doubtful, *by_ais]
    shown = display(numbers(cells))
    assert shown["ESS"].tolist() == ["exact", "1.1", "Z by AIS"]
    assert "†" not in shown["IS"][0] and "†" in shown["IS"][1]
    paths = write_tables(cells, tmp_path)
    assert [p.name for p in paths] == ["walk.md", "walk.tex", "walk.csv"]
    text = paths[0].read_text()
    assert "σ from 2 to 3" in text and "2 seeds" in text and "5 test sequences (28 steps)" in text
    frame = pd.read_csv(paths[2])
    assert frame["is_per_step"][0] == pytest.approx(aggregate(exact, "is").value, rel=1e-5)
    bits = -frame["is_per_step"] / 2 / math.log(2)  # two dimensions per step
    np.testing.assert_allclose(frame["is_bits_per_dimension"], bits, rtol=1e-5)


@pytest.fixture
def stored(tmp_path):
    for seed in range(3):
        for model in ("dmm", "rnn"):
            write(result(seed, model), result_path(tmp_path, "test", "walk", model, seed))
    return tmp_path


def verdicts(new, stored, whole=True):
    return {(v.model, v.metric): v.verdict for v in compare(new, stored, "test", whole)}


def both(**changes):
    return [result(seed, model, **changes) for model in ("dmm", "rnn") for seed in range(3)]


def test_same_results_pass(stored):
    found = compare(both(), stored, "test", True)
    assert {v.verdict for v in found} == {"ok"} and not summary(found)[1]


def test_other_seeds_of_the_same_quality_pass(stored):
    new = [result(seed, model) for model in ("dmm", "rnn") for seed in (10, 11, 12)]
    assert set(verdicts(new, stored).values()) == {"ok"}


@pytest.mark.parametrize("metric", ["bound", "is"])
def test_a_stored_number_better_by_five_errors_fails_and_is_named(stored, metric):
    cell = [result(seed) for seed in range(3)]
    estimate = aggregate(cell, metric)
    for r in cell:
        better = np.asarray(r.per_sequence[metric]) + 5 * estimate.over_seeds * LENGTHS
        changed = {**r.per_sequence, metric: better.tolist()}
        path = result_path(stored, "test", "walk", "dmm", r.seed)
        write(dataclasses.replace(r, per_sequence=changed), path)
    found = compare(both(), stored, "test", True)
    line, failed = summary(found)
    assert failed and f"walk/dmm ({metric} " in line and "rnn" not in line
    assert [v.verdict for v in found].count("worse") == 1
    assert "Holm's" in render(found)


def test_a_model_without_latent_variables_is_compared_once(tmp_path):
    cell = [result(s, likelihood="exact") for s in range(3)]
    for r in cell:
        write(r, result_path(tmp_path, "test", "walk", "dmm", r.seed))
    assert [v.metric for v in compare(cell, tmp_path, "test", True)] == ["is"]


def test_a_better_cell_is_said_to_be_better(stored):
    assert verdicts(both(shift=1.0), stored)["dmm", "is"] == "better"


def test_single_seeds_are_compared_over_sequences(tmp_path):
    write(result(0), result_path(tmp_path, "test", "walk", "dmm", 0))
    assert verdicts([result(0)], tmp_path)["dmm", "is"] == "ok"
    assert verdicts([result(0, shift=-1.0)], tmp_path)["dmm", "is"] == "worse"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"recipe": {"model": {"name": "x"}}}, "recipe changed"),
        ({"data": {**result().data, "sha256": "b"}}, "data changed"),
        ({"evaluation": {"num_samples": 7, "curve": []}}, "number of samples changed"),
    ],
)
def test_changed_runs_are_not_comparable(stored, changes, note):
    found = compare([result(s, **changes) for s in range(3)], stored, "test", False)
    assert {(v.verdict, v.note) for v in found} == {("not comparable", note)}


def test_a_diverged_training_is_marked_and_worse_where_the_stored_one_was_not(stored, tmp_path):
    lost = {**result().training, "diverged": "the loss is not finite at update 6"}
    new = [result(seed, training=lost if seed == 1 else result().training) for seed in range(3)]
    found = compare(new, stored, "test", False)
    assert {(v.verdict, v.note) for v in found} == {("worse", "seed 1 diverged")}
    (markdown, *_) = write_tables(new, tmp_path / "tables")
    text = markdown.read_text()
    assert "| DMM ‡" in text and "diverged (DMM, seed 1)" in text


def test_new_and_missing_cells_are_reported(stored):
    found = verdicts([result(s, model="vrnn") for s in range(3)], stored)
    assert found == {
        ("vrnn", "bound"): "new",
        ("vrnn", "is"): "new",
        ("dmm", "-"): "missing",
        ("rnn", "-"): "missing",
    }


def test_schema_version_is_the_one_results_are_written_with():
    assert result().schema == results_module.SCHEMA
