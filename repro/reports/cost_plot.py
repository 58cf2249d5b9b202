"""What a model's quality costs: its test log-likelihood against its size and its training."""

import matplotlib
import numpy as np

from repro.reports.sequence_plots import palette
from repro.results.comparison import estimator
from repro.results.record import Result, cells

matplotlib.use("Agg")

import matplotlib.pyplot as plt

COSTS = {"parameters": "parameters", "cpu_seconds": "CPU seconds of training"}


def draw_cost(results: list[Result]) -> plt.Figure | None:
    """Return the test log-likelihood against parameters and CPU seconds, a point per model.

    By the closest estimate there is, as in the report's overview; bars are standard errors over
    seeds. A line shows a model that came with its true parameters. None where nothing was trained.

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
            cost = float(np.mean([r.training[column] for r in cell]))
            error = np.std(values, ddof=1) / len(cell) ** 0.5 if len(cell) > 1 else None
            height, title = np.mean(values), cell[0].title
            axes.errorbar(cost, height, error, fmt="o", color=colour, label=title)
        for cell in found:
            if cell[0].true_parameters:
                level = cell[0].per_step("is")
                axes.axhline(level, color="black", lw=1.0, label=cell[0].title)
        axes.set(xscale="log", xlabel=f"{label} (log scale)")
    grid[0].set(ylabel="test log-likelihood, nats/step", title=results[0].dataset)
    grid[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.tight_layout()
    return figure
