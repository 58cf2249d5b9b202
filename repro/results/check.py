"""Compares new Results with the stored ones, by a rule that is stated in the report."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from repro.config.traits import SAMPLED
from repro.results.comparison import LEVEL, MARGIN, POWER, Comparison, holm
from repro.results.record import Result, cells, read_cell

RULE = f"""\
- **worse**: the new log-likelihood (nats per step of the test part) is lower than the stored one by
  more than seeds explain. **better**: it is higher by as much. **ok**: neither.
- Two t-tests over seeds are made: one of the differences seed by seed, where both sides have the
  same seeds (it sees any change of runs that repeat their bits), and one of two samples with a
  pooled variance (for another machine, where they do not). Twice the smaller p-value counts; Holm's
  correction holds the chance of a false alarm in the whole table below {LEVEL:g}. The Monte Carlo
  error is part of the spread over seeds; the test sequences are the same on both sides.
- Where both sides have one seed, nothing says how far trainings spread: the difference must exceed
  {MARGIN:g} and three standard errors over test sequences.
- **Detectable**: the loss that would have been found with probability {POWER:g}.
- **not comparable**: recipe, data or number of samples changed, or one seed and one test sequence
  are all there is. **new**: nothing is stored. **missing**: a stored cell of the preset was not
  run.
- Only **worse** fails the check. A training that diverged where the stored one did not is worse."""


@dataclass(frozen=True)
class Verdict:
    """One metric of one cell: new and stored value, and the loss that could have been found."""

    dataset: str
    model: str
    metric: str
    verdict: str
    new: float = math.nan
    stored: float = math.nan
    detectable: float = math.nan
    note: str = ""


def compare(results: list[Result], stored: Path, preset: str, is_complete: bool) -> list[Verdict]:
    """Return the verdicts on every cell, for the bound and the importance-sampled estimate.

    Args:
        results: the new Results, sorted by cell.
        stored: the folder of stored results.
        is_complete: whether `results` should cover the whole preset, so that a stored cell without
            a new Result is reported as missing.
    """
    verdicts: list[Verdict] = []
    tested = []
    for cell in cells(results):
        old = read_cell(stored, preset, cell[0].dataset, cell[0].model)
        for metric in metrics_of(cell):
            reason = _incomparable(cell, old) if old else "nothing stored"
            diverged_seeds = _diverged(cell)
            if old and not reason and diverged_seeds and not _diverged(old):
                note = f"seed {', '.join(map(str, diverged_seeds))} diverged"
                verdicts.append(_without_test(cell, old, metric, "worse", note))
            elif reason:
                verdict = "not comparable" if old else "new"
                verdicts.append(_without_test(cell, old, metric, verdict, reason))
            else:
                tested.append((len(verdicts), cell, old, metric))
                verdicts.append(_without_test(cell, old, metric, "to be tested", ""))
    tests = [Comparison.of(cell, old, metric) for _, cell, old, metric in tested]
    worse = holm([test.p_worse for test in tests])
    better = holm([test.p_better for test in tests])
    for i, (row, cell, old, metric) in enumerate(tested):
        outcome = "worse" if worse[i] else "better" if better[i] else "ok"
        commits = [side[0].environment["commit"] for side in (old, cell)]
        note = "" if commits[0] == commits[1] else f"code {commits[0][:7]} → {commits[1][:7]}"
        verdicts[row] = Verdict(
            cell[0].dataset,
            cell[0].model,
            metric,
            outcome,
            tests[i].new,
            tests[i].stored,
            tests[i].detectable(len(tests)),
            note,
        )
    if is_complete:
        new_cells = {(r.dataset, r.model) for r in results}
        for folder in sorted((stored / preset).glob("*/*/")):
            dataset, model = folder.parts[-2:]
            if (dataset, model) not in new_cells:
                verdicts.append(Verdict(dataset, model, "-", "missing"))
    return verdicts


def metrics_of(cell: list[Result]) -> tuple[str, ...]:
    """Return the metrics to compare; unless the likelihood is sampled, both are one number."""
    return ("bound", "is") if cell[0].likelihood == SAMPLED else ("is",)


def _diverged(cell: list[Result]) -> list[int]:
    return [r.seed for r in cell if "diverged" in r.training]


def _without_test(
    new: list[Result], old: list[Result], metric: str, verdict: str, note: str
) -> Verdict:
    return Verdict(
        new[0].dataset,
        new[0].model,
        metric,
        verdict,
        float(np.mean([r.per_step(metric) for r in new])),
        float(np.mean([r.per_step(metric) for r in old])) if old else math.nan,
        note=note,
    )


def _incomparable(cell: list[Result], stored: list[Result]) -> str:
    new, old = cell[0], stored[0]
    if new.data["sha256"] != old.data["sha256"]:
        return "data changed"
    if new.recipe != old.recipe:
        return "recipe changed"
    if samples_asked_for(new) != samples_asked_for(old):
        return "number of samples changed"
    if len(cell) == len(stored) == len(new.per_sequence["length"]) == 1:
        return "one seed, one test sequence: nothing says how far numbers spread"
    return ""


def samples_asked_for(result: Result) -> tuple:
    """Return the number of samples of an evaluation, or its largest and the error asked for."""
    until = result.evaluation.get("until")
    if until is None:
        return (result.evaluation["num_samples"],)
    return until["num_samples"], until["error"]  # how many it took differs between seeds


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
            "Detectable": _number(v.detectable),
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
