"""Printed numbers compared with ours: what each kind of number means, and the verdict."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repro.errors import DataError
from repro.reports.printed import INCONSISTENT, preset_of, read_table
from repro.reports.tables import with_error
from repro.results.record import Result, read_cell, result_path, standard_error
from repro.results.reliability import reliability


class Metric(NamedTuple):
    """What a published number's name means.

    Attributes:
        symbol: what tables call it. measure: its value for one Result.
        statistic: the entry of `per_sequence` that it needs and older Results lack.
        nearest: the metric to show for Results that lack it, without a verdict.
    """

    symbol: str
    measure: Callable[[Result], float]
    lower_is_better: bool
    statistic: str = "bound"
    nearest: str = ""


METRICS = {
    "is_nll": Metric("a", lambda r: -r.per_step("is"), True),
    "nll": Metric("nll", lambda r: -r.per_step("is"), True),
    "bound_nll": Metric("b", lambda r: -r.per_step("bound"), True),
    "bound_nll_per_sequence": Metric("c", lambda r: -r.mean_of_averages("bound"), True),
    "bound_nll_after_first": Metric(
        "c′", lambda r: -r.bound_after_first(), True, "first_log_likelihood", "bound_nll"
    ),
    "ll": Metric("=", lambda r: r.per_sequence_mean("is"), False),
    "bound_ll": Metric("≥", lambda r: r.per_sequence_mean("bound"), False),
    "is_ll": Metric("≈", lambda r: r.per_sequence_mean("is"), False),
}
UNITS = ("nats/step", "nats/sequence")
ESTIMATES = ("is_nll", "is_ll")
NOT_OPEN = "data not open"  # the outcome if `without_results` says why nothing is run


class Beside(NamedTuple):
    """Our side of a printed number, as text; `outcome` is the verdict without its details."""

    value: str
    difference: str
    seeds: str
    verdict: str
    outcome: str


class Compared(NamedTuple):
    """A printed number, and ours: by the paper's recipe, by ours, and on the data of the print."""

    printed: dict
    paper: Beside
    ours: Beside | None
    there: Beside | None


def compare_published(folder: Path, results: Path) -> tuple[dict, list[Compared]]:
    """Return a table's settings, and each of its numbers compared with ours.

    Arguments and errors as for `repro.reports.published.render_published`.
    """
    settings, published = read_table(folder, METRICS, UNITS)
    rows = published.to_dict("records")
    return settings, [_compare(row, settings, results) for row in rows]


def verdict(difference: float, limit: float, lower_is_better: bool) -> str:
    """Return what a difference (ours − published) means by the rule stated under every table."""
    if abs(difference) <= limit:
        return "reproduced"
    return "better" if (difference < 0) == lower_is_better else "worse"


def _tolerance(unit: str, printed: float) -> float:
    return 0.05 if unit == "nats/step" else 0.01 * abs(printed)


def with_seed_error(values: Sequence[float] | np.ndarray) -> str:
    """Return the mean over seeds with its standard error, as text."""
    return with_error(float(np.mean(values)), standard_error(values))


def _compare(row: dict, settings: dict, results: Path) -> Compared:
    dataset, our = row["dataset"], settings.get("our_recipe")
    preset = preset_of(settings, dataset)
    absent = settings.get("without_results", {}).get(dataset)
    cell = read_cell(results, preset, dataset, row["model"])
    note = ""
    if not cell and (other := settings.get("instead", {}).get(dataset)):
        cell = read_cell(results, preset, other["dataset"], row["model"])
        note = other["note"] if cell else ""
    ours = there = None
    if our:
        _require_kind(cell, our, "the paper's", results)
        own = read_cell(results, our["preset"], dataset, row["model"])
        _require_kind(own, our, "our", results)
        ours = _beside(own, row, absent)
    if row["printed_on"]:
        own = read_cell(results, settings["printed_on"], row["printed_on"], row["model"])
        there = _beside(own, {**row, "verdict": ""}, None)
    return Compared({**row, "instead": note}, _beside(cell, row, absent), ours, there)


def _require_kind(cell: list[Result], our: dict, kind: str, results: Path) -> None:
    # The settings that only our recipe has show which recipe made a Result.
    for result in cell:
        training = result.recipe["model"].get("training", {})
        found = [key for key, value in our["marks"].items() if training.get(key) == value]
        if bool(found) == (kind == "our"):
            continue
        path = result_path(results, result.preset, result.dataset, result.model, result.seed)
        wanted = ", ".join(f"{key}: {value}" for key, value in our["marks"].items())
        reason = f"has {found[0]}: {training[found[0]]}" if found else f"has none of {wanted}"
        raise DataError(
            f"{path}: preset {result.preset} is for {kind} recipe, but this Result {reason}; "
            "store it under the other preset, or correct our_recipe in table.yaml."
        )


def _beside(cell: list[Result], row: dict, absent: str | None) -> Beside:
    known = row["verdict"]
    if not cell:
        outcome = known or ("not run" if absent is None else NOT_OPEN)
        return Beside("", "", "", known or absent or "not run", outcome)
    metric, seeds = METRICS[row["metric"]], str(len(cell))
    doubt = " †" * (row["metric"] in ESTIMATES and reliability(cell).doubtful)
    if known and any(metric.statistic not in result.per_sequence for result in cell):
        nearest = METRICS[metric.nearest]
        value = with_seed_error([nearest.measure(result) for result in cell])
        return Beside(f"{value} ({nearest.symbol})", "", seeds, known, known)
    own = f"is_{row['samples']}"  # as many samples as in print, where they are stored
    stored = row["metric"] == "is_ll" and all(own in result.per_sequence for result in cell)
    values = np.array([r.per_sequence_mean(own) if stored else metric.measure(r) for r in cell])
    printed = float(row["value"])
    difference = values.mean() - printed
    limit = np.nanmax([_tolerance(row["unit"], printed), 2 * standard_error(values)])
    outcome = known or verdict(difference, limit, metric.lower_is_better)
    comparable = known in ("", INCONSISTENT)
    return Beside(
        with_seed_error(values) + doubt,
        f"{difference:+.3f}" if comparable else "",
        seeds,
        outcome,
        outcome,
    )
