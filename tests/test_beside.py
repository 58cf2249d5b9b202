"""A Result among the stored rows of its data, and the table of what is stored."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

import repro
from repro.cli import app
from repro.errors import ConfigError, DataError
from repro.results import stored
from repro.results.record import read_cell
from repro.results.stored import write_table

STORED = ROOT / "results"


@pytest.fixture(scope="module")
def cells():
    names = ("exact", "dmm", "marginal", "rnn-gauss")
    return {name: read_cell(STORED, "starter", "linear_gaussian", name) for name in names}


def as_new(result, shift=0.0, noise=0.0, **changes):
    """A Result of somebody else's: a stored one, moved by so much per step."""
    length = result.values("length")
    rng = np.random.default_rng(0)
    moved = result.values("is") + (shift + noise * rng.standard_normal(len(length))) * length
    rows = {**result.per_sequence, "is": moved.tolist()}
    fields = {"preset": "foreign", "model": "mine", "title": "mine", "per_sequence": rows}
    return replace(result, **{**fields, **changes})


def test_differences_are_paired_by_sequence(cells):
    new = as_new(cells["dmm"][0], -0.02, 0.1)
    table = new.compare(stored=STORED).table.set_index("model")
    assert set(cells) < set(table.index) and len(table) == 9
    for name, cell in cells.items():
        stored = np.mean([np.array(r.per_sequence["is"]) for r in cell], axis=0)
        gap = (np.array(new.per_sequence["is"]) - stored) / 25  # all have 25 steps
        assert table.difference[name] == pytest.approx(gap.mean())
        assert table.difference_error[name] == pytest.approx(gap.std(ddof=1) / np.sqrt(len(gap)))
        values = [np.mean(r.per_sequence["is"]) / 25 for r in cell]
        assert table.nats_per_step[name] == pytest.approx(np.mean(values))
        assert table.over_seeds[name] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    assert table.nats_per_step.is_monotonic_decreasing
    assert table.seeds["dmm"] == 3 and table.samples["dmm"] == 200 and table.seeds["mine"] == 1


@pytest.mark.parametrize(
    ("shift", "verdicts"),
    [
        (0.0, {"exact": "not distinguishable", "marginal": "better"}),
        (0.3, {"exact": "better", "dmm": "better", "marginal": "better"}),
        (-0.1, {"exact": "worse", "dmm": "worse", "marginal": "better"}),
        (-1.0, {"exact": "worse", "dmm": "worse", "marginal": "worse"}),
    ],
)
def test_verdicts(shift, verdicts, cells):
    table = as_new(cells["exact"][0], shift).compare(stored=STORED).table.set_index("model")
    assert {name: table.verdict[name] for name in verdicts} == verdicts
    assert table.verdict["mine"] == "" and np.isnan(table.difference["mine"])


def test_what_noise_explains_is_not_distinguishable(cells):
    table = as_new(cells["exact"][0], -0.001, 0.1).compare(stored=STORED).table
    assert set(table.verdict[table.model == "exact"]) == {"not distinguishable"}


def test_bounds_are_compared_with_bounds(cells):
    result = cells["dmm"][0]
    table = as_new(result, 5.0).compare("bound", STORED).table.set_index("model")
    assert table.nats_per_step["mine"] == pytest.approx(result.per_step("bound"))
    with pytest.raises(ConfigError, match="metric: 'elbo' is not one of is, bound"):
        result.compare("elbo")


def test_markdown_has_the_units_and_the_rule(cells):
    text = str(as_new(cells["exact"][0]).compare(stored=STORED))
    assert "| **mine**" in text and "Nats per step of data normalised by σ = 7.25087" in text
    assert "Holm" in text and text.count("\n|") == 10


