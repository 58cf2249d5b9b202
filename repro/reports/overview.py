"""The first screen of a report: what was run, and one table of all models on all data sets."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from repro.errors import DataError
from repro.reports.tables import display
from repro.results.comparison import best_of, estimator
from repro.results.record import Result, cells

BEST, AS_GOOD = "★", "☆"
FIELDS = {"is": "IS", "fivo": "FIVO"}  # metric, and its column in a data set's table


class Number(NamedTuple):
    """One entry of the overview: the text of the data set's own table, and BEST, AS_GOOD or ""."""

    text: str
    mark: str


def overview(results: list[Result], tables: dict[str, pd.DataFrame]) -> list[dict]:
    """Return one row per model: its title and, for each data set, a Number or None.

    Args:
        results: the preset's Results, sorted by cell.
        tables: the numbers of each data set as `repro tables` wrote them.
    Raises:
        DataError: a table lacks a model that has Results.
    """
    found = cells(results)
    numbers: dict[tuple[str, str], Number] = {}
    for dataset, table in tables.items():
        column = [cell for cell in found if cell[0].dataset == dataset]
        numbers |= _column(dataset, column, table)
    titles = {cell[0].model: cell[0].title for cell in found}
    return [
        {"title": titles[model], "numbers": [numbers.get((name, model)) for name in tables]}
        for model in _in_order(found)
    ]


def _column(
    dataset: str, column: list[list[Result]], table: pd.DataFrame
) -> dict[tuple[str, str], Number]:
    displayed = dict(zip(table["model"], display(table).to_dict("records"), strict=True))
    missing = [cell[0].model for cell in column if cell[0].model not in displayed]
    if missing:
        raise DataError(
            f"the table of {dataset} does not have {', '.join(missing)}: run `repro tables` again."
        )
    metrics = [estimator(cell) for cell in column]
    marks = _marks(column, metrics)
    found = {}
    for cell, metric, mark in zip(column, metrics, marks, strict=True):
        text = displayed[cell[0].model][FIELDS[metric]] + " FIVO" * (metric == "fivo")
        text += " ‡" * any("diverged" in r.training for r in cell)
        found[dataset, cell[0].model] = Number(text, mark)
    return found


def _marks(column: list[list[Result]], metrics: list[str]) -> list[str]:
    # True parameters are a reference that no trained model can beat; Results on different test
    # sequences cannot be compared.
    trained = [i for i, cell in enumerate(column) if not cell[0].true_parameters]
    marks = [""] * len(column)
    if len(trained) < 2 or len({r.data["sha256"] for cell in column for r in cell}) > 1:
        return marks
    best, as_good = best_of([column[i] for i in trained], [metrics[i] for i in trained])
    for rank, i in enumerate(trained):
        marks[i] = BEST if rank == best else AS_GOOD if rank in as_good else ""
    return marks


def _in_order(found: list[list[Result]]) -> list[str]:
    # Each data set has its models in the order of config/models.yaml: a new model goes behind the
    # one that precedes it there.
    models: list[str] = []
    dataset, position = "", 0
    for cell in found:
        position = 0 if cell[0].dataset != dataset else position
        dataset, model = cell[0].dataset, cell[0].model
        if model not in models:
            models.insert(position, model)
        position = models.index(model) + 1
    return models


def what_was_run(
    results: list[Result], left_out: list[str], check: Path
) -> list[tuple[str, list[str]]]:
    """Return the facts of a preset's run, each a name and its lines; check.md has the verdict."""
    found = cells(results)
    models, datasets = {c[0].model for c in found}, {c[0].dataset for c in found}
    seeds = ", ".join(map(str, sorted({r.seed for r in results})))
    runs = [r.environment["training"] for r in results]
    both = runs + [r.environment for r in results]
    diverged = [
        f"{r.title} on {r.dataset}, seed {r.seed}" for r in results if "diverged" in r.training
    ]
    size = f"{_count(models, 'model')} on {_count(datasets, 'data set')} ({len(found)} cells)"
    facts = [
        ("Models", [f"{size}, seeds {seeds}: {len(results)} results"]),
        ("Finished", _dates(both)),
        ("Machine", _distinct(f"{run['device']}, {run['threads']} thread(s)" for run in runs)),
        ("Commit", _distinct(map(commit, both))),
        ("Check", _verdict(check)),
        ("Left out", left_out or ["nothing"]),
        ("Diverged", diverged or ["none"]),
    ]
    return [(name, lines) for name, lines in facts if lines]


def commit(environment: dict) -> str:
    """Return the commit of a training or an evaluation, as a page shows it."""
    changed = " (changed)" if environment.get("clean") is False else ""
    return environment["commit"][:10] + changed


def _count(names: set[str], what: str) -> str:
    return f"{len(names)} {what}{'s' * (len(names) != 1)}"


def _distinct(texts: Iterable[str]) -> list[str]:
    return ["; ".join(dict.fromkeys(texts))]


def _dates(environments: list[dict]) -> list[str]:
    # Results from before version 0.2.0 have no dates.
    dates = sorted(e["date"] for e in environments if "date" in e)
    if not dates:
        return []
    first, last = (date.replace("T", " ")[:16] for date in (dates[0], dates[-1]))
    return [f"{first} to {last} UTC"]


def _verdict(check: Path) -> list[str]:
    # The same line that `repro check` prints.
    lines = check.read_text(encoding="utf-8").splitlines() if check.exists() else []
    return [line.removeprefix("check: ") for line in lines if line.startswith("check: ")]
