"""The page on how far the suite's own tools can be trusted: oracles, and the check's errors."""

import math
from pathlib import Path

import matplotlib
import pandas as pd

from repro.reports.sequence_plots import save_svg, use_style
from repro.results.comparison import LEVEL
from repro.runtime.files import write_text
from repro.selftest import calibration, oracles

matplotlib.use("Agg")

import matplotlib.pyplot as plt

FALSE_ALARM_TABLES, POWER_TABLES = 400, 100  # simulated; power needs only one cell of each


def write_trust(folder: Path) -> list[Path]:
    """Write trust.md, estimates.svg and check.svg, computed from seeds; return their paths."""
    use_style()
    exact, convergence, lengths = oracles.exactness(), oracles.convergence(), oracles.lengths()
    false = {
        seeds: calibration.alarm_rates(seeds, 0.02, FALSE_ALARM_TABLES)[0]
        for seeds in calibration.SEEDS
    }
    power = calibration.power(POWER_TABLES)
    write_text(folder / "trust.md", page(exact, convergence, false))
    for name, figure in {
        "estimates": draw_estimates(convergence, lengths),
        "check": draw_check(power),
    }.items():
        save_svg(figure, folder / f"{name}.svg")
    return [folder / name for name in ("trust.md", "estimates.svg", "check.svg")]


def page(exact: pd.DataFrame, convergence: pd.DataFrame, false: dict[int, float]) -> str:
    """Return the numbers and their meaning as Markdown; `false` has the rates of false alarms."""
    formatted = exact.map(lambda value: f"{value:.6g}" if abs(value) > 1e-6 else f"{value:.0e}")
    last = convergence.iloc[-1]
    ratio = f"{last['mean_ratio']:.3f} ± {last['mean_ratio_error']:.3f}"
    noise = math.sqrt(LEVEL * (1 - LEVEL) / FALSE_ALARM_TABLES)
    alarms = ", ".join(f"{rate:.1%} with {seeds} seeds" for seeds, rate in false.items())
    return (
        "# Can the tools be trusted?\n\n"
        "A linear-Gaussian state space model has an exact likelihood: here the density of all "
        "steps as one Gaussian vector. With the exact smoothing posterior as q, every importance "
        "weight must equal it:\n\n"
        f"{formatted.to_markdown(index=False, disable_numparse=True)}\n\n"
        f"With a wrong q (standard deviations {oracles.PROPOSAL_SCALE} times too wide, "
        f"{oracles.STEPS} steps), the mean of p̂(x) / p(x) is {ratio} over {oracles.RUNS} runs of "
        f"{int(last['samples'])} samples: unbiased. Its logarithm lies below log p(x) and rises "
        "with K; bias and spread meet the first-order theory, −v / 2K and √(v / K) for weights "
        "of relative variance v, once K is well above v. Plain importance weights lose with the "
        f"length of the sequence, the particle filter does not ({oracles.PARTICLES} samples or "
        "particles each).\n\n"
        f"The check against stored results, on {FALSE_ALARM_TABLES} simulated tables of "
        f"{calibration.CELLS} cells that nothing changed, found a loss somewhere in {alarms} "
        f"(meant: {LEVEL:.0%}; noise of this simulation: ± {noise:.1%}). How often it finds a real "
        "loss in one cell depends on the spread of trainings.\n"
    )


def draw_estimates(convergence: pd.DataFrame, lengths: pd.DataFrame) -> plt.Figure:
    """Return bias and spread against K, with theory, and the gap to the truth against T."""
    figure, (bias, spread, gap) = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
    samples = convergence["samples"]
    for axes, name, sign in ((bias, "bias", -1), (spread, "spread", 1)):
        axes.plot(samples, sign * convergence[name], "o-", label="measured")
        axes.plot(samples, sign * convergence[f"{name}_theory"], "k--", label="first order")
        axes.set(xscale="log", yscale="log", xlabel="importance samples K")
        axes.legend(frameon=False)
    bias.set_ylabel("log p(x) − E log p̂(x), nats")
    spread.set_ylabel("standard deviation of log p̂(x), nats")
    for (name, rows), marker in zip(lengths.groupby("estimate", sort=False), "os", strict=True):
        gap.errorbar(
            rows["steps"], rows["gap"], 2 * rows["error"], fmt=f"{marker}-", capsize=3, label=name
        )
    gap.axhline(0.0, color="black", lw=1.0)
    gap.set(xlabel="steps T", ylabel="E log p̂(x) − log p(x), nats/step (± 2 s.e.)")
    gap.legend(frameon=False)
    return figure


def draw_check(power: pd.DataFrame) -> plt.Figure:
    """Return how often the check finds a loss, by its size and the spread of trainings."""
    figure, grid = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for axes, (seeds, rows) in zip(grid, power.groupby("seeds"), strict=True):
        for (spread, line), marker in zip(rows.groupby("spread"), "os^D", strict=True):
            axes.plot(line["loss"], line["rate"], f"{marker}-", label=f"{spread:g}")
        axes.set(
            xlabel="loss of one cell of 40, nats/step",
            ylim=(-0.05, 1.05),
            title=f"{seeds} seeds, stored and new",
        )
    grid[0].set_ylabel("how often the loss is found")
    grid[1].legend(title="spread over seeds,\nnats/step", bbox_to_anchor=(1, 1), loc="upper left")
    return figure
