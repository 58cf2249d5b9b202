"""Sequences as pictures (rolls, waveforms, pen trajectories): real ones and a model's samples."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns

from repro.results.record import Result, cells
from repro.runtime.files import replacing

SEQUENCES_PER_PANEL = 3  # sequences per panel of samples


def use_style() -> None:
    """Set the style of all figures, so that the same numbers give the same bytes, text as text."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({"svg.hashsalt": "repro", "svg.fonttype": "none"})


def palette(count: int) -> list[tuple[float, float, float]]:
    """Return distinguishable colours: one palette for up to ten models, one for up to twenty."""
    return sns.color_palette("colorblind" if count <= 10 else "tab20", count)


def save_svg(figure: plt.Figure, path: Path) -> None:
    """Write a figure as SVG without a date, and close it."""
    with replacing(path) as partial:
        figure.savefig(partial, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def view_of(result: Result) -> str:
    """Return how the sequences of a Result's data set are drawn."""
    data = result.data
    if data["steps"] == data["sequences"] and math.isqrt(data["dim"]) ** 2 == data["dim"]:
        return "image"  # one step each, a square of pixels
    if data["kind"] in ("binary", "strokes"):
        return data["kind"]
    if "sample_rate_hz" in result.recipe["dataset"]["options"]:
        return "waveform"
    return "curve" if data["dim"] == 1 else "heat"


def draw_sequence(axes: plt.Axes, sequence: np.ndarray, view: str, colour: str) -> None:
    """Draw one sequence (T, D) in raw units, time along x where time has an axis."""
    axes.grid(False)
    if view == "strokes":
        points = np.concatenate([np.zeros((1, 2)), sequence[:, 1:].cumsum(axis=0)])
        for stroke in np.split(points, np.flatnonzero(sequence[:-1, 0] > 0.5) + 2):
            axes.plot(stroke[:, 0], stroke[:, 1], lw=1.0, color=colour)
        axes.set_aspect("equal", adjustable="datalim")
    elif view == "image":
        side = math.isqrt(sequence.shape[1])
        axes.imshow(sequence[0].reshape(side, side), cmap="Greys")
    elif view in ("waveform", "curve"):
        values = sequence.ravel()
        times = np.linspace(0, len(sequence), len(values))
        axes.plot(times, values, lw=0.6, color=colour, rasterized=view == "waveform")
    else:
        colours = "Greys" if view == "binary" else "viridis"
        axes.imshow(sequence.T, aspect="auto", origin="lower", cmap=colours)


def samples_of(cell: list[Result], runs: Path) -> Path:
    """Return the file that `repro sample` writes for the first seed of a cell."""
    first = cell[0]
    return runs / first.dataset / first.model / f"seed{first.seed}" / "samples.npz"


def read_samples(cell: list[Result], runs: Path) -> dict[str, np.ndarray]:
    """Return what `repro sample` wrote for the first seed of a cell."""
    with np.load(samples_of(cell, runs)) as drawn:
        return dict(drawn)


def draw_samples(results: list[Result], runs: Path) -> plt.Figure:
    """Return real sequences and samples of each model, first seed, in raw units."""
    view, drawn = view_of(results[0]), [read_samples(cell, runs) for cell in cells(results)]
    titles = [cell[0].title for cell in cells(results)]
    real = drawn[0]["data"]
    panels = [("data", real)] + [
        (title, d["samples"]) for title, d in zip(titles, drawn, strict=True)
    ]
    rows, own_frames = len(panels), view in ("strokes", "image")  # each drawing has its own frame
    figure, grid = plt.subplots(
        rows,
        SEQUENCES_PER_PANEL,
        figsize=(9, 1.1 * rows + 0.6),
        sharex=not own_frames,
        sharey=not own_frames,
        squeeze=False,
        layout="constrained",
    )
    for line, (title, values) in zip(grid, panels, strict=True):
        for axes, sequence in zip(line, values[:SEQUENCES_PER_PANEL], strict=False):
            draw_sequence(axes, sequence, view, "C0" if title == "data" else "C1")
            axes.tick_params(labelsize=7)
            if view == "heat":
                axes.images[-1].set_clim(real.min(), real.max())
            if own_frames:
                axes.set(xticks=[], yticks=[])
        line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
    if view == "binary":
        used = np.flatnonzero(real.any(axis=(0, 1)))
        grid[0, 0].set_ylim(used.min() - 2, used.max() + 2)
    if not own_frames:
        for axes in grid[-1]:
            axes.set_xlabel("step", fontsize=8)
    figure.suptitle(f"{results[0].dataset}: data and samples")
    return figure


def draw_kl(results: list[Result], runs: Path) -> plt.Figure:
    """Return a real sequence and, below it, each model's KL(q ‖ p) of every step.

    Like figure 2 of Chung et al. (2015): the KL rises where the sequence turns to something new.
    """
    drawn = [(cell[0].title, read_samples(cell, runs)) for cell in cells(results)]
    latent = [(title, d["kl"][0]) for title, d in drawn if "kl" in d]
    figure, grid = plt.subplots(
        2, figsize=(8, 4.5), squeeze=False, layout="constrained", height_ratios=[1, 1.5]
    )
    above, below = grid[:, 0]
    view = view_of(results[0])
    draw_sequence(above, drawn[0][1]["data"][0], view, "C0")
    if view not in ("strokes", "image"):
        above.sharex(below)
    for (title, kl), colour in zip(latent, palette(len(latent)), strict=True):
        below.plot(np.arange(len(kl)) + 0.5, kl, lw=1.2, color=colour, label=title)
    below.set(xlabel="step", ylabel="KL, nats", title="" if latent else "no latent variables")
    if latent:
        below.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.suptitle(f"{results[0].dataset}: one validation sequence, and the KL of each step")
    return figure
