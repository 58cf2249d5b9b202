"""The scoreboard over all published tables, counted again from the rendered tables."""

import re
from collections import Counter

import pytest
from conftest import ROOT
from test_published import cells_of, printed, row_of
from test_results import result

from repro.errors import ConfigError
from repro.reports.html import write_report
from repro.reports.scoreboard import BEGIN, END, show_scoreboard, write_scoreboard
from repro.reports.tables import write_tables
from repro.results.record import read_cell, result_path, write

TABLES = ROOT / "paper_tables"
HEADINGS = {
    "reproduced": "Reproduced",
    "better": "Better",
    "worse": "Worse",
    "not run": "Not run",
    "other data": "Other data",
    "other data (inferred)": "Other data",
    "printed cell inconsistent": "Inconsistent",
    "licensed data not supplied": "Data not open",
    "data never released": "Data not open",
}


def counted(text, columns):
    """The scoreboard's numbers of a rendered table, from the words in one of `columns`."""
    words, on_printed_data = [], {}
    for row in cells_of(text):
        column = next((column for column in columns if column in row), None)
        if column and row["Data set"].endswith("_srnn"):  # what was printed for other data, on it
            on_printed_data[row["Published"]] = row[column] if row["Seeds"] else None
        elif column:
            words.append((row["Published"], row[column].partition(" [")[0]))
    return Counter(HEADINGS[on_printed_data.get(value) or word] for value, word in words)


def board(text, part):
    """What the scoreboard says about each table: part 0 by the paper's recipe, 1 by ours."""
    tables = text.split("The same by our recipe")
    return {row.pop("Table"): row for row in cells_of(tables[part])} if part < len(tables) else {}


@pytest.mark.parametrize("path", sorted(TABLES.glob("*/table.md")), ids=lambda p: p.parent.name)
def test_committed_numbers_are_those_of_the_rendered_tables(path):
    scoreboard = (TABLES / "scoreboard.md").read_text()
    text = path.read_text()
    title = text.partition("\n")[0].removeprefix("# ")
    by_recipe = [["Verdict", "Verdict, paper's"], ["Verdict, ours"]]
    if "**Ours**: our recipe," in " ".join(text.split()):
        by_recipe = [[], ["Verdict"]]
    for part, columns in enumerate(by_recipe):
        expected, shown = counted(text, columns), board(scoreboard, part).get(title)
        assert bool(shown) == bool(expected)
        if shown:
            assert int(shown.pop("Printed")) == sum(expected.values())
            assert {
                name: int(number) for name, number in shown.items() if number != "0"
            } == expected


def test_the_readme_shows_the_committed_scoreboard():
    text = (TABLES / "scoreboard.md").read_text()
    shown = (ROOT / "README.md").read_text().partition(BEGIN)[2].partition(END)[0]
    assert shown.strip() in text and text.count("| Table") == 2
    paper, ours = board(text, 0), board(text, 1)["All"]
    assert board(shown, 0) == paper and board(shown, 1) == {}
    last = shown.strip().rpartition("\n\n")[2].replace("\n", " ")
    for heading in ("Printed", "Reproduced", "Better", "Worse", "Not run"):
        word = heading.lower() if heading != "Printed" else "printed numbers"
        assert re.search(rf"\b{ours[heading]} (are )?{word}", last)


def test_the_committed_scoreboard_follows_from_the_stored_results(tmp_path):
    for path in TABLES.glob("*/table.yaml"):
        folder = tmp_path / path.parent.name
        folder.mkdir()
        for name in ("table.yaml", "published.csv"):
            (folder / name).write_text((path.parent / name).read_text())
    written = write_scoreboard(tmp_path, ROOT / "results")
    assert written.read_text() == (TABLES / "scoreboard.md").read_text()


@pytest.fixture
def tables(tmp_path):
    """Two tables and the results of one model."""
    cell = [result(seed) for seed in range(3)]
    for seed, r in enumerate(cell):
        write(r, result_path(tmp_path / "results", "test", "walk", "dmm", seed))
    mean = -sum(r.per_step("bound") for r in cell) / 3
    folders = [tmp_path / "tables" / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir(parents=True)
        settings = f"title: {folder.name}\npreset: test\nmodels: [dmm, rnn]\n"
        (folder / "table.yaml").write_text(
            settings + "without_results: {timit: licensed data not supplied}\n"
        )
    other = {"verdict": "other data (inferred)", "verdict_note": "other"}
    printed(
        folders[0],
        row_of("dmm", "bound_nll", f"{mean:.3f}"),
        row_of("dmm", "bound_nll", f"{mean + 1:.3f}"),
        row_of("dmm", "bound_nll", f"{mean - 1:.3f}"),
        row_of("dmm", "bound_nll", f"{mean - 2:.3f}"),
        row_of("dmm", "bound_nll", f"{mean - 2:.3f}", **other),
    )
    printed(
        folders[1],
        row_of("rnn", "nll", "1.0"),
        row_of("rnn", "nll", "1.0", "timit"),
        row_of("dmm", "nll", "1.0", verdict="printed cell inconsistent"),
    )
    return tmp_path / "tables"


def test_every_printed_number_counts_once(tables):
    text = write_scoreboard(tables, tables.parent / "results").read_text()
    one, two, whole = cells_of(text)
    assert one == {
        "Table": "one",
        "Printed": "5",
        "Reproduced": "1",
        "Better": "1",
        "Worse": "2",
        "Not run": "0",
        "Other data": "1",
        "Inconsistent": "0",
        "Data not open": "0",
    }
    assert (two["Not run"], two["Inconsistent"], two["Data not open"]) == ("1", "1", "1")
    for name, number in whole.items():
        if name != "Table":
            assert int(number) == int(one[name]) + int(two[name])
    assert "our recipe" not in text


def test_the_scoreboard_is_between_its_marks_and_replaces_the_old_one(tables, tmp_path):
    scoreboard = write_scoreboard(tables, tables.parent / "results")
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{BEGIN}\nold\n{END}\nand more\n")
    for _ in range(2):
        show_scoreboard(scoreboard, page)
        text = page.read_text()
        assert text.startswith(f"# A page\n\n{BEGIN}\n") and text.endswith(f"{END}\nand more\n")
        assert "old" not in text and text.count("Reproduced") == 1 and "# Scoreboard" not in text


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}\n{BEGIN}\n{END}"])
def test_a_page_without_the_marks_is_named_and_left_as_it_is(text, tables, tmp_path):
    scoreboard = write_scoreboard(tables, tables.parent / "results")
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match=r"page\.md needs the lines"):
        show_scoreboard(scoreboard, page)
    assert page.read_text() == text


def test_the_report_shows_the_scoreboard_if_there_is_one(tables, tmp_path):
    results = read_cell(ROOT / "results", "starter", "linear_gaussian", "exact")
    write_tables(results, tmp_path / "run" / "tables")
    scoreboard = write_scoreboard(tables, tables.parent / "results")
    for path, shown in ((scoreboard, True), (tmp_path / "absent.md", False)):
        page = write_report(results, tmp_path / "run", [], path, tmp_path / "report.html")
        text = page.read_text()
        assert ('<h2 id="scoreboard">' in text) == shown
        assert ("Reproduced" in text) == shown
