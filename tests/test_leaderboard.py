"""Saved Results, and their ranks beside the stored rows."""

import functools
import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, task_of
from foreign_models import HMM, Frames
from test_beside import as_new
from typer.testing import CliRunner

import repro
from repro.cli import app
from repro.errors import ConfigError, DataError
from repro.results import leaderboard as leaderboards
from repro.results.findings import Audit, Finding
from repro.results.leaderboard import Leaderboard, leaderboard, ranks
from repro.results.protocol import version_of
from repro.results.record import read_cell, write
from repro.runtime.files import sha256_of

STORED = ROOT / "results"
PASSED = Finding("no look-ahead", "passed", "seen")
FAILED = Finding("probabilities sum to 1", "FAILED", "7.3", "σ is forgotten")


@pytest.fixture(scope="module")
def exact():
    return read_cell(STORED, "starter", "linear_gaussian", "exact")[0]


def named(result, name, shift=0.0, noise=0.0, **changes):
    """Somebody else's model of linear_gaussian with numbers of its own."""
    changed = as_new(result, shift, noise, true_parameters=False, **changes)
    return replace(changed, model=name, title=name)


def board(folder=None, task="linear_gaussian"):
    return leaderboard(task, folder, STORED)


@pytest.fixture(scope="module", autouse=True)
def read_once():
    """Stored rows are read once by this file, not by each of its tests."""
    found = functools.cache(leaderboards._stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaderboards, "_stored", found)
        yield


def audited(result, *findings):
    return Audit(result.recipe["model"].get("kind", "?"), "x", result.data["sha256"], [*findings])


# Saved Results


def test_what_is_saved_is_read_again(linear, tmp_path):
    model = Frames(0.4, 7.0)
    result, found = repro.evaluate(model, linear, name="mine"), repro.audit(model, linear)
    path = result.save(tmp_path / "mine.json", audit=found)
    again = repro.read_result(str(path))
    record = again.evaluation.pop("audit")
    assert asdict(again) == asdict(result)
    assert [Finding(**finding) for finding in record] == found.findings
    assert again.evaluation["task"] == linear.version == version_of(again.data)
    assert {"date", "torch", "device"} <= set(again.environment)
    assert again.data["sha256"] == linear.sha256


@pytest.mark.fault
def test_an_audit_of_something_else_is_not_stored(linear, rolls, tmp_path):
    result = repro.evaluate(Frames(0.4, 7.0), linear)
    for model, task in ((HMM(2), rolls), (lambda x, n: Frames(0.4, 7.0).log_prob(x, n), linear)):
        with pytest.raises(ConfigError, match="audit the same model on the same data"):
            result.save(tmp_path / "mine.json", audit=repro.audit(model, task))
    with pytest.raises(ConfigError, match=r"must end in \.json"):
        result.save(tmp_path / "mine")
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]  # of rolls


def test_stored_results_have_the_version_that_tasks_have(linear, exact):
    assert version_of(exact.data) != linear.version  # of few sequences
    assert version_of({**exact.data, "sha256": linear.sha256, **measured(linear)}) == linear.version


def measured(task):
    return {"mean": task.mean.tolist(), "std": task.std.tolist()}


# Ranks


def test_ranks_are_groups_that_cannot_be_told_apart(exact):
    """Trainings that spread by 0.001 a step, at distances that decide what is told apart."""

    def cell(mean):
        return [named(exact, "m", mean + 0.001 * i, seed=i) for i in (-1, 0, 1)]

    cells = [cell(mean) for mean in (-0.5, 0.0, -0.0005, -0.501, -1.0)]
    assert ranks(cells, ["is"] * 5) == [3, 1, 1, 3, 5]
    assert ranks(cells[::-1], ["is"] * 5) == [5, 3, 1, 1, 3]
    assert ranks(cells[:1], ["is"]) == [1]


def test_equal_models_seldom_get_different_ranks(exact):
    """Trainings and test sequences are drawn; the truth is the same, in groups of three."""
    rng, length = np.random.default_rng(0), np.full(100, 25.0)

    def cell(mean, difficulty):
        drawn = [mean + 0.01 * rng.standard_normal() for _ in range(3)]
        noise = rng.standard_normal((3, 100))
        rows = [
            {"length": length, "is": length * m + difficulty + e}
            for m, e in zip(drawn, noise, strict=True)
        ]
        return [replace(exact, per_sequence=row) for row in rows]

    def drawn(*means):
        difficulty = 5.0 * rng.standard_normal(100)
        return ranks([cell(mean, difficulty) for mean in means], ["is"] * len(means))

    equal = [max(drawn(*[0.0] * 6)) > 1 for _ in range(100)]
    assert sum(equal) <= 12  # at most 5 % of 100, and 0.2 % of such draws exceed 12
    groups = [drawn(0, 0, 0, -0.1, -0.1, -0.1) == [1, 1, 1, 4, 4, 4] for _ in range(50)]
    assert sum(groups) > 40