def test_the_figure_has_a_row_per_stored_model(cells, tmp_path):
    standing = as_new(cells["dmm"][0], -0.01, 0.1, title="$ours$ | mine").compare(stored=STORED)
    path = standing.figure(tmp_path / "x.svg")
    text = path.read_text()
    shown = re.findall(r"<text[^>]*>(.*?)</text>", text)
    wanted = [f"{t.title} ({t.preset})" for t in standing.table.itertuples() if t.preset]
    assert [name for name in shown if name in wanted] == wanted[::-1]
    assert "$ours$ | mine against the stored models" in shown and "better" in shown
    assert standing.figure(tmp_path / "y.svg").read_bytes() == path.read_bytes()
    assert standing.figure(str(tmp_path / "x.png")).stat().st_size > 1000
    with pytest.raises(ConfigError, match=r"must end in \.svg, \.png, \.pdf"):
        standing.figure(tmp_path / "x.gif")
    assert "**$ours$ \\| mine**" in standing.to_markdown()


@pytest.mark.fault
def test_other_data_do_not_compare(cells, tmp_path):
    other = {**cells["exact"][0].data, "sha256": "0" * 64}
    with pytest.raises(DataError, match=r"to compare with: those of starter/dmm, .* other data"):
        as_new(cells["exact"][0], data=other).compare(stored=STORED)
    with pytest.raises(DataError, match="to compare with: none are stored"):
        as_new(cells["exact"][0]).compare(stored=tmp_path)


def test_stored_results_are_a_tidy_table(cells, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = repro.stored_results(task="linear_gaussian", model="dmm")
    assert isinstance(table, pd.DataFrame) and len(table) == 6
    assert not table.isna().any().any() and set(table.metric) == {"bound", "is"}
    chosen = table[(table.seed == 1) & (table.metric == "is")].iloc[0]
    assert chosen.nats_per_step == pytest.approx(cells["dmm"][1].per_step("is"))
    assert repro.results.record.Result is type(cells["dmm"][0])  # it is still the package
    with pytest.raises(DataError, match=r"results/ has no results of dm on linear_gaussian\."):
        repro.stored_results(task="linear_gaussian", model="dm")
    same = SimpleNamespace(name="linear_gaussian", sha256=cells["dmm"][0].data["sha256"])
    assert repro.stored_results(task=same, model="dmm").equals(table)
    other = SimpleNamespace(name="linear_gaussian", sha256="0" * 64)
    with pytest.raises(DataError, match="no results of dmm on linear_gaussian with the data 000"):
        repro.stored_results(task=other, model="dmm")


def test_the_table_of_all_numbers_is_the_committed_one(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    table = repro.stored_results()
    write_table(table, tmp_path / "all.csv")
    committed = ROOT / "paper_tables" / "all-numbers.csv"
    assert (tmp_path / "all.csv").read_bytes() == committed.read_bytes(), "repro paper-tables"
    assert committed.stat().st_size < 2_000_000
    trainings = table.groupby(["preset", "task", "model", "seed"])
    assert trainings.ngroups == len(list(STORED.glob("*/*/*/seed*.json")))
    again = pd.read_csv(committed)
    assert np.allclose(again.nats_per_step, table.nats_per_step, rtol=1e-7)


def test_the_command_shows_numbers_and_writes_them(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    command = ["results", "--task", "linear_gaussian", "--model", "dmm"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and len(done.stdout.splitlines()) == 7
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "numbers.csv")])
    assert done.exit_code == 0 and len(pd.read_csv(tmp_path / "numbers.csv")) == 6


@pytest.mark.fault
def test_parquet_needs_its_library_and_says_so(cells, tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "find_spec", lambda name: None)
    table = pd.DataFrame({"a": [1]})
    with pytest.raises(ConfigError, match=r"`pip install pyarrow`, or write .*x\.csv"):
        write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match=r"must end in \.csv or \.parquet"):
        write_table(table, tmp_path / "x.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_parquet_has_the_same_numbers(tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(ROOT)
    table = repro.stored_results(task="linear_gaussian")
    write_table(table, tmp_path / "x.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "x.parquet"), table)
