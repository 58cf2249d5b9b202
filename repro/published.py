"""Published tables beside our stored Results: one folder of paper_tables/ each."""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import yaml
from markdown_it import MarkdownIt

from repro.errors import ConfigError
from repro.files import write_text
from repro.reliability import RULE as DOUBTFUL
from repro.reliability import reliability
from repro.results import Result, read_cell, standard_error
from repro.tables import as_latex, as_markdown, with_error


class Metric(NamedTuple):
    """What a published number's name means: its symbol, its value of one Result, what is better."""

    symbol: str
    measure: Callable[[Result], float]
    lower_is_better: bool


METRICS = {
    "is_nll": Metric("a", lambda r: -r.per_step("is"), True),
    "nll": Metric("nll", lambda r: -r.per_step("is"), True),
    "bound_nll": Metric("b", lambda r: -r.per_step("bound"), True),
    "bound_nll_per_sequence": Metric("c", lambda r: -r.mean_of_averages("bound"), True),
    "ll": Metric("=", lambda r: r.per_sequence_mean("is"), False),
    "bound_ll": Metric("≥", lambda r: r.per_sequence_mean("bound"), False),
    "is_ll": Metric("≈", lambda r: r.per_sequence_mean("is"), False),
}
ESTIMATES = ("is_nll", "is_ll")

MEANINGS = {
    "nats/step": (
        "Negative log-likelihood of the test part in nats per step, lower is better. "
        "a: importance-sampled estimate, Σ over sequences ÷ Σ of lengths; b: the same for the "
        "bound; c: the bound, mean over sequences of each one's own average; nll: exact."
    ),
    "nats/sequence": (
        "Average log-likelihood of the test part in nats per sequence of normalised data, higher "
        "is better. =: exact; ≥: the bound; ≈: importance-sampled{samples}. Such a number moves "
        "with the length of the sequences and with the normalising σ: compare it only where both "
        "are the same."
    ),
}
TOLERANCES = {  # as `_tolerance` computes them
    "nats/step": "0.05 (the spread between the DMM authors' own reruns)",
    "nats/sequence": "1 % of the printed number",
}
RULE = (
    "± is the standard error over seeds. **reproduced**: the difference is at most {tolerance} or "
    "two standard errors, whichever is more; **better**, **worse**: beyond that; **not run**: "
    "nothing is stored. †: {doubtful}: more samples would still raise the estimate."
)


def _tolerance(unit: str, printed: float) -> float:
    return 0.05 if unit == "nats/step" else 0.01 * abs(printed)


def render_published(folder: Path, results: Path) -> list[Path]:
    """Write table.md, .tex and .html of a published table; return their paths.

    Args:
        folder: has published.csv (a number a row, with where it was read) and table.yaml: title;
            order of models; `preset` whose Results stand beside the print (one, or by data set);
            which other data set stands in for one `instead`, with a note; what to say of data sets
            without Results; open data sets to show below, with theirs.
        results: the stored results.
    Raises:
        ConfigError: a file is missing or names a metric that nobody defined.
    """
    settings, published = _read(folder)
    unit = published["unit"].iloc[0]
    notes: list[str] = []
    rows = [_row(row, settings, results, notes) for row in published.to_dict("records")]
    printed = published.loc[published["metric"] == "is_ll", "samples"].dropna()
    samples = sorted({int(count) for count in printed})
    counts = " or ".join(map(str, samples))
    with_samples = f" with {counts} samples, ours with its most where it lacks these"
    meaning = MEANINGS[unit].format(samples=with_samples if samples else "")
    rule = RULE.format(tolerance=TOLERANCES[unit], doubtful=DOUBTFUL)
    text = textwrap.fill(f"{meaning} {rule}", width=100) + "\n\n"
    text += "\n".join(f"[{i}] {note}.\n" for i, note in enumerate(notes, start=1))
    parts = [(pd.DataFrame(rows), text)]
    for dataset, preset in settings.get("open", {}).items():
        cells = [read_cell(results, preset, dataset, model) for model in settings["models"]]
        if any(cells):
            parts.append(open_columns([cell for cell in cells if cell], samples))
    return _write(folder, settings["title"], parts)


