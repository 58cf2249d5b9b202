"""The first screen of a report: its numbers are those of the tables, its marks follow a rule."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from scipy import stats
from test_published import cells_of
from test_results import LENGTHS, result

from repro.cli.arguments import read_results
from repro.errors import DataError
from repro.reports.html import write_report
from repro.reports.overview import AS_GOOD, BEST, overview, what_was_run
from repro.reports.tables import numbers, write_tables
from repro.results.comparison import LEVEL, MARGIN, best_of, estimator
from repro.results.record import cells, read_cell


def cell(shifts, model, noise=0.0, count=40, **changes):
    """Results of a model, one per seed, each with its shift; `noise` is over test sequences."""
    rng = np.random.default_rng(list(map(ord, model)))
    each = noise * rng.standard_normal(count)
    each -= each.mean() + 2.0
    found = []
    for seed, shift in enumerate(shifts):
        values = {"length": np.ones(count), "is": each + shift, "bound": each + shift - 1.0}
        columns = {name: column.tolist() for name, column in values.items()}
        made = result(seed, model, **changes)
        found.append(dataclasses.replace(made, per_sequence={**columns}))
    return found


def told(loser, winner):
    best, as_good = best_of([loser, winner], ["is", "is"])
    assert best == 1
    return as_good == set()


# The rule


def test_a_clear_loss_is_marked():
    assert told(cell([-1.0, -1.01, -0.99], "a", 0.1), cell([0.0, 0.01, -0.01], "b", 0.1))


def test_a_loss_within_the_error_over_seeds_is_not():
    assert not told(cell([-1.0, 0.9, -0.9], "a", 0.01), cell([1.0, -0.9, 0.8], "b", 0.01))


def test_a_loss_within_the_error_over_sequences_is_not():
    loser, winner = cell([-0.5, -0.51, -0.49], "a", 3.0), cell([0.0, 0.01, -0.01], "b", 3.0)
    gap = loser[0].values("is") - winner[0].values("is")
    assert stats.ttest_1samp(gap, 0.0, alternative="less").pvalue > LEVEL
    assert not told(loser, winner)


@pytest.mark.oracle
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 0.9])
def test_both_tests_are_those_of_scipy(shift):
    loser = cell([-shift, 0.1 - shift, -0.15 - shift], "a", 1.0)
    winner = cell([0.5, 0.35, 0.55], "b", 1.0)
    seeds = [[r.per_step("is") for r in side] for side in (loser, winner)]
    means = [np.mean([r.values("is") for r in side], axis=0) for side in (loser, winner)]
    p = max(
        stats.ttest_ind(*seeds, alternative="less").pvalue,
        stats.ttest_rel(*means, alternative="less").pvalue,
    )
    assert told(loser, winner) == (p <= LEVEL)


@pytest.mark.oracle
def test_equal_models_are_seldom_told_from_the_best_of_two():
    rng = np.random.default_rng(0)
    lost = 0
    for _ in range(400):
        sides = [cell(rng.normal(0.0, 0.3, 3), name, 0.01) for name in ("a", "b")]
        lost += len(best_of(sides, ["is", "is"])[1]) == 0
    # The better of two is compared with the other by a one-sided test: twice the level at most.
    assert lost / 400 < 2 * LEVEL + 3 * np.sqrt(2 * LEVEL / 400)


@pytest.mark.oracle
def test_equal_models_are_seldom_told_from_the_best_of_six():
    """The best of six is the luckiest, too: the others are compared with each other as well."""
    rng, lost = np.random.default_rng(0), 0
    for _ in range(100):
        sides = [cell(rng.normal(0.0, 0.3, 3), str(i), 0.01) for i in range(6)]
        lost += len(best_of(sides, ["is"] * 6)[1]) < 5
    assert lost <= 12  # at most 5 % of 100, and 0.2 % of such draws exceed 12


def test_holm_makes_many_models_harder_to_tell():
    best = cell([0.0, 0.1, -0.1], "best", 0.001)
    losers = [cell([s - 0.24, s - 0.14, s - 0.34], f"m{s}", 0.001) for s in (0.0, 0.001, 0.002)]
    assert best_of([best, losers[0]], ["is"] * 2) == (0, set())
    assert best_of([best, *losers], ["is"] * 4) == (0, {1, 2, 3})


@pytest.mark.parametrize(("loss", "apart"), [(0.9 * MARGIN, False), (1.1 * MARGIN, True)])
def test_single_seeds_need_the_margin_of_the_check(loss, apart):
    assert told(cell([-loss], "a"), cell([0.0], "b")) == apart


def test_one_sequence_says_nothing():
    assert not told(cell([-5.0, -5.1], "a", count=1), cell([0.0, 0.1], "b", count=1))


# The table


def of_page(text):
    """The overview of a page: its headings, and its rows with the marks."""
    table = text.partition('id="overview">')[2].partition("</table>")[0]
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table)
    entries = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    plain = [[re.sub(r"<i>(.*?)</i>", r" \1", e).strip() for e in row] for row in entries]
    return re.findall(r"<th>(.*?)</th>", head)[1:], plain


def page_of(results, folder, left_out=(), description="what it is for"):
    write_tables(results, folder / "tables")
    path = folder / "report.html"
    write_report(results, folder, list(left_out), folder / "none.md", path, description=description)
    return path.read_text()


@pytest.mark.parametrize("preset", ["starter", "paper-music"])
def test_every_number_is_that_of_the_data_sets_own_table(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    results = read_results(None, ROOT / "results", preset)
    datasets, rows = of_page(page_of(results, tmp_path / preset))
    assert datasets == list(dict.fromkeys(r.dataset for r in results))
    shown = 0
    for index, dataset in enumerate(datasets):
        table = (tmp_path / preset / "tables" / f"{dataset}.md").read_text()
        column = {title: entries[index] for title, *entries in rows if entries[index]}
        expected = {row["Model"].removesuffix(" ‡"): row for row in cells_of(table)}
        assert set(column) == set(expected)
        for title, text in column.items():
            number = re.sub(f" ({BEST}|{AS_GOOD})$", "", text)
            kind = "FIVO" if "FIVO" in number else "IS"
            assert number.replace(" FIVO", "").removesuffix(" ‡") == expected[title][kind]
        assert sum(BEST in text for text in column.values()) == (len(column) > 1)
        shown += len(column)
    assert shown == len(cells(results))


def tables_of(results):
    names = dict.fromkeys(r.dataset for r in results)
    return {name: numbers([r for r in results if r.dataset == name]) for name in names}


def marks_of(results):
    rows = overview(results, tables_of(results))
    return {row["title"]: [n and n.mark for n in row["numbers"]] for row in rows}


def seeds_of(model, shift, **changes):
    found = [result(seed, model, shift, spread=0.001, **changes) for seed in range(3)]
    for made in found:
        made.environment["training"] |= {"commit": "d" * 40, "torch": "2"}
    return found


def test_the_best_and_its_equals_are_marked_and_a_reference_is_not():
    results = seeds_of("best", 1.0) + seeds_of("equal", 0.9999) + seeds_of("far", -1.0)
    results += seeds_of("truth", 2.0, true_parameters=True)
    expected = {"BEST": [BEST], "EQUAL": [AS_GOOD], "FAR": [""], "TRUTH": [""]}
    assert marks_of(results) == expected


def test_nothing_is_marked_where_nothing_can_be_compared():
    one = seeds_of("one", 0.0)
    assert marks_of(one) == {"ONE": [""]}
    other = seeds_of("two", 0.0, data={**one[0].data, "sha256": "another"})
    assert marks_of(one + other) == {"ONE": [""], "TWO": [""]}


def test_models_keep_the_order_of_their_data_sets():
    columns = {"x": ("a", "c", "e"), "y": ("a", "b", "c"), "z": ("d", "e")}
    results = [r for name, ms in columns.items() for m in ms for r in seeds_of(m, 0, dataset=name)]
    order = list(marks_of(results))
    for models in columns.values():
        assert [title for title in order if title.lower() in models] == [m.upper() for m in models]


@pytest.mark.parametrize(("gain", "metric"), [(0.1, "fivo"), (-0.1, "is")])
def test_the_particle_filters_estimate_counts_where_it_is_higher(gain, metric):
    made = result()
    fivo = (made.values("is") + gain * LENGTHS).tolist()
    evaluation = {**made.evaluation, "particles": 8}
    filtered = result(evaluation=evaluation, per_sequence={**made.per_sequence, "fivo": fivo})
    assert estimator([filtered]) == metric
    (row,) = overview([filtered], tables_of([filtered]))
    assert ("FIVO" in row["numbers"][0].text) == (metric == "fivo")


@pytest.mark.fault
def test_a_table_older_than_the_results_is_named():
    old, new = seeds_of("old", 0.0), seeds_of("new", 0.0)
    with pytest.raises(DataError, match=r"table of walk does not have new: run `repro tables`"):
        overview(old + new, {"walk": numbers(old)})


# The facts


def dated(made, training, evaluation):
    inner = {**made.environment["training"], "date": training}
    environment = {**made.environment, "training": inner, "date": evaluation, "clean": False}
    return dataclasses.replace(made, environment=environment)


def test_the_facts_are_stated(tmp_path):
    results = seeds_of("dmm", 0.0) + seeds_of("rnn", 0.0)
    results[0] = dated(results[0], "2026-01-02T03:04:05+00:00", "2026-01-03T00:00:00+00:00")
    results[1] = dated(results[1], "2026-01-01T20:00:00+00:00", "2026-01-02T00:00:00+00:00")
    results[5].training["diverged"] = "loss is nan"
    (tmp_path / "check.md").write_text("# Check\n\ncheck: 3 ok, 1 new.\n\nmore\n")
    facts = dict(what_was_run(results, ["x (dmm): not run"], tmp_path / "check.md"))
    assert facts["Models"] == ["2 models on 1 data set (2 cells), seeds 0, 1, 2: 6 results"]
    assert facts["Finished"] == ["2026-01-01 20:00 to 2026-01-03 00:00 UTC"]
    assert facts["Machine"] == ["CPU, 1 thread(s)"]
    assert facts["Commit"] == ["dddddddddd; cccccccccc (changed); cccccccccc"]
    assert facts["Left out"] == ["x (dmm): not run"]
    assert facts["Diverged"] == ["RNN on walk, seed 2"] and facts["Check"] == ["3 ok, 1 new."]


def test_unknown_facts_are_left_out_and_nothing_missing_is_stated(tmp_path):
    facts = dict(what_was_run(seeds_of("dmm", 0.0), [], tmp_path / "none.md"))
    assert "Finished" not in facts and "Check" not in facts
    assert facts["Left out"] == ["nothing"] and facts["Diverged"] == ["none"]


def test_the_page_has_the_facts_and_contents_whose_links_lead_somewhere(tmp_path):
    results = seeds_of("dmm", 0.0) + seeds_of("<b>", 0.0)
    page = page_of(results, tmp_path / "run", ["x (dmm): not run"], "a < b")
    assert "<dd>x (dmm): not run</dd>" in page and "a &lt; b" in page and "&lt;B&gt;" in page
    targets = re.findall(r'href="#([^"]+)"', page)
    assert {"overview", "walk", "check", "trust"} == set(targets)
    for target in targets:
        assert page.count(f'id="{target}"') == 1


def test_the_overview_reads_the_same_as_the_section_below_it(tmp_path):
    page = page_of(seeds_of("dmm", 0.0), tmp_path / "run")
    table = pd.read_csv(tmp_path / "run" / "tables" / "walk.csv")
    _, ((title, number),) = of_page(page)
    assert title == "DMM" and page.count(f"<td>{number}") == 2 and len(table) == 1


def test_a_name_with_html_is_text_also_in_the_caption(tmp_path):
    first, *_ = read_cell(ROOT / "results", "starter", "linear_gaussian", "dmm")
    training = {**first.training, "diverged": "loss"}
    named = dataclasses.replace(first, title="<script>x</script>", training=training)
    page = page_of([named], tmp_path)
    *_, caption = page.split('<div class="caption">')
    assert "&lt;script&gt;x&lt;/script&gt;, seed 0" in caption and "<script>x" not in page
