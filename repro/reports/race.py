"""The races of a cell as a table and a figure: how long each contender takes to the target."""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from repro.reports.sequence_plots import palette, save_svg, use_style
from repro.reports.tables import as_markdown
from repro.results.race import SIGNIFICANCE_LEVEL, Race, Target, times_to_target, wins_by_chance
from repro.runtime.files import write_text

AXIS_BELOW_TARGET = 6.0  # nats per step that the figure shows below the target


def write_race(groups: list[list[Race]], target: Target, folder: Path) -> list[Path]:
    """Write table.md and curve.svg of the races of one cell; return their paths.

    Args:
        groups: the seeds of each contender.
    """
    title = f"Race of {target.model} on {target.dataset} to {target.printed}"
    text = f"### {title}\n\n{as_markdown(as_table(groups, target))}\n\n{caption(groups, target)}\n"
    table, figure = folder / "table.md", folder / "curve.svg"
    write_text(table, text)
    save_svg(draw(groups, target), figure)
    return [table, figure]


def as_table(groups: list[list[Race]], target: Target) -> pd.DataFrame:
    """Return one row per contender, as text, the fastest first."""
    timed = _timed(groups)
    times = {
        group[0].contender: times_to_target(group, target, timed[group[0].contender]["cpu_seconds"])
        for group in groups
        if group[0].contender in timed
    }
    rows = []
    first: list[float] = []
    for group in sorted(groups, key=lambda group: _rank(times.get(group[0].contender, []))):
        name = group[0].contender
        own_times = times.get(name, [])
        first = first or own_times
        rows.append(_row(group, target, timed.get(name), own_times, first))
    return pd.DataFrame(rows)


def caption(groups: list[list[Race]], target: Target) -> str:
    """Return what the numbers are, and on which machines they were measured."""
    machines = "; ".join(
        f"{group[0].contender} on {', '.join(sorted({_machine(race) for race in group}))}"
        for group in groups
    )
    notes = [
        f"{g[0].contender}: {note}" for g in groups for note in {race.note for race in g} if note
    ]
    return " ".join(
        [
            f"Trainings until the validation bound reaches {target.valid_bound:.3f} nats per "
            f"step, which corresponds to the printed {target.printed}: "
            f"{' '.join(target.reason.split())} The test part is not read. Met: how many seeds "
            "reached it. ≥: a lower bound, since some seeds did not reach it and count with all "
            "that they were trained. CPU seconds: of training and validation as measured, "
            f"{machines}. Epoch, in turn: one epoch of each contender, timed alternately in one "
            "process on the machine of the first row; CPU seconds, in turn: the same times the "
            "epochs until the target. TFLOP: matrix products of valid steps, with the "
            "optimiser's. p: how often equal recipes would differ as much from the first row by "
            "chance, by the exact one-sided permutation test over seeds; up to "
            f"{SIGNIFICANCE_LEVEL:.2f} the first is called faster.",
            *notes,
        ]
    )


def draw(groups: list[list[Race]], target: Target) -> plt.Figure:
    """Return the validation bound against CPU seconds, a line per seed, and the target."""
    use_style()
    figure, axes = plt.subplots(figsize=(8, 4.5))
    tops = [target.valid_bound]
    for group, colour in zip(groups, palette(len(groups)), strict=True):
        for i, race in enumerate(group):
            seconds, bounds = (np.array(race.curve[c]) for c in ("cpu_seconds", "valid_bound"))
            label = race.contender if i == 0 else None
            axes.plot(seconds[seconds > 0], bounds[seconds > 0], color=colour, lw=1.2, label=label)
            tops.append(race.best())
            if met := race.at_target(target.valid_bound):
                axes.plot(met["cpu_seconds"], met["valid_bound"], "o", color=colour, ms=5)
    axes.axhline(target.valid_bound, color="black", lw=1.0, ls="--", label="target")
    axes.set(
        xscale="log",
        xlabel="CPU seconds (log scale)",
        ylabel="validation bound, nats/step",
        ylim=(target.valid_bound - AXIS_BELOW_TARGET, max(tops) + 0.1),
        title=f"{target.model} on {target.dataset}",
    )
    axes.legend(loc="lower right", frameon=False)
    return figure


def _timed(groups: list[list[Race]]) -> dict[str, dict]:
    # Of the records with epochs in turn, the one that timed the most contenders.
    return max((race.epochs_in_turn for group in groups for race in group), key=len, default={})


def _row(
    group: list[Race], target: Target, epoch: dict | None, times: list[float], first: list[float]
) -> dict:
    found = [race.at_target(target.valid_bound) for race in group]
    ends = [race.last() if row is None else row for race, row in zip(group, found, strict=True)]
    least = "≥ " if None in found else ""

    def mean(column: str, factor: float = 1.0) -> str:
        return f"{least}{factor * float(np.mean([row[column] for row in ends])):,.0f}"

    row = {
        "Recipe": group[0].contender,
        "Met": f"{len(found) - found.count(None)} of {len(group)}",
        "Best bound": f"{np.mean([race.best() for race in group]):.3f}",
        "Epochs": mean("epoch"),
        "Updates": mean("updates"),
        "CPU seconds": mean("cpu_seconds"),
    }
    if epoch is None:
        return row
    ours = float(np.mean(first))
    seconds = float(np.mean([end["epoch"] for end in ends])) * epoch["cpu_seconds"]
    return row | {
        "TFLOP": mean("epoch", epoch["flops"] / 1e12),
        "Epoch, in turn": f"{epoch['cpu_seconds']:.2f} s",
        "CPU seconds, in turn": mean("epoch", epoch["cpu_seconds"]),
        "Times the first": f"{least}{seconds / ours:.1f}" if math.isfinite(ours) else "",
        "p": "" if times is first else f"{wins_by_chance(first, times):.2f}",
    }


def _rank(times: list[float]) -> tuple[float, float]:
    reached = [time for time in times if math.isfinite(time)]
    return -len(reached) / max(1, len(times)), float(np.mean(reached)) if reached else math.inf


def _machine(race: Race) -> str:
    return f"{race.environment['device']}, {race.environment['threads']} thread(s)"
