"""Published tables compared with hand-made results."""

import dataclasses
import math

import pandas as pd
import pytest
from conftest import ROOT
from test_results import result

from repro.errors import ConfigError, DataError
from repro.reports.printed import COLUMNS, EVIDENCE, KNOWN_VERDICTS
from repro.reports.published import render_published
from repro.reports.verdicts import verdict
from repro.results.record import Result, result_path, write


def printed(folder, *rows, **same):
    """Write published.csv: one mapping per row, merged over what all rows share."""
    usual = {"unit": "nats/step", "evidence": "read", "source": "the paper"} | same
    rows = [dict.fromkeys(COLUMNS, "") | usual | row for row in rows]
    pd.DataFrame(rows).to_csv(folder / "published.csv", index=False)


def row_of(model, metric, value, dataset="walk", **more):
    named = {"model": model, "model_as_printed": model.upper(), "metric": metric}
    return named | {"value": value, "dataset": dataset} | more


def cells_of(text):
    """The rows of every table of a Markdown file, as mappings from heading to entry."""
    found, header = [], None
    for line in text.splitlines():
        entries = [entry.strip() for entry in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = entries
        elif not line.startswith("|:"):
            found.append(dict(zip(header, entries, strict=True)))
    return found


@pytest.fixture
def folder(tmp_path):
    """A table with two models; results stored for three seeds of one."""
    (tmp_path / "table.yaml").write_text('title: "A table"\npreset: test\nmodels: [dmm, rnn]\n')
    printed(
        tmp_path,
        row_of("rnn", "nll", "3.100", evidence="recalled", source=""),
        row_of("dmm", "is_nll", "2.000", samples="2000"),
        row_of("dmm", "bound_nll", "9.000", evidence="quoted"),
        row_of(
            "dmm",
            "bound_nll_per_sequence",
            "1.000",
            verdict="printed cell inconsistent",
            note="impossible cell",
        ),
    )
    for seed in range(3):
        write(result(seed), result_path(tmp_path / "results", "test", "walk", "dmm", seed))
    return tmp_path


def test_every_printed_number_is_next_to_ours_with_a_verdict(folder):
    paths = render_published(folder, folder / "results")
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.html"]
    a, b, c, missing = cells_of((folder / "table.md").read_text())
    cell = [result(seed) for seed in range(3)]
    assert a["Published"] == "2.000"  # as printed, with its zeros
    mean = -sum(r.per_step("is") for r in cell) / 3
    assert float(a["Difference"]) == pytest.approx(mean - 2.0, abs=5e-4)
    assert b["Verdict"] == "better" and int(b["Seeds"]) == 3
    assert b["Published"] == "9.000 (quoted)"
    assert c["Verdict"] == "printed cell inconsistent" and c["Published"] == "1.000 [1]"
    assert missing["Verdict"] == "not run" and missing["Published"] == "3.100 (recalled)"
    assert missing["Ours"] == ""
    assert "[1] impossible cell." in (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("difference", "lower_is_better", "expected"),
    [
        (0.05, True, "reproduced"),
        (-0.05, False, "reproduced"),
        (0.06, True, "worse"),
        (-0.06, True, "better"),
        (0.06, False, "better"),
        (-0.06, False, "worse"),
    ],
)
def test_verdict_follows_the_stated_rule(difference, lower_is_better, expected):
    assert verdict(difference, 0.05, lower_is_better) == expected


@pytest.fixture
def sequences_table(tmp_path):
    """A table in nats per sequence: a licensed column without results, an open one with three."""
    (tmp_path / "table.yaml").write_text(
        'title: "Speech"\npreset: {timit: test, walk: test}\nmodels: [dmm]\n'
        "without_results: {timit: licensed data not supplied}\nopen: {walk: test}\n"
    )
    cell = [result(seed) for seed in range(3)]
    for seed, r in enumerate(cell):
        write(r, result_path(tmp_path / "results", "test", "walk", "dmm", seed))
    mean = sum(r.per_sequence_mean("bound") for r in cell) / 3
    printed(
        tmp_path,
        row_of("dmm", "bound_ll", "28805", "timit"),
        row_of("dmm", "bound_ll", f"{mean - 0.1 * abs(mean):.6f}"),
        unit="nats/sequence",
    )
    return tmp_path, mean


def test_sequences_are_higher_is_better_and_missing_licences_are_visible(sequences_table):
    folder, mean = sequences_table
    render_published(folder, folder / "results")
    lines = (folder / "table.md").read_text().splitlines()
    licensed, ours, open_row = (line for line in lines if line.startswith("| DMM"))
    assert "licensed data not supplied" in licensed
    assert "better" in ours  # a tenth above the print
    columns = [entry.strip() for entry in open_row.strip("|").split("|")]
    assert float(columns[1].partition(" ")[0]) == pytest.approx(mean, abs=0.05)
    bits = -mean / (28 / 5) / (2 * math.log(2))  # for the bound; the estimate is 0.5 nats higher
    assert float(columns[4].partition(" ")[0]) == pytest.approx(
        bits - 0.5 / (28 / 5) / (2 * math.log(2)), abs=0.01
    )


@pytest.mark.parametrize(("count", "used"), [(10, "is_10"), (5000, "is")])
def test_an_estimate_has_as_many_samples_as_the_printed_one_where_they_are_stored(
    sequences_table, count, used
):
    folder, _ = sequences_table
    cell = [result(seed) for seed in range(3)]
    for seed, r in enumerate(cell):
        r.per_sequence["is_10"] = [value - 3.0 for value in r.per_sequence["is"]]
        write(r, result_path(folder / "results", "test", "walk", "dmm", seed))
    row = row_of("dmm", "is_ll", "-100", samples=str(count))
    printed(folder, row, unit="nats/sequence")
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    row, open_row = (
        [entry.strip() for entry in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| DMM")
    )
    mean = sum(r.per_sequence_mean(used) for r in cell) / 3
    assert float(row[5]) == pytest.approx(mean + 100, abs=5e-4)
    assert f"importance-sampled estimate with {count} samples" in " ".join(text.split())
    # The open data set has a column of that many samples only if they are stored.
    assert (f"≈ {count}, nats/sequence" in text) == (used == "is_10")
    most = sum(r.per_sequence_mean("is") for r in cell) / 3
    assert float(open_row[-5].partition(" ")[0]) == pytest.approx(most, abs=0.05)


def test_a_data_set_that_replaces_the_printed_one_is_named(sequences_table):
    folder, mean = sequences_table
    (folder / "table.yaml").write_text(
        'title: "Speech"\npreset: test\nmodels: [dmm]\n'
        "instead: {timit: {dataset: walk, note: ours walks}}\n"
    )
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    row, own = (line for line in text.splitlines() if line.startswith("| DMM"))
    _, data, _, _, ours, difference, *_ = (entry.strip() for entry in row.strip("|").split("|"))
    assert data == "timit" and ours.endswith("[1]") and "[1] ours walks." in text
    assert float(ours.partition(" ")[0]) == pytest.approx(mean, abs=0.05)
    assert float(difference) == pytest.approx(mean - 28805, abs=5e-4)
    assert "[1]" not in own  # if the printed data set has Results, they are shown


def other_data(folder, metric="bound_nll_after_first", inferred=False, **more):
    """A table of one number that was printed for other data, which the data set `run` is."""
    settings = 'title: "T"\npreset: test\nmodels: [dmm]\nprinted_on: rolls\n'
    (folder / "table.yaml").write_text(settings)
    word = "other data (inferred)" if inferred else "other data"
    known = {"verdict": word, "verdict_note": "printed for runs"} | more
    printed(folder, row_of("dmm", metric, "4.74", **known))


def test_a_number_printed_for_other_data_gets_no_verdict_of_ours_there(folder):
    other_data(folder, printed_on="run")
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    here, there = cells_of(text)
    # Results from before the first step's share was stored show the bound, and say so.
    cell = [result(seed) for seed in range(3)]
    mean = -sum(r.per_step("bound") for r in cell) / 3
    assert float(here["Ours"].split()[0]) == pytest.approx(mean, abs=5e-3)
    assert here["Ours"].endswith("(b)") and here["Difference"] == ""
    assert here["Verdict"] == "other data [1]" and "[1] printed for runs." in text
    assert there["Data set"] == "run" and there["Verdict"] == "not run"


def test_on_the_data_it_was_printed_for_the_rule_holds(folder):
    other_data(folder, printed_on="run")
    for seed in range(3):
        r = result(seed)
        share = {**r.per_sequence, "first_log_likelihood": [-1.0] * 5}
        r = dataclasses.replace(r, preset="rolls", dataset="run", per_sequence=share)
        write(r, result_path(folder / "results", "rolls", "run", "dmm", seed))
    render_published(folder, folder / "results")
    _, there = cells_of((folder / "table.md").read_text())
    lengths, means = [4, 9, 6, 2, 7], []
    for seed in range(3):
        bounds = result(seed).per_sequence["bound"]
        rest = [-(b + 1.0) / (n - 1) for b, n in zip(bounds, lengths, strict=True)]
        means.append(sum(rest) / 5)
    assert float(there["Difference"]) == pytest.approx(sum(means) / 3 - 4.74, abs=5e-4)
    assert there["Verdict"] == "better" and there["Seeds"] == "3"


def test_data_inferred_to_be_others_are_marked_as_inferred(folder):
    other_data(folder, "is_nll", inferred=True)
    render_published(folder, folder / "results")
    (only,) = cells_of((folder / "table.md").read_text())
    assert only["Verdict"] == "other data (inferred) [1]" and only["Difference"] == ""


OUR_RECIPE = """
our_recipe:
  preset: tuned
  marks: {optimizer: muon, schedule: cosine}
  differs: the optimiser.
"""


def tuned(seed, preset="tuned", training=None, shift=0.5) -> Result:
    """A Result by our recipe, half a nat per step better."""
    recipe = {"model": {"name": "dmm", "training": training or {"optimizer": "muon"}}}
    return result(seed, shift=shift, preset=preset, recipe=recipe)


@pytest.fixture
def two_recipes(folder):
    """The table of `folder` with a preset for each recipe; one seed by ours."""
    settings = folder / "table.yaml"
    settings.write_text(settings.read_text() + OUR_RECIPE)
    write(tuned(0), result_path(folder / "results", "tuned", "walk", "dmm", 0))
    return folder


def test_two_recipes_are_side_by_side_and_never_mixed(two_recipes):
    before = two_recipes / "before"
    before.mkdir()
    for name in ("published.csv", "table.yaml"):
        text = (two_recipes / name).read_text().replace(OUR_RECIPE, "")
        (before / name).write_text(text)
    for folder in (before, two_recipes):
        render_published(folder, two_recipes / "results")
    alone = cells_of((before / "table.md").read_text())
    text = (two_recipes / "table.md").read_text()
    for one, both in zip(alone, cells_of(text), strict=True):
        for column, name in (
            ("Ours", "Paper's recipe"),
            ("Seeds", "Seeds, paper's"),
            ("Verdict", "Verdict, paper's"),
        ):
            assert both[name] == one[column]  # the paper's side is the same as alone
    first, *_, missing = cells_of(text)
    mean = -tuned(0).per_step("is")
    assert float(first["Our recipe"]) == pytest.approx(mean, abs=5e-5)
    assert first["Seeds, ours"] == "1" and first["Verdict, ours"] == "better"
    assert missing["Our recipe"] == "" and missing["Verdict, ours"] == "not run"
    words = " ".join(text.split())
    assert "**Paper's recipe**: preset test" in words
    assert "**Our recipe**: preset tuned; the optimiser." in words


@pytest.mark.parametrize("training", [{"schedule": "cosine"}, {"optimizer": "muon", "l2": 0.0}])
def test_our_recipe_under_the_papers_preset_is_refused(two_recipes, training):
    path = result_path(two_recipes / "results", "test", "walk", "dmm", 1)
    write(tuned(1, "test", training), path)
    with pytest.raises(DataError, match=r"seed1\.json: preset test is for the paper's recipe, but"):
        render_published(two_recipes, two_recipes / "results")


@pytest.mark.parametrize("training", [{"optimizer": "adam"}, {"l2_penalty": 0.1}])
def test_the_papers_recipe_under_our_preset_is_refused(two_recipes, training):
    path = result_path(two_recipes / "results", "tuned", "walk", "dmm", 2)
    write(tuned(2, training=training), path)
    with pytest.raises(DataError, match=r"has none of optimizer: muon, schedule: cosine"):
        render_published(two_recipes, two_recipes / "results")


def test_our_recipe_alone_is_the_only_one_compared(two_recipes):
    settings = two_recipes / "table.yaml"
    settings.write_text(settings.read_text().replace("preset: test\n", "", 1))
    render_published(two_recipes, two_recipes / "results")
    text = (two_recipes / "table.md").read_text()
    first, *_, missing = cells_of(text)
    assert float(first["Ours"].split()[0]) == pytest.approx(-tuned(0).per_step("is"), abs=5e-5)
    assert (first["Seeds"], first["Verdict"]) == ("1", "better")
    assert missing["Verdict"] == "not run" and "Our recipe" not in first
    assert "**Ours**: our recipe, preset tuned; the optimiser." in " ".join(text.split())
    write(
        tuned(1, training={"l2": 0.1}),
        result_path(two_recipes / "results", "tuned", "walk", "dmm", 1),
    )
    with pytest.raises(DataError, match="preset tuned is for our recipe, but this Result has none"):
        render_published(two_recipes, two_recipes / "results")


def test_a_table_without_any_preset_is_refused(folder):
    (folder / "table.yaml").write_text("title: T\nmodels: [dmm]\n")
    with pytest.raises(ConfigError, match=r"lacks the setting\(s\) preset"):
        render_published(folder, folder / "results")


def test_what_others_got_is_in_a_column_of_its_own(folder):
    row, again = row_of("dmm", "bound_nll", "2.0"), {"rerun": "-2.50", "rerun_source": "them"}
    printed(folder, row | again, row)
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    assert [r["Rerun by others"] for r in cells_of(text)] == ["-2.50 [1]", ""]
    assert "[1] them." in text
    printed(folder, row)
    render_published(folder, folder / "results")
    assert "Rerun by others" not in (folder / "table.md").read_text()


def with_statistics(folder, **statistics):
    """Store three seeds with more per-sequence statistics; return them."""
    found = []
    for seed in range(3):
        r = result(seed)
        more = {name: values(r) for name, values in statistics.items()}
        found.append(dataclasses.replace(r, per_sequence={**r.per_sequence, **more}))
        write(found[-1], result_path(folder / "results", "test", "walk", "dmm", seed))
    return found


def test_a_number_without_its_first_step_is_next_to_the_one_with_it(folder):
    cell = with_statistics(folder, first_log_likelihood=lambda r: [-1.0, -2.0, -3.0, -4.0, -5.0])
    printed(folder, row_of("dmm", "nll_after_first", "2.0"))
    render_published(folder, folder / "results")
    (row,) = cells_of((folder / "table.md").read_text())
    both = [-(r.values("is").sum()) for r in cell]
    after = [(total - 15.0) / (28 - 5) for total in both]
    assert float(row["Difference"]) == pytest.approx(sum(after) / 3 - 2.0, abs=5e-4)
    inner = row["Ours"].partition("(nll ")[2]
    assert float(inner.split()[0]) == pytest.approx(sum(both) / 28 / 3, abs=5e-3)


@pytest.mark.parametrize(
    ("value", "difference", "expected"),
    [(1.5, "+0.250", "worse"), (2.0, "+0.000", "reproduced"), (3.5, "-0.999", "better")],
)
def test_an_estimate_that_is_not_named_is_compared_with_a_range(
    folder, value, difference, expected
):
    """From the particle filter's, 1.75 nats per step, to the bound, about 2.5."""
    cell = with_statistics(folder, fivo=lambda r: [-1.75 * n for n in r.per_sequence["length"]])
    for seed, r in enumerate(cell):
        r.evaluation["particles"] = 20
        write(r, result_path(folder / "results", "test", "walk", "dmm", seed))
    bound = -sum(r.per_step("bound") for r in cell) / 3
    if value == 3.5:
        difference = f"{bound - 3.5:+.3f}"
    printed(folder, row_of("dmm", "unstated_nll", str(value)))
    render_published(folder, folder / "results")
    (row,) = cells_of((folder / "table.md").read_text())
    assert (row["Difference"], row["Verdict"]) == (difference, expected)
    low, high = (float(end.split()[0]) for end in row["Ours"].split(" to "))
    assert low == 1.75 and high == pytest.approx(bound, abs=5e-3)


def test_a_number_that_was_not_stored_is_asked_for(folder):
    printed(folder, row_of("dmm", "fivo_nll", "2.0"))
    with pytest.raises(DataError, match="seed 0, does not have fivo: evaluate again"):
        render_published(folder, folder / "results")


def test_a_missing_file_is_named(folder):
    (folder / "published.csv").unlink()
    with pytest.raises(ConfigError, match=r"published\.csv is missing"):
        render_published(folder, folder / "results")
    (folder / "table.yaml").unlink()
    with pytest.raises(ConfigError, match=r"table\.yaml is missing"):
        render_published(folder, folder / "results")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evidence": "red"}, "line 2: no evidence 'red'; did you mean 'read'"),
        ({"evidence": ""}, "no evidence ''; known: read, quoted, recalled"),
        ({"evidence": "recalled, not re-read"}, "did you mean 'recalled'"),
        ({"verdict": "impossible"}, "no verdict 'impossible'"),
        ({"verdict": "other dat"}, "did you mean 'other data'"),
        ({"verdict": "other data"}, "verdict_note .* says which"),
        ({"verdict_note": "runs"}, "verdict_note .* says which"),
        ({"metric": "perplexity"}, "no metric 'perplexity'"),
        ({"model": "vrnn"}, "no model 'vrnn'"),
        ({"value": "4,74"}, "value '4,74' is not a number"),
        ({"value": "nan"}, "value 'nan' is not a number"),
        ({"samples": "2000.0"}, "samples '2000.0' is not a number"),
        ({"dataset": "../walk"}, "dataset '../walk' is not a name"),
        ({"source": ""}, "needs its source"),
        ({"evidence": "recalled"}, "a recalled one has none"),
        ({"unit": "bits"}, "need the same unit"),
        ({"rerun": "4,7"}, "rerun '4,7' is not a number"),
        ({"rerun": "4.7"}, "by others needs its source"),
        ({"rerun_source": "them"}, "and a source its number"),
        ({"printed_on": "run"}, "printed_on needs the verdict 'other data'"),
        ({"verdict_mark": "x"}, "columns missing or unknown: verdict_mark"),
    ],
)
def test_a_row_that_cannot_be_right_is_named_and_nothing_is_written(folder, change, words):
    printed(folder, row_of("dmm", "bound_nll", "4.74") | change)
    with pytest.raises(ConfigError, match=words) as caught:
        render_published(folder, folder / "results")
    assert "published.csv" in str(caught.value) and not (folder / "table.md").exists()


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("modles: [dmm]", "no setting 'modles'; did you mean 'models'"),
        ("preset: [a]", r"preset cannot be \['a'\]"),
        ("preset: {timit: test}", "no preset for walk"),
        ("our_recipe: {preset: tuned}", "our_recipe needs preset, differs"),
        (
            "our_recipe: {preset: tuned, marks: {}, differs: all}",
            "our_recipe needs preset, differs",
        ),
        ("our_recipe: {preset: test, marks: {a: b}, differs: all}", "test cannot be the preset of"),
        ("instead: {walk: run}", "instead cannot hold"),
        ("open: {walk: [test]}", "open cannot hold"),
        ("models: [dmm, 3]", "models cannot hold"),
        ("title: [", "is not YAML"),
    ],
)
def test_a_setting_that_cannot_be_right_is_named(folder, setting, words):
    settings = folder / "table.yaml"
    settings.write_text(settings.read_text() + setting)
    with pytest.raises(ConfigError, match=words):
        render_published(folder, folder / "results")


@pytest.mark.parametrize("path", sorted((ROOT / "paper_tables").glob("*/published.csv")), ids=str)
def test_committed_numbers_say_how_they_are_known(path):
    table = pd.read_csv(path, keep_default_na=False)
    assert set(table["evidence"]) <= set(EVIDENCE)
    assert set(table["verdict"]) <= {"", *KNOWN_VERDICTS}
    assert ((table["source"] == "") == (table["evidence"] == "recalled")).all()
