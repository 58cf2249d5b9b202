"""Compares one Result with every stored row of the same data, paired by test sequence."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from repro.errors import ConfigError, DataError, require_known
from repro.results.comparison import LEVEL, MARGIN, holm, p_below
from repro.results.record import (
    Result,
    error_over_sequences,
    paired_difference,
    read_cells,
    standard_error,
)
from repro.runtime.extras import require
from repro.runtime.files import replacing
from repro.runtime.paths import results_folder

METRICS = ("is", "bound")
BETTER, WORSE, EQUAL = "better", "worse", "not distinguishable"
COLOURS = {BETTER: "#029e73", EQUAL: "#949494", WORSE: "#d55e00"}
FIGURE_FORMATS = (".svg", ".png", ".pdf")
RULE = f"""\
- **Difference**: this model less the stored one (the mean over its seeds), paired by test
  sequence, ± its standard error over sequences.
- **better**, **worse**: the difference exceeds both errors, that over test sequences and that over
  seeds (t-tests, the larger p-value counts), at {LEVEL:.0%} over all rows by Holm's correction. A
  single seed is taken to spread like the other side's; where both have one, the difference must
  exceed {MARGIN:g} nats per step and three standard errors over sequences.
- Sampled numbers rise with K: compare equal K.
"""


@dataclass(frozen=True)
class Beside:
    """A Result compared with the stored ones of the same data.

    Attributes:
        table: one row per model, the best first; `preset` is empty in the row of this Result.
            Columns: nats_per_step; over_seeds and over_sequences, its standard errors; monte_carlo,
            its error from the evaluation's samples, the largest of any seed; difference and
            difference_error, this Result minus the row; verdict, of this Result against the row;
            likelihood, samples, seeds.
        units: of the numbers. left_out: stored rows of other data, which cannot be compared.
    """

    table: pd.DataFrame
    units: str
    left_out: list[str]

    def to_markdown(self) -> str:
        """Return the table with its units and the rule of its verdicts, as Markdown."""
        rows = [_row(entry) for entry in self.table.to_dict("records")]
        text = pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)
        others = f" Of other data, left out: {', '.join(self.left_out)}." if self.left_out else ""
        units = self.units[0].upper() + self.units[1:]
        return f"{text}\n\n{units}; higher is better.{others}\n\n{RULE}"

    def figure(self, path: Path | str) -> Path:
        """Draw the differences to the stored rows with their errors, one row each; return the path.

        Args:
            path: *.svg, *.png or *.pdf.
        Raises:
            ConfigError: the name ends in none of these.
        """
        require("matplotlib")
        from matplotlib import rc_context  # takes a second, and few ask for it
        from matplotlib.figure import Figure

        path = Path(path)
        if path.suffix not in FIGURE_FORMATS:
            raise ConfigError(f"{path}: the name must end in {', '.join(FIGURE_FORMATS)}.")
        fixed: dict = {"svg.hashsalt": "repro", "svg.fonttype": "none", "text.parse_math": False}
        with replacing(path) as partial, rc_context(fixed):
            figure = Figure(figsize=(8, 1.2 + 0.3 * len(self.table)))
            self._draw(figure.subplots())
            kind = path.suffix.removeprefix(".")
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(partial, format=kind, bbox_inches="tight", metadata=metadata)
        return path

    def _draw(self, axes: Any) -> None:
        own_row = self.table[self.table["preset"] == ""].iloc[0]
        rows = self.table[self.table["preset"] != ""].iloc[::-1].reset_index(drop=True)
        for verdict, colour in COLOURS.items():
            chosen = rows[rows["verdict"] == verdict]
            bars = {"xerr": chosen["difference_error"], "fmt": "o", "color": colour, "capsize": 3}
            if len(chosen):
                axes.errorbar(chosen["difference"], chosen.index, label=verdict, **bars)
        axes.axvline(0.0, color="black", lw=1.0)
        axes.set_yticks(rows.index, [f"{row.title} ({row.preset})" for row in rows.itertuples()])
        axes.set(title=f"{own_row['title']} against the stored models")
        axes.set_xlabel("difference, nats per step ± standard error over test sequences")
        axes.grid(axis="x", alpha=0.4)
        title = "by both errors, that over\nsequences and that over seeds"
        axes.legend(title=title, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)

    def __str__(self) -> str:
        return self.to_markdown()


def compare(result: Result, metric: str = "is", stored: Path | None = None) -> Beside:
    """Return a Result beside the stored rows of its data; see `Result.compare`."""
    stored = stored or results_folder()
    require_known("metric", metric, METRICS)
    cells, left_out = _cells(result, stored)
    p_worse = [p_below([result], metric, cell, metric) for cell in cells]
    p_better = [p_below(cell, metric, [result], metric) for cell in cells]
    worse, better = holm(p_worse), holm(p_better)
    rows = [{**_numbers([result], metric), "preset": "", "verdict": ""}]
    for i, cell in enumerate(cells):
        difference, error = paired_difference([result], metric, cell, metric)
        rows.append(
            {
                **_numbers(cell, metric),
                "preset": cell[0].preset,
                "difference": difference,
                "difference_error": error,
                "verdict": BETTER if better[i] else WORSE if worse[i] else EQUAL,
            }
        )
    columns = ["preset", "model", "title", "nats_per_step", "over_seeds", "over_sequences"]
    columns += ["monte_carlo", "difference", "difference_error", "verdict"]
    columns += ["likelihood", "samples", "seeds"]
    table = pd.DataFrame(rows).reindex(columns=columns)
    table = table.sort_values("nats_per_step", ascending=False, kind="stable", ignore_index=True)
    return Beside(table, units_of(result), left_out)


def units_of(result: Result) -> str:
    """Return what a Result's per-step numbers are measured in."""
    std = result.data["std"]
    if result.data["kind"] == "binary":
        return "nats per step"
    scale = f"σ = {std[0]:.6g}" if len(set(std)) == 1 else "the training part's σ of each dimension"
    return f"nats per step of data normalised by {scale}"