def open_columns(cells: list[list[Result]], printed: list[int]) -> tuple[pd.DataFrame, str]:
    """Return a data set's numbers in the units of a table of sequences, and what they mean.

    Args:
        printed: with how many samples the table's own estimates are; a column each, where some
            cell has it, beside that of the most samples.
    """
    rows, samples = [], max(cell[0].evaluation["num_samples"] for cell in cells)
    estimated = f"≈ {samples} or " if samples > 1 else ""
    stored = [n for n in printed if any(f"is_{n}" in cell[0].per_sequence for cell in cells)]
    for cell in cells:
        first = cell[0]
        how = cell[0].likelihood
        trust = reliability(cell)
        dims = first.data["dim"] * math.log(2.0)
        rows.append(
            {
                "Model": first.title,
                "≥, nats/sequence": _per_sequence(cell, "bound") if how == "sampled" else "",
                **{f"≈ {n}, nats/sequence": _per_sequence(cell, f"is_{n}") for n in stored},
                f"{estimated}=, nats/sequence": _per_sequence(cell, "is") + " †" * trust.doubtful,
                "nats/step": _with_seed_error([r.per_step("is") for r in cell]),
                "bits/dimension": _with_seed_error([-r.per_step("is") / dims for r in cell]),
                "ESS": f"{trust.size:.3g}" if how == "sampled" else how,
                "Seeds": str(len(cell)),
            }
        )
    data = cells[0][0].data
    steps, sequences = data["steps"]["test"], data["sequences"]["test"]
    text = textwrap.fill(
        f"{data['name']}, preset {cells[0][0].preset}: open data, no published number. σ = "
        f"{data['std'][-1]:.5g}, {sequences} test sequences of {steps / sequences:.1f} steps on "
        f"average, {data['dim']} values a step. nats/step, bits/dimension and ESS are of the "
        "estimate with the most samples.",
        width=100,
    )
    return pd.DataFrame(rows), f"{text}\n"


def verdict(difference: float, limit: float, lower_is_better: bool) -> str:
    """Return what a difference (ours − published) means by the rule stated under every table."""
    if abs(difference) <= limit:
        return "reproduced"
    return "better" if (difference < 0) == lower_is_better else "worse"


def _row(row: dict, settings: dict, results: Path, notes: list[str]) -> dict:
    preset = settings["preset"]
    preset = preset if isinstance(preset, str) else preset[row["dataset"]]
    cell = read_cell(results, preset, row["dataset"], row["model"])
    printed_mark = "" if pd.isna(row["note"]) else _mark(row["note"], notes)
    recalled = " (recalled)" if row["evidence"].startswith("recalled") else ""
    absent = settings.get("without_results", {}).get(row["dataset"], "not run")
    our_mark = ""
    if not cell and (other := settings.get("instead", {}).get(row["dataset"])):
        cell = read_cell(results, preset, other["dataset"], row["model"])
        our_mark = _mark(other["note"], notes) if cell else ""
    ours = _ours(cell, row, absent)
    return {
        "Model": row["model_as_printed"],
        "Data set": row["dataset"],
        "Number": METRICS[row["metric"]].symbol,
        "Published": f"{row['value']}{recalled}{printed_mark}",
        **ours,
        "Ours": ours["Ours"] + our_mark,
    }


def _mark(note: str, notes: list[str]) -> str:
    # The mark of a footnote; a new one joins `notes`.
    if note not in notes:
        notes.append(note)
    return f" [{notes.index(note) + 1}]"


def _ours(cell: list[Result], row: dict, absent: str) -> dict:
    inconsistent = "impossible" in str(row["note"])
    if not cell:
        outcome = "printed cell inconsistent" if inconsistent else absent
        return {"Ours": "", "Difference": "", "Seeds": "", "Verdict": outcome}
    metric = METRICS[row["metric"]]
    own = f"is_{row['samples']:.0f}"  # as many samples as in print, where they are stored
    stored = row["metric"] == "is_ll" and all(own in result.per_sequence for result in cell)
    values = np.array([r.per_sequence_mean(own) if stored else metric.measure(r) for r in cell])
    printed = float(row["value"])
    difference = values.mean() - printed
    limit = np.nanmax([_tolerance(row["unit"], printed), 2 * standard_error(values)])
    outcome = verdict(difference, limit, metric.lower_is_better)
    doubt = " †" * (row["metric"] in ESTIMATES and reliability(cell).doubtful)
    return {
        "Ours": _with_seed_error(values) + doubt,
        "Difference": f"{difference:+.3f}",
        "Seeds": str(len(cell)),
        "Verdict": "printed cell inconsistent" if inconsistent else outcome,
    }


def _per_sequence(cell: list[Result], metric: str) -> str:
    # Empty where the cell has no such number.
    if metric not in cell[0].per_sequence:
        return ""
    return _with_seed_error([result.per_sequence_mean(metric) for result in cell])


def _with_seed_error(values: Sequence[float] | np.ndarray) -> str:
    return with_error(float(np.mean(values)), standard_error(values))


def _write(folder: Path, title: str, parts: list[tuple[pd.DataFrame, str]]) -> list[Path]:
    markdown = "\n".join(f"{as_markdown(table)}\n\n{text}" for table, text in parts)
    latex = "".join(
        "".join(f"% {line}\n" for line in [title, *text.splitlines()]) + as_latex(table)
        for table, text in parts
    )
    html = "".join(
        f"{table.to_html(index=False, border=0)}\n{MarkdownIt().render(text)}"
        for table, text in parts
    )
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n'
    outputs = {
        "table.md": f"# {title}\n\n{markdown}",
        "table.tex": latex,
        "table.html": page + html,
    }
    for name, content in outputs.items():
        write_text(folder / name, content)
    return [folder / name for name in outputs]


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
