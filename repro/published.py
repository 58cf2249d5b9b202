"""Published tables beside our stored Results: one folder of paper_tables/ each."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from repro.errors import ConfigError
from repro.files import write_text
from repro.results import Result, read_cell
from repro.tables import UNRELIABLE_SIZE, as_latex, as_markdown, with_error

# The DMM authors' own reruns of their commands differ from the print by 0.02 to 0.05 nats a step.
TOLERANCE = 0.05

# What a published number's name means, as a function of one Result: nats, lower is better.
METRICS = {
    "is_nll": ("a", lambda r: -r.per_step("is")),
    "nll": ("nll", lambda r: -r.per_step("is")),
    "bound_nll": ("b", lambda r: -r.per_step("bound")),
    "bound_nll_per_sequence": ("c", lambda r: -r.mean_of_averages("bound")),
}

RULE = f"""\
Negative log-likelihood of the test part in nats per step, lower is better. a: importance-sampled
estimate, Σ over sequences ÷ Σ of lengths; b: the same for the bound; c: the bound, mean over
sequences of each one's own average; nll: exact. ± is the standard error over seeds.
**reproduced**: the difference is at most {TOLERANCE} (the spread between the DMM authors' own
reruns) or two standard errors, whichever is more; **better**, **worse**: beyond that; **not run**:
nothing is stored. †: the median effective sample size is below {UNRELIABLE_SIZE:g}, so that the
estimate rests on one sample."""


def render_published(folder: Path, results: Path) -> list[Path]:
    """Write table.md, .tex and .html of a published table; return their paths.

    Args:
        folder: has published.csv (a number a row, with where it was read) and table.yaml (title,
            preset whose Results stand beside it, order of models, footnotes by published cell).
        results: the stored results.
    Raises:
        ConfigError: a file is missing or names a metric that nobody defined.
    """
    settings, published = _read(folder)
    rows, notes = [], []
    for row in published.to_dict("records"):
        cell = read_cell(results, settings["preset"], row["dataset"], row["model"])
        number, _ = METRICS[row["metric"]]
        footnote = "" if pd.isna(row["note"]) else row["note"]
        if footnote and footnote not in notes:
            notes.append(footnote)
        recalled = " (recalled)" if row["evidence"].startswith("recalled") else ""
        mark = f" [{notes.index(footnote) + 1}]" if footnote else ""
        rows.append(
            {
                "Model": row["model_as_printed"],
                "Data set": row["dataset"],
                "Number": number,
                "Published": f"{row['value']}{recalled}{mark}",
                **_ours(cell, row),
            }
        )
    table = pd.DataFrame(rows)
    text = f"{RULE}\n\n" + "".join(f"[{i}] {note}.\n" for i, note in enumerate(notes, start=1))
    title = settings["title"]
    comment = "".join(f"% {line}\n" for line in [title, *text.splitlines()])
    html = table.to_html(index=False, border=0)
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n'
    outputs = {
        "table.md": f"# {title}\n\n{as_markdown(table)}\n\n{text}",
        "table.tex": comment + as_latex(table),
        "table.html": f"{page}{html}\n<pre>{text}</pre>\n",
    }
    for name, content in outputs.items():
        write_text(folder / name, content)
    return [folder / name for name in outputs]


def verdict(ours: float, error: float, published: float, inconsistent: bool) -> str:
    """Return what a difference means by the rule stated under every table."""
    if inconsistent:
        return "printed cell inconsistent"
    limit = max(TOLERANCE, 0.0 if math.isnan(error) else 2 * error)
    difference = ours - published
    return "reproduced" if abs(difference) <= limit else "better" if difference < 0 else "worse"


def _ours(cell: list[Result], row: dict) -> dict:
    inconsistent = "impossible" in str(row["note"])
    if not cell:
        outcome = "printed cell inconsistent" if inconsistent else "not run"
        return {"Ours": "", "Difference": "", "Seeds": "", "Verdict": outcome}
    _, measure = METRICS[row["metric"]]
    values = np.array([measure(result) for result in cell])
    printed = float(row["value"])
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    estimated = row["metric"] == "is_nll"
    size = np.median([result.values("ess") for result in cell])
    doubt = " †" if estimated and size < UNRELIABLE_SIZE else ""
    return {
        "Ours": with_error(values.mean(), error) + doubt,
        "Difference": f"{values.mean() - printed:+.3f}",
        "Seeds": str(len(cell)),
        "Verdict": verdict(values.mean(), error, printed, inconsistent),
    }


def _read(folder: Path) -> tuple[dict, pd.DataFrame]:
    try:
        settings = yaml.safe_load((folder / "table.yaml").read_text(encoding="utf-8"))
        published = pd.read_csv(folder / "published.csv", dtype={"value": str})
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename} is missing: a table needs both files.") from None
    unknown = set(published["metric"]) - set(METRICS)
    if unknown:
        raise ConfigError(
            f"{folder / 'published.csv'}: no metric {sorted(unknown)}; known: {', '.join(METRICS)}."
        )
    # By model as table.yaml lists them, then by data set as the file does.
    orders = {"model": settings["models"], "dataset": published["dataset"].unique().tolist()}
    return settings, published.sort_values(
        ["model", "dataset"], key=lambda names: names.map(orders[names.name].index), kind="stable"
    )