def test_stored_rows_and_submissions_are_ranked_together(exact, tmp_path):
    named(exact, "level", -0.0013).save(tmp_path / "a.json")
    named(exact, "worse", -0.2, 0.1).save(tmp_path / "b.json")
    named(exact, "best", 0.5, 0.1).save(tmp_path / "c.json")
    table = board(tmp_path).table.set_index("model")
    assert table["rank"]["best"] == 1 and table.behind["best"] == 0
    assert table["rank"]["level"] == table["rank"]["rnn-gauss"] == 2
    assert table["rank"]["dmm"] < table["rank"]["worse"] < table["rank"]["marginal"]
    assert pd.isna(table["rank"]["exact"])  # a reference
    assert table.source["best"] == "c.json" and table.source["dmm"] == "stored"
    gap = (np.array(exact.per_sequence["is"]) + 0.5 * 25 - table_values("dmm")) / 25
    assert table.behind["dmm"] == pytest.approx(gap.mean(), abs=0.02)
    assert table.nats_per_step.is_monotonic_decreasing


def table_values(model):
    cell = read_cell(STORED, "starter", "linear_gaussian", model)
    return np.mean([r.values("is") for r in cell], axis=0)


def test_without_submissions_the_stored_rows_are_ranked():
    for task in ("jsb_chorales", "mnist_5k"):
        table = board(task=task).table
        assert set(table.source) == {"stored"} and table["rank"][0] == 1
        assert table["rank"].is_monotonic_increasing and len(table) > 9
    assert "fivo" in set(board(task="jsb_chorales").table.estimate)


def test_trainings_of_one_model_are_one_row(exact, tmp_path):
    for seed, shift in enumerate((0.001, 0.0, -0.001)):
        named(exact, "mine", shift, seed=seed).save(tmp_path / f"{seed}.json")
    row = board(tmp_path).table.set_index("model").loc["mine"]
    assert row.seeds == 3 and row.source == "0.json, 1.json, 2.json"
    assert row.over_seeds == pytest.approx(0.001 / np.sqrt(3))


def test_a_failed_audit_has_no_rank_and_comes_last(exact, tmp_path):
    good, bad = named(exact, "good", 0.5), named(exact, "bad", 5.0)
    good.save(tmp_path / "good.json", audited(good, PASSED))
    for path in ("bad.json", "bad/bad.json"):
        bad.save(tmp_path / path, audited(bad, PASSED, FAILED))
    table = board(tmp_path).table
    assert table.model[0] == "good" and table["rank"][0] == 1 and table.audit[0] == "1 passed"
    last = table.iloc[-1]
    assert last.model == "bad" and pd.isna(last["rank"])
    assert last.audit == "failed: probabilities sum to 1" and table.behind.min() < -4
    alone = leaderboard("linear_gaussian", tmp_path / "bad", tmp_path / "nothing").table
    assert alone["rank"].isna().all() and alone.behind.tolist() == [0.0]


def test_a_task_that_has_only_submissions(linear, tmp_path):
    repro.evaluate(Frames(0.4, 7.0), linear, name="narrow").save(tmp_path / "a.json")
    repro.evaluate(Frames(0.4, 70.0), linear, name="wide").save(tmp_path / "b.json")
    found = leaderboard("linear_gaussian", tmp_path, tmp_path / "nothing")
    assert found.table.model.tolist() == ["narrow", "wide"]
    assert found.table["rank"].tolist() == [1, 2] and found.version == linear.version


def test_one_test_sequence_says_nothing_about_others(tmp_path):
    rng = np.random.default_rng(0)
    parts = {p: [rng.standard_normal((5, 1))] for p in ("train", "valid", "test")}
    task = task_of(tmp_path, parts)
    for name, std in (("narrow", 1.0), ("wide", 50.0)):
        repro.evaluate(Frames(0.0, std), task, name=name).save(tmp_path / f"{name}.json")
    found = leaderboard(task, tmp_path, tmp_path / "nothing")
    assert found.table["rank"].tolist() == [1, 1]
    assert "nan" not in str(found) and "nan" not in found.to_markdown()


# What people read


@pytest.fixture
def folder(exact, tmp_path):
    named(exact, "a | b", 0.5).save(tmp_path / "mine.json")
    return tmp_path


def test_markdown_has_submissions_in_bold_units_and_the_rule(folder):
    text = board(folder).to_markdown()
    assert "| **a \\| b** " in text and "| RNN-Gauss " in text and "Holm" in text
    assert "Nats per step of data normalised by σ = 7.25087; higher is better" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 9 and {len(line) for line in lines} == {len(lines[0])}


