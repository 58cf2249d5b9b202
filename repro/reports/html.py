"""One HTML page with everything about a preset's run; it opens from disk, without a network."""

import base64
from itertools import groupby
from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt

from repro.errors import DataError
from repro.evaluation.audio import as_mp3
from repro.reports.overview import AS_GOOD, BEST, commit, overview, what_was_run
from repro.reports.tables import display
from repro.results.comparison import LEVEL
from repro.results.record import Result, cells
from repro.runtime.files import write_text


def write_report(
    results: list[Result],
    folder: Path,
    left_out: list[str],
    scoreboard: Path,
    path: Path,
    runs: Path | None = None,
    description: str = "",
    races: Path | None = None,
) -> Path:
    """Write the page of a preset; return its path.

    Args:
        results: the preset's Results, sorted by cell.
        folder: has its tables, figures and check.md.
        runs: the preset's folder under runs/, with its samples; default: `folder`.
        description: the preset's own, from its file.
        left_out: one line per data set or cell that has no Result, with the reason.
        scoreboard: Markdown about the published tables; left out if the file does not exist.
        races: has a folder per data set and model with the rendered race (`reports.race`).
    Raises:
        DataError: there are no tables yet, or they are older than the Results.
    """
    runs, sections = runs or folder, []
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")  # names may have a "<"
    tables: dict[str, pd.DataFrame] = {}
    for dataset, group in groupby(results, key=lambda r: r.dataset):
        table = folder / "tables" / f"{dataset}.csv"
        if not table.exists():
            raise DataError(f"{table} is missing: run `repro tables` first.")
        tables[dataset] = pd.read_csv(table)
        text = table.with_suffix(".md").read_text(encoding="utf-8")
        figures = sorted((folder / "figures").glob(f"{dataset}-*.svg"))
        found = cells(list(group))
        sections.append(
            {
                "name": dataset,
                "table": display(tables[dataset]).to_html(index=False, border=0),
                "caption": markdown.render(text.split("\n\n", 2)[2]),  # after heading and table
                "notes": found[0][0].data.get("notes", []),
                "figures": [_svg(figure) for figure in figures],
                "races": [
                    {
                        "table": markdown.render(race.read_text(encoding="utf-8")),
                        "figure": _svg(race.with_name("curve.svg")),
                    }
                    for race in sorted(races.glob(f"{dataset}/*/table.md") if races else [])
                ],
                "sounds": _sounds(found, runs),
                "origins": [_origin(cell) for cell in found],
            }
        )
    check, trust = folder / "check.md", runs.parent / "trust"
    costs = folder / "figures" / "cost.svg"
    environment = Environment(
        loader=PackageLoader("repro.reports"), autoescape=True, trim_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        preset=runs.name,
        description=description,
        facts=what_was_run(results, left_out, check),
        overview=overview(results, tables),
        costs=_svg(costs) if costs.exists() else "",
        best=BEST,
        as_good=AS_GOOD,
        level=f"{LEVEL:.0%}",
        sections=sections,
        check=markdown.render(_text(check)),
        scoreboard=markdown.render(_text(scoreboard)) if scoreboard.exists() else "",
        trust=markdown.render(_text(trust / "trust.md")),
        trust_figures=[_svg(figure) for figure in sorted(trust.glob("*.svg"))],
    )
    write_text(path, page + "\n")
    return path


def _origin(cell: list[Result]) -> dict:
    # Where a cell's numbers come from: everything that differs between machines and versions.
    first = cell[0]
    training = first.environment["training"]
    return {
        "title": first.title,
        "seeds": ", ".join(str(r.seed) for r in cell),
        "epochs": ", ".join(str(r.training["epochs"]) for r in cell),
        "commit": commit(training),
        "evaluated": commit(first.environment),
        "torch": training["torch"],
        "device": f"{training['device']}, {training['threads']} thread(s)",
        "data": first.data["sha256"][:12],
        "recipe": yaml.safe_dump(first.recipe, sort_keys=False, allow_unicode=True),
    }


def _sounds(found: list[list[Result]], folder: Path) -> list[dict]:
    # One real sequence, and one sample of each model, if the data are sound.
    sounds: list[dict] = []
    for cell in found:
        first = cell[0]
        samples = folder / first.dataset / first.model / f"seed{first.seed}" / "samples.npz"
        if not samples.exists():
            continue
        for title, kind in ([] if sounds else [("data", "data")]) + [(first.title, "samples")]:
            content = as_mp3(samples, kind)
            if content:
                code = base64.b64encode(content).decode()
                sounds.append({"title": title, "source": f"data:audio/mpeg;base64,{code}"})
    return sounds


def _text(path: Path) -> str:
    # Without the heading: the page has its own.
    text = path.read_text(encoding="utf-8") if path.exists() else "# \nnot run\n"
    return text.partition("\n")[2]


def _svg(path: Path) -> str:
    # Inline: from the <svg> tag on, without the XML declaration and the URL of its DTD.
    text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]