def _cells(result: Result, stored: Path) -> tuple[list[list[Result]], list[str]]:
    found = read_cells(stored, result.dataset)
    same = [c for c in found if c[0].data["sha256"] == result.data["sha256"]]
    others = [f"{c[0].preset}/{c[0].model}" for c in found if c not in same]
    if not same:
        why = f"those of {', '.join(others)} are of other data" if others else "none are stored"
        raise DataError(
            f"no stored results of {result.dataset} in {stored}/ to compare with: {why}."
        )
    return same, others


def _numbers(cell: list[Result], metric: str) -> dict:
    values = [result.per_step(metric) for result in cell]
    averaged = np.mean([result.values(metric) for result in cell], axis=0)
    return {
        "model": cell[0].model,
        "title": cell[0].title,
        "nats_per_step": float(np.mean(values)),
        "over_seeds": standard_error(values),
        "over_sequences": error_over_sequences(averaged, cell[0].values("length")),
        "monte_carlo": max(result.monte_carlo_error(metric) for result in cell),
        "likelihood": cell[0].likelihood,
        "samples": cell[0].evaluation["num_samples"],
        "seeds": len(cell),
    }


def _row(entry: dict) -> dict:
    # A row of the Markdown table; that of the Result itself is in bold and has no difference.
    is_own = entry["preset"] == ""
    error = "" if np.isnan(entry["over_seeds"]) else f" ± {entry['over_seeds']:.4f}"
    gap = "" if is_own else f"{entry['difference']:+.4f} ± {entry['difference_error']:.4f}"
    title = str(entry["title"]).replace("|", "\\|")
    return {
        "Model": f"**{title}**" if is_own else title,
        "Preset": entry["preset"],
        "Nats per step ± seeds": f"{entry['nats_per_step']:.4f}{error}",
        "Difference ± sequences": gap,
        "This model is": entry["verdict"],
        "Likelihood": entry["likelihood"],
        "K": str(entry["samples"]),
        "Seeds": str(entry["seeds"]),
    }