def test_csv_has_full_precision(folder):
    found = board(folder)
    assert isinstance(found, Leaderboard)
    found.write(folder / "board.csv")
    table = pd.read_csv(folder / "board.csv")
    assert table.model.tolist() == found.table.model.tolist()
    assert np.allclose(table.nats_per_step, found.table.nats_per_step, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"must end in \.md or \.csv"):
        found.write(folder / "board.html")


def test_the_command(folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["leaderboard", "--task", "linear_gaussian"]
    done = CliRunner().invoke(app, [*command, str(folder), "--out", str(folder / "board.md")])
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Rank") and lines[2].split()[:4] == ["1", "a", "|", "b"]
    assert "Holm" in done.stdout
    assert (folder / "board.md").read_text().startswith("# linear_gaussian\n")


# What is refused


def changed(exact, tmp_path, **fields):
    """A submission that write() would not have made so: its digest is right, its content is not."""
    write(replace(named(exact, "mine"), **fields), tmp_path / "mine.json")
    return tmp_path


def rows(exact, **fields):
    return {**named(exact, "mine").per_sequence, **fields}


@pytest.mark.fault
def test_other_data_versions_and_orders_are_refused_by_name(exact, tmp_path):
    cases = {
        "mine.json is of other data than the rows of linear_gaussian": {
            "data": {**exact.data, "sha256": "0" * 64}
        },
        "mine.json is of version old of the task linear_gaussian": {
            "evaluation": {**exact.evaluation, "task": "old"}
        },
        "mine.json does not have the test sequences": {
            "per_sequence": rows(exact, length=[24.0, 26.0] * 125)
        },
        "mine.json has no bound of its sequences": {
            "per_sequence": {k: v for k, v in exact.per_sequence.items() if k != "bound"}
        },
        "mine.json: is has values that are not finite": {
            "per_sequence": rows(exact, **{"is": [float("nan")] * 250})
        },
    }
    for words, fields in cases.items():
        with pytest.raises(DataError, match=words) as caught:
            board(changed(exact, tmp_path, **fields))
        assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


@pytest.mark.fault
def test_a_probability_above_one_is_refused(tmp_path):
    stored = read_cell(STORED, "paper-music", "jsb_chorales", "rnn")[0]
    rows = {**stored.per_sequence, "is": [1.0] * len(stored.per_sequence["is"])}
    write(replace(stored, preset="foreign", model="mine", per_sequence=rows), tmp_path / "a.json")
    with pytest.raises(DataError, match="log p of test sequence 0 is above 0"):
        board(tmp_path, "jsb_chorales")


@pytest.mark.fault
def test_two_submissions_of_one_name_are_refused(exact, tmp_path):
    named(exact, "mine", 0.1).save(tmp_path / "a.json")
    named(exact, "mine", 0.2).save(tmp_path / "b.json")
    with pytest.raises(DataError, match=r"a.json and .*b.json are both called mine, seed 0"):
        board(tmp_path)
    named(exact, "mine", 0.1, seed=1).save(tmp_path / "b.json")
    with pytest.raises(DataError, match="be a separate training"):
        board(tmp_path)


@pytest.mark.fault
def test_folders_without_results_are_refused(exact, tmp_path):
    with pytest.raises(ConfigError, match="is not a directory"):
        board(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"it has no \*\.json files"):
        board(tmp_path)
    named(exact, "mine").save(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="those in it are of linear_gaussian"):
        board(tmp_path, "mnist_5k")
    with pytest.raises(DataError, match="no results of 'linear_gausian'; did you mean"):
        board(task="linear_gausian")


@pytest.mark.fault
def test_an_edited_submission_is_refused(folder):
    path = folder / "mine.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "title": "better"}))
    with pytest.raises(DataError, match=r"mine\.json was changed after it was written"):
        board(folder)
    path.write_text("{}")
    with pytest.raises(DataError, match="is not a Result"):
        board(folder)
    for rows in ([1.0], {"length": 3}, None):
        record = {**record, "per_sequence": rows}
        record.pop("sha256", None)
        path.write_text(json.dumps({**record, "sha256": sha256_of(record)}))
        with pytest.raises(DataError, match="is not a Result"):
            board(folder)


def test_every_task_with_stored_results_has_a_board(tmp_path, monkeypatch):
    """Among the stored folders are those of races, which hold no Result."""
    monkeypatch.chdir(ROOT)
    for task in ("jsb_chorales", "linear_gaussian"):
        found = leaderboard(task)
        found.write(str(tmp_path / "board.md"))
        assert found.table["rank"].min() == 1
        assert "rank 1 is the best row" in str(found)
        assert "rank 1 is the best row" in (tmp_path / "board.md").read_text()
