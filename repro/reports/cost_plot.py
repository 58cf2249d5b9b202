"""What a model's quality costs: its test log-likelihood against its size and its training."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from scipy.optimize import isotonic_regression

from repro.reports.printed import read_table
from repro.reports.sequence_plots import palette
from repro.reports.verdicts import METRICS, UNITS
from repro.results.comparison import estimator
from repro.results.record import Result, cells, standard_error

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullLocator

COSTS = {"parameters": "parameters", "cpu_seconds": "CPU seconds of training"}
MARKERS = {"exact": "o", "Z by AIS": "^", "sampled": "s"}  # by how log p(x) is computed
LABEL_SIZE = 6.5  # points, of a printed number's label
LABEL_GAP = 1.25 * LABEL_SIZE / 72  # inches from one label to the next
HEIGHT = 3.0  # inches of a data set's panels, or more if its labels need more
TITLE_HEIGHT = 0.45  # inches between the panels of two data sets
LEGEND_COLUMNS = 5


class Printed(NamedTuple):
    """A printed number as a mark in a figure: nats per step, its label, and the model of ours."""

    value: float
    label: str
    model: str


def draw_cost(results: list[Result]) -> plt.Figure | None:
    """Return the test log-likelihood against parameters and CPU seconds, a point per model.

    Each point is the estimate closest to log p(x), as in the report's overview; bars are standard
    errors over seeds. A line shows a model that came with its true parameters. None where nothing
    was trained.

    Args:
        results: of one data set, sorted by cell.
    """
    found = cells(results)
    trained = [cell for cell in found if cell[0].training["epochs"]]
    if not trained:
        return None
    figure, grid = plt.subplots(1, len(COSTS), figsize=(10, 4), sharey=True)
    quality = [[r.per_step(estimator(cell)) for r in cell] for cell in trained]
    colours = palette(len(trained))
    for axes, (column, label) in zip(grid, COSTS.items(), strict=True):
        for cell, values, colour in zip(trained, quality, colours, strict=True):
            cost = _cost(cell, column)
            error = np.std(values, ddof=1) / len(cell) ** 0.5 if len(cell) > 1 else None
            height, title = np.mean(values), cell[0].title
            axes.errorbar(cost, height, error, fmt="o", color=colour, label=title)
        for cell in found:
            if cell[0].true_parameters:
                level = cell[0].per_step("is")
                axes.axhline(level, color="black", lw=1.0, label=cell[0].title)
        _use_log_scale(axes)
        axes.set_xlabel(f"{label} (log scale)")
    grid[0].set(ylabel="test log-likelihood, nats/step", title=results[0].dataset)
    grid[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    return figure


def printed_marks(tables: Path) -> dict[str, list[Printed]]:
    """Return the printed numbers in nats per step of each data set, sorted.

    One per paper and model: its closest estimate (importance-sampled or exact before a bound), at
    the best of its settings. Without numbers whose verdict is known beforehand, such as those of
    other data.

    Args:
        tables: the folder of the published tables.
    """
    best: dict[tuple[str, str, str], tuple[int, Printed]] = {}
    for path in sorted(tables.glob("*/table.yaml")):
        _, rows = read_table(path.parent, METRICS, UNITS)
        for row in rows[(rows["unit"] == "nats/step") & (rows["verdict"] == "")].to_dict("records"):
            limit = "≤ " * (row["relation"] == "le")
            label = f"{limit}{row['value']} {row['model_as_printed']} ({row['paper']})"
            mark = Printed(float(row["value"]), label, row["model"])
            ranked = list(METRICS).index(row["metric"]), mark
            key = row["dataset"], row["paper"], row["model"]
            best[key] = min(best.get(key, ranked), ranked)
    marks: dict[str, dict[tuple[float, str], Printed]] = {}
    for (dataset, *_), (_, mark) in best.items():  # once, if one paper quotes another's number
        marks.setdefault(dataset, {}).setdefault((mark.value, mark.model), mark)
    return {dataset: sorted(found.values()) for dataset, found in marks.items()}


def draw_all_costs(results: list[Result], marks: dict[str, list[Printed]]) -> plt.Figure | None:
    """Return negative log-likelihoods against parameters and CPU seconds, a row per data set.

    Each point is the estimate closest to log p(x); bars are standard errors over seeds; printed
    numbers are ticks on the right. None where there is one data set, or nothing was trained.

    Args:
        results: sorted by cell. marks: the printed numbers of each data set.
    """
    trained = [cell for cell in cells(results) if cell[0].training["epochs"]]
    names = list(dict.fromkeys(r.dataset for r in results))
    if len(names) < 2 or not trained:
        return None
    colours = _colours(trained)
    panel = max([HEIGHT, *(LABEL_GAP * (len(marks.get(name, [])) + 1) for name in names)])
    bottom = 0.7 + 0.25 * math.ceil(len(colours) / LEGEND_COLUMNS)  # inches: axis label and legend
    figure, grid = plt.subplots(
        len(names),
        len(COSTS),
        figsize=(11, (panel + TITLE_HEIGHT) * len(names) + bottom),
        sharex="col",
        sharey="row",
        layout="constrained",
    )
    for line, dataset in zip(grid, names, strict=True):
        for axes, column in zip(line, COSTS, strict=True):
            for cell in trained:
                if cell[0].dataset == dataset:
                    _draw_loss(axes, cell, column, colours[cell[0].model])
        line[0].set_ylabel("nats/step, lower is better", fontsize=9)
        line[0].set_title(dataset, loc="left")
        _draw_marks(line[-1], marks.get(dataset, []), colours, LABEL_GAP / panel)
    for axes, label in zip(grid[-1], COSTS.values(), strict=True):  # the rows share these axes
        _use_log_scale(axes)
        axes.set_xlabel(f"{label} (log scale)")
    legend_entries = {text: line for axes in grid.flat for line, text in _legend(axes)}
    figure.legend(
        legend_entries.values(),
        legend_entries.keys(),
        loc="outside lower center",
        ncols=LEGEND_COLUMNS,
        frameon=False,
    )
    return figure


def _cost(cell: list[Result], column: str) -> float:
    # CPU seconds are recorded to a tenth: a shorter training has 0, which a log axis cannot show.
    return max(0.1, float(np.mean([r.training[column] for r in cell])))


def _use_log_scale(axes: plt.Axes) -> None:
    # Few short labels such as "200 k": matplotlib's own choice overlaps within a decade.
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    in_decades = LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,))
    axes.xaxis.set_major_locator(MaxNLocator(4) if high < 5 * low else in_decades)
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.xaxis.set_minor_locator(NullLocator())


def _short(value: float, position: int) -> str:
    # No prefix below 1: "500 m" would be read as minutes.
    return f"{value:g}" if value < 1.0 else EngFormatter()(value)


def _legend(axes: plt.Axes) -> list[tuple]:
    return list(zip(*axes.get_legend_handles_labels(), strict=True))


def _colours(trained: list[list[Result]]) -> dict[str, tuple[float, float, float]]:
    # Each marker has its own colours, so that there are enough of them.
    colours: dict[str, tuple[float, float, float]] = {}
    for how in MARKERS:
        models = list(dict.fromkeys(c[0].model for c in trained if c[0].likelihood == how))
        colours |= dict(zip(models, palette(len(models)), strict=True))
    return colours


def _draw_loss(axes: plt.Axes, cell: list[Result], column: str, colour: tuple) -> None:
    metric = estimator(cell)
    loss = [-r.per_step(metric) for r in cell]
    cost = _cost(cell, column)
    error = standard_error(loss) if len(cell) > 1 else None
    style: dict = {"fmt": MARKERS[cell[0].likelihood], "color": colour, "markersize": 5}
    axes.errorbar(cost, float(np.mean(loss)), error, label=cell[0].title, **style)


def _draw_marks(axes: plt.Axes, marks: Sequence[Printed], colours: dict, gap: float) -> None:
    # Ticks at the right edge, in the colours of our models, and labels that do not overlap: they
    # are `gap` of the panel's height apart.
    if not marks:
        return
    values = [mark.value for mark in marks]
    axes.update_datalim([(1.0, min(values)), (1.0, max(values))], updatex=False)
    axes.autoscale_view(scalex=False)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    heights = spaced(values, gap * (high - low), low, high)
    edge = axes.get_yaxis_transform()  # x in shares of the panel, y in nats per step
    for mark, height in zip(marks, heights, strict=True):
        colour = colours.get(mark.model, "0.5")
        line = ([0.985, 1.0, 1.03, 1.05], [mark.value, mark.value, height, height])
        axes.plot(*line, color=colour, lw=0.9, transform=edge, clip_on=False)
        text: dict = {"fontsize": LABEL_SIZE, "va": "center", "color": "0.2"}
        axes.text(1.055, height, mark.label, transform=edge, **text)


def spaced(values: Sequence[float], gap: float, low: float, high: float) -> np.ndarray:
    """Return positions near sorted values that are at least `gap` apart, within [low, high].

    They minimise the sum of squared distances to the values. There must be room for all of them:
    (n − 1) gap ≤ high − low.
    """
    steps = gap * np.arange(len(values))
    free = isotonic_regression(np.asarray(values) - steps).x
    return np.clip(free, low, high - steps[-1]) + steps
