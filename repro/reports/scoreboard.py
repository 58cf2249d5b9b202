"""One table about all published tables: how many of their numbers are reproduced."""

import textwrap
from collections import Counter
from pathlib import Path

import pandas as pd

from repro.errors import ConfigError
from repro.reports.printed import INCONSISTENT, INFERRED, OTHER_DATA
from repro.reports.tables import as_markdown
from repro.reports.verdicts import NOT_OPEN, Compared, compare_published
from repro.runtime.files import write_text

COLUMNS = {
    "reproduced": "Reproduced",
    "better": "Better",
    "worse": "Worse",
    "not run": "Not run",
    OTHER_DATA: "Other data",
    INCONSISTENT: "Inconsistent",
    NOT_OPEN: "Data not open",
}
EXPLAINED = (
    "Printed numbers by the verdict beside the stored results, whose rule stands under each table "
    "in `paper_tables/`; a number that two tables print counts in both. Other data: printed for "
    "other data than ours, proven or inferred, until there are results on those. Inconsistent: "
    "printed cells that contradict each other. Data not open: licensed data that were not "
    "supplied, or data that were never released."
)
OURS = (
    "The same by our recipe: the models of the papers trained our way, as each caption says. Of {} "
    "printed numbers: {}."
)
BEGIN, END = "<!-- scoreboard: `repro paper-tables` writes this -->", "<!-- end of scoreboard -->"


def write_scoreboard(tables: Path, results: Path) -> Path:
    """Write scoreboard.md, one row per published table; return its path.

    Args:
        tables: the folder of the published tables. results: the stored results.
    Raises:
        ConfigError, DataError: as for `repro.reports.published.render_published`.
    """
    found = [
        compare_published(path.parent, results) for path in sorted(tables.glob("*/table.yaml"))
    ]
    paper = {
        settings["title"]: [_outcome(c) for c in rows]
        for settings, rows in found
        if "preset" in settings
    }
    ours = {
        settings["title"]: [(c.ours or c.paper).outcome for c in rows]
        for settings, rows in found
        if "our_recipe" in settings
    }
    text = f"# Scoreboard\n\n{_table(paper)}\n\n{textwrap.fill(EXPLAINED, width=100)}\n"
    if ours:
        counts = Counter(outcome for outcomes in ours.values() for outcome in outcomes)
        words = ("reproduced", "better", "worse", "not run")
        summary = ", ".join(f"{counts[word]} {word}" for word in words)
        summary += f", {counts.total() - sum(counts[word] for word in words)} not comparable"
        sentence = textwrap.fill(OURS.format(counts.total(), summary), width=100)
        text += f"\n{sentence}\n\n{_table(ours)}\n"
    write_text(tables / "scoreboard.md", text)
    return tables / "scoreboard.md"


def show_scoreboard(scoreboard: Path, page: Path) -> None:
    """Put the scoreboard between the two marks in a Markdown page.

    Without its heading, and without the second of two tables, whose numbers the sentence above it
    sums up.

    Raises:
        ConfigError: the page does not have each mark exactly once.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ConfigError(f"{page} needs the lines {BEGIN} and {END} once, in this order.")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    _, first, explained, *second = scoreboard.read_text(encoding="utf-8").split("\n\n")
    body = "\n\n".join([first, explained, *second[:1]]).rstrip("\n") + "\n"
    write_text(page, f"{before}{BEGIN}\n\n{body}\n{END}{after}")


def _outcome(compared: Compared) -> str:
    # Compared on the data that a number was printed for, once there are results; else on ours.
    on_printed_data = compared.on_printed_data
    return (
        on_printed_data.outcome
        if on_printed_data and on_printed_data.seeds
        else compared.paper.outcome
    )


def _table(outcomes: dict[str, list[str]]) -> str:
    everything = [outcome for found in outcomes.values() for outcome in found]
    rows = []
    for title, found in [*outcomes.items(), ("All", everything)]:
        counts = Counter(OTHER_DATA if outcome == INFERRED else outcome for outcome in found)
        numbers = {name: str(counts[outcome]) for outcome, name in COLUMNS.items()}
        rows.append({"Table": title, "Printed": str(len(found)), **numbers})
    return as_markdown(pd.DataFrame(rows))
