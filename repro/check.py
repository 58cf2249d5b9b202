"""New Results against the stored ones, by a rule that is stated in the report."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from repro.results import Result, aggregate, error_over_sequences, read_cell
from repro.tables import cells

THRESHOLD = 3.0  # standard errors

RULE = f"""\
A cell is **worse** if its new log-likelihood (nats per step of the test part) lies more than
{THRESHOLD:g} standard errors below the stored one, **better** if as much above, else **ok**. The
squared standard error is the sum of the squared errors over seeds, new and stored, and of the
squared Monte Carlo errors of both. Where one side has a single seed, the standard error of the
difference over test sequences stands in for the seeds. A cell is **not comparable** if its recipe,
data or number of samples changed, **new** if nothing is stored for it, and **missing** if a stored
cell of the preset was not run. Only **worse** fails the check."""


@dataclass(frozen=True)
class Verdict:
    """One metric of one cell: new and stored value, their difference and its standard error."""

    dataset: str
    model: str
    metric: str
    verdict: str
    new: float = math.nan
    stored: float = math.nan
    error: float = math.nan
    note: str = ""


def compare(results: list[Result], stored: Path, preset: str, whole: bool) -> list[Verdict]:
    """Return the verdicts of every cell, for bound and importance-sampled estimate.

    Args:
        results: the new Results, sorted by cell.
        stored: the folder of stored results.
        whole: whether `results` are all of the preset, so that stored cells may be missing.
    """
    verdicts = []
    for cell in cells(results):
        old = read_cell(stored, preset, cell[0].dataset, cell[0].model)
        for metric in ("bound", "is"):
            verdicts.append(_verdict(cell, old, metric))
    if whole:
        seen = {(r.dataset, r.model) for r in results}
        for folder in sorted((stored / preset).glob("*/*/")):
            dataset, model = folder.parts[-2:]
            if (dataset, model) not in seen:
                verdicts.append(Verdict(dataset, model, "-", "missing"))
    return verdicts


def _verdict(new: list[Result], old: list[Result], metric: str) -> Verdict:
    dataset, model = new[0].dataset, new[0].model
    value = aggregate(new, metric)
    if not old:
        return Verdict(dataset, model, metric, "new", new=value.value, note="nothing stored")
    reference = aggregate(old, metric)
    reason = _changed(new[0], old[0])
    if reason:
        return Verdict(
            dataset, model, metric, "not comparable", value.value, reference.value, note=reason
        )
    over_seeds = math.hypot(value.over_seeds, reference.over_seeds)
    if math.isnan(over_seeds):
        averages = [np.mean([r.values(metric) for r in side], axis=0) for side in (new, old)]
        over_seeds = error_over_sequences(averages[0] - averages[1], new[0].values("length"))
    error = math.hypot(over_seeds, value.monte_carlo, reference.monte_carlo)
    difference = value.value - reference.value
    rounding = 1e-6 * abs(reference.value)  # of stored decimals and of sums
    limit = max(THRESHOLD * error, rounding)
    verdict = "worse" if difference < -limit else "better" if difference > limit else "ok"
    version, stored_version = (r[0].environment["commit"] for r in (new, old))
    note = "" if version == stored_version else f"code {stored_version[:7]} → {version[:7]}"
    return Verdict(dataset, model, metric, verdict, value.value, reference.value, error, note)


def _changed(new: Result, old: Result) -> str:
    if new.data["sha256"] != old.data["sha256"]:
        return "data changed"
    if new.recipe != old.recipe:
        return "recipe changed"
    if new.evaluation["num_samples"] != old.evaluation["num_samples"]:
        return "number of samples changed"
    return ""


def render(verdicts: list[Verdict]) -> str:
    """Return the verdicts and the rule as Markdown."""
    rows = [
        {
            "Data set": v.dataset,
            "Model": v.model,
            "Metric": v.metric,
            "New": _number(v.new),
            "Stored": _number(v.stored),
            "Difference": _number(v.new - v.stored, signed=True),
            "Error": _number(v.error),
            "Verdict": v.verdict,
            "Note": v.note,
        }
        for v in verdicts
    ]
    table = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
    return f"# Check against stored results\n\n{summary(verdicts)[0]}\n\n{table}\n\n{RULE}\n"


def summary(verdicts: list[Verdict]) -> tuple[str, bool]:
    """Return one line on all verdicts, naming the cells that got worse, and whether any did."""
    counts = pd.Series([v.verdict for v in verdicts]).value_counts()
    line = "check: " + ", ".join(f"{count} {name}" for name, count in counts.items())
    worse = [
        f"{v.dataset}/{v.model} ({v.metric} {v.new:.4f}, stored {v.stored:.4f})"
        for v in verdicts
        if v.verdict == "worse"
    ]
    return (f"{line}. WORSE: {'; '.join(worse)}" if worse else f"{line}."), bool(worse)


def _number(value: float, signed: bool = False) -> str:
    return "" if math.isnan(value) else f"{value:+.4f}" if signed else f"{value:.4f}"
