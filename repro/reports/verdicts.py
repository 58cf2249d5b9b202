"""Printed numbers compared with ours: what each kind of number means, and the verdict."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from repro.errors import DataError
from repro.reports.printed import INCONSISTENT, preset_of, read_table
from repro.reports.tables import with_error
from repro.results.comparison import estimator
from repro.results.record import Result, read_cell, result_path, standard_error
from repro.results.reliability import reliability


class Metric(NamedTuple):
    """What a published number's name means.

    Attributes:
        symbol: what tables call it. measure: its value for one Result.
        statistic: the entry of `per_sequence` that it needs and older Results lack.
        nearest: the metric to show for Results that lack it, without a verdict.
        beside: the metric of the same Results that tables show in brackets.
        loosest: where papers do not say which estimate they print, the metric at the other end of
            what it may be; `measure` is the closest.
    """

    symbol: str
    measure: Callable[[Result], float]
    lower_is_better: bool
    statistic: str = "bound"
    nearest: str = ""
    beside: str = ""
    loosest: str = ""


METRICS = {
    "is_nll": Metric("a", lambda r: -r.per_step("is"), True),
    "nll": Metric("nll", lambda r: -r.per_step("is"), True),
    "bound_nll": Metric("b", lambda r: -r.per_step("bound"), True),
    "bound_nll_per_sequence": Metric("c", lambda r: -r.mean_of_averages("bound"), True),
    "bound_nll_after_first": Metric(
        "c′", lambda r: -r.bound_after_first(), True, "first_log_likelihood", "bound_nll"
    ),
    "nll_after_first": Metric(
        "nll′", lambda r: -r.log_likelihood_after_first(), True, "first_log_likelihood", "", "nll"
    ),
    "fivo_nll": Metric("f", lambda r: -r.per_step("fivo"), True, "fivo"),
    "unstated_nll": Metric("e", lambda r: -r.per_step(estimator([r])), True, loosest="bound_nll"),
    "ll": Metric("=", lambda r: r.per_sequence_mean("is"), False),
    "bound_ll": Metric("≥", lambda r: r.per_sequence_mean("bound"), False),
    "is_ll": Metric("≈", lambda r: r.per_sequence_mean("is"), False),
}
UNITS = ("nats/step", "nats/sequence")
ESTIMATES = ("is_nll", "is_ll")
NOT_OPEN = "data not open"  # the outcome if `without_results` says why nothing is run


class OurNumber(NamedTuple):
    """Our number next to a printed one, as text; `outcome` is the verdict without its details."""

    value: str
    difference: str
    seeds: str
    verdict: str
    outcome: str


class Compared(NamedTuple):
    """A printed number, and ours: by the paper's recipe, by our recipe, and on the printed data.

    Where a table has our recipe alone, `paper` holds its number and `ours` is None.

    Attributes:
        printed: the row of published.csv, and under "instead" the note about other data.
        on_printed_data: on the data that the number was printed for, if that is not ours.
    """

    printed: dict
    paper: OurNumber
    ours: OurNumber | None
    on_printed_data: OurNumber | None


def compare_published(folder: Path, results: Path) -> tuple[dict, list[Compared]]:
    """Return a table's settings, and each of its numbers compared with ours.

    Arguments and errors as for `repro.reports.published.render_published`.
    """
    settings, published = read_table(folder, METRICS, UNITS)
    stored = functools.cache(functools.partial(read_cell, results))  # rows share cells
    rows = published.to_dict("records")
    return settings, [_compare(row, settings, results, stored) for row in rows]


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


def _compare(
    row: dict, settings: dict, results: Path, stored: Callable[[str, str, str], list[Result]]
) -> Compared:
    dataset, our = row["dataset"], settings.get("our_recipe")
    preset, alone = preset_of(settings, dataset), "preset" not in settings
    absent = settings.get("without_results", {}).get(dataset)
    cell = stored(preset, dataset, row["model"])
    note = ""
    if not cell and (other := settings.get("instead", {}).get(dataset)):
        cell = stored(preset, other["dataset"], row["model"])
        note = other["note"] if cell else ""
    ours = on_printed_data = None
    if our:
        _require_kind(cell, our, "our" if alone else "the paper's", results)
    if our and not alone:
        our_cell = stored(our["preset"], dataset, row["model"])
        _require_kind(our_cell, our, "our", results)
        ours = _our_number(our_cell, row, absent)
    if row["printed_on"]:
        our_cell = stored(settings["printed_on"], row["printed_on"], row["model"])
        on_printed_data = _our_number(our_cell, {**row, "verdict": ""}, None)
    return Compared({**row, "instead": note}, _our_number(cell, row, absent), ours, on_printed_data)


def _require_kind(cell: list[Result], our: dict, kind: str, results: Path) -> None:
    # The settings that only our recipe has show which recipe made a Result.
    for result in cell:
        training = result.recipe["model"].get("training", {})
        found = [key for key, value in our["marks"].items() if training.get(key) == value]
        if bool(found) == (kind == "our"):
            continue
        path = result_path(results, result.preset, result.dataset, result.model, result.seed)
        marks = ", ".join(f"{key}: {value}" for key, value in our["marks"].items())
        reason = f"has {found[0]}: {training[found[0]]}" if found else f"has none of {marks}"
        raise DataError(
            f"{path}: preset {result.preset} is for {kind} recipe, but this Result {reason}; "
            "store it under the other preset, or correct our_recipe in table.yaml."
        )


def _ends(row: dict, cell: list[Result]) -> list[np.ndarray]:
    # Ours, one value per seed; where the paper does not say what it prints, two ends of a range.
    metric, same_samples = METRICS[row["metric"]], f"is_{row['samples']}"
    measures = [metric.measure]
    if row["metric"] == "is_ll" and all(same_samples in result.per_sequence for result in cell):
        measures = [lambda r: r.per_sequence_mean(same_samples)]  # as many samples as in print
    if metric.loosest:
        measures.append(METRICS[metric.loosest].measure)
    return [np.array([measure(result) for result in cell]) for measure in measures]


def _our_number(cell: list[Result], row: dict, absent: str | None) -> OurNumber:
    known = row["verdict"]
    if not cell:
        outcome = known or ("not run" if absent is None else NOT_OPEN)
        return OurNumber("", "", "", known or absent or "not run", outcome)
    metric, seeds = METRICS[row["metric"]], str(len(cell))
    doubt = " †" * (row["metric"] in ESTIMATES and reliability(cell).doubtful)
    if known and any(metric.statistic not in result.per_sequence for result in cell):
        nearest = METRICS[metric.nearest]
        value = with_seed_error([nearest.measure(result) for result in cell])
        return OurNumber(f"{value} ({nearest.symbol})", "", seeds, known, known)
    printed, ends = float(row["value"]), _ends(row, cell)
    end = min(ends, key=lambda values: abs(values.mean() - printed))
    between = len(ends) > 1 and ends[0].mean() <= printed <= ends[-1].mean()
    difference = 0.0 if between else end.mean() - printed
    limit = np.nanmax([_tolerance(row["unit"], printed), 2 * standard_error(end)])
    outcome = known or verdict(difference, limit, metric.lower_is_better)
    comparable = known in ("", INCONSISTENT)
    text = " to ".join(map(with_seed_error, ends)) + doubt
    if metric.beside:
        other = METRICS[metric.beside]
        text += f" ({other.symbol} {with_seed_error([other.measure(r) for r in cell])})"
    return OurNumber(
        text,
        f"{difference:+.3f}" if comparable else "",
        seeds,
        outcome,
        outcome,
    )
