"""All figures of a data set, among them learning curves and estimates against sample count."""

from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from repro.reports.cost_plot import draw_all_costs, draw_cost, printed_marks
from repro.reports.sequence_plots import (
    draw_kl,
    draw_samples,
    palette,
    samples_of,
    save_svg,
    use_style,
)
from repro.reports.training_plots import draw_training
from repro.results.record import Result, cells
from repro.runtime.paths import paper_tables_folder

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns


def write_figures(
    results: list[Result], runs: Path, folder: Path, tables: Path | None = None
) -> list[Path]:
    """Draw the figures of each data set and cost.svg of all of them as SVG; return their paths.

    Learning curves and costs are left out where nothing was trained, and samples for cells that
    have none.

    Args:
        results: sorted by cell.
        runs: the preset's folder, with samples next to the checkpoints.
        tables: the folder of the published tables; default: that of the clone or installation.
    """
    use_style()
    paths = []
    for dataset, neighbours in groupby(results, key=lambda r: r.dataset):
        group = list(neighbours)
        figures = {
            "learning": draw_learning_curves(group),
            "training": draw_training(group),
            "cost": draw_cost(group),
            "samples-needed": draw_estimate_against_samples(group),
        }
        drawn = [one for cell in cells(group) if samples_of(cell, runs).exists() for one in cell]
        if drawn:
            figures |= {"samples": draw_samples(drawn, runs), "kl": draw_kl(drawn, runs)}
        for name, figure in figures.items():
            if figure:
                paths.append(folder / f"{dataset}-{name}.svg")
                save_svg(figure, paths[-1])
    if figure := draw_all_costs(results, printed_marks(tables or paper_tables_folder())):
        paths.append(folder / "cost.svg")
        save_svg(figure, paths[-1])
    return paths


def draw_learning_curves(results: list[Result]) -> plt.Figure | None:
    """Return the validation bound over epochs, one line per seed; below it, learned scalars.

    Dashed: the importance-sampled estimate, if the training had `validation_samples`. None if every
    model came with its true parameters, or was trained by code that kept no curve.
    """
    curves = [
        pd.DataFrame({"model": r.title, "seed": r.seed, **r.training["validations"]})
        for r in results
        if r.training["epochs"] and "validations" in r.training
    ]
    if not curves:
        return None
    frame = pd.concat(curves).query("epoch > 0")
    scalar_names = sorted({name for r in results for name in r.training.get("learned", {})})
    figure, grid = plt.subplots(
        1 + len(scalar_names), figsize=(8, 4.5 + 2 * len(scalar_names)), sharex=True, squeeze=False
    )
    titles = list(frame["model"].unique())
    style: dict = {"hue": "model", "units": "seed", "estimator": None, "lw": 1.2}
    style |= {"hue_order": titles, "palette": palette(len(titles))}
    axes = grid[0, 0]
    sns.lineplot(frame, x="epoch", y="valid_bound", ax=axes, **style)
    best = frame.groupby("model")["valid_bound"].max()
    label = "validation bound"
    if "valid_is" in frame:
        sampled = frame[frame["valid_is"].notna()]
        sns.lineplot(sampled, x="epoch", y="valid_is", ax=axes, legend=False, ls="--", **style)
        best = pd.concat([best, sampled.groupby("model")["valid_is"].max()])
        label += " (dashed: IS)"
    low = best.min() - 0.5 * (best.max() - best.min() + 0.1)  # the first epochs are far below
    axes.set_ylim(low, best.max() + 0.05 * (best.max() - low))
    axes.set(ylabel=f"{label}, nats/step", xscale="log", title=results[0].dataset)
    sns.move_legend(axes, "upper left", bbox_to_anchor=(1, 1), frameon=False, title=None)
    truth = results[0].recipe["dataset"]["options"].get("nonlinear_parameters", {})
    for axes, name in zip(grid[1:, 0], scalar_names, strict=True):
        sns.lineplot(frame, x="epoch", y=name, ax=axes, legend=False, **style)
        axes.axhline(truth[name], color="black", ls="--", lw=1.0)
        axes.set(ylabel=f"{name} (dashed: true)")
    grid[-1, 0].set_xlabel("epoch (log scale)")
    return figure


def draw_estimate_against_samples(results: list[Result]) -> plt.Figure:
    """Return the importance-sampled estimate against K; exact values are horizontal lines."""
    figure, axes = plt.subplots(figsize=(8, 4.5))
    colours = palette(len(cells(results)))
    lowest = []
    for colour, cell in zip(colours, cells(results), strict=True):
        title, samples, how = cell[0].title, cell[0].evaluation["num_samples"], cell[0].likelihood
        if cell[0].true_parameters:
            value = cell[0].per_step("is")
            axes.axhline(value, color="black", lw=1.5, label=title)
        elif how != "sampled":
            value = float(np.mean([r.per_step("is") for r in cell]))
            described = "exact, " * (how == "exact") + f"{value:.4g}"
            label = f"{title} ({described})"  # with the value: the line may leave the picture
            axes.axhline(value, color=colour, ls="--", lw=1.2, label=label)
            continue
        else:
            curve = cell[0].evaluation["curve"]
            names = [f"is_{n}" for n in curve] + ["is"]
            values = np.array([[r.per_step(name) for name in names] for r in cell])
            axes.plot([*curve, samples], values.mean(axis=0), "o-", color=colour, label=title)
            axes.plot([*curve, samples], values.T, "-", color=colour, lw=0.6, alpha=0.6)
            value = values.min()
        lowest.append(value)
    # Room for the curves: a line far below them (the marginal's) may leave the picture.
    if lowest:
        top = axes.get_ylim()[1]
        axes.set_ylim(min(lowest) - 0.3 * (top - min(lowest)) - 1e-3, top)
    axes.set(
        xscale="log",
        xlabel="importance samples K",
        ylabel="log-likelihood, nats/step",
        title=results[0].dataset,
    )
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure
