"""A panel of small plots that shows how trainings went: overfitting, collapse, annealing."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns

from repro.reports.sequence_plots import palette
from repro.results.record import Result

SPREADS = ("min", "mean", "max")
# Title, and the columns of the learning curve it shows; the validation part's are dashed.
PANELS = (
    ("bound, nats/step", ("train_bound", "valid_sample_bound")),
    ("KL, nats/step", ("train_kl", "valid_kl")),
    ("active latent units", ("train_active_units", "valid_active_units")),
    ("σ of the posterior", tuple(f"train_posterior_std_{what}" for what in SPREADS)),
    ("σ of the prior", tuple(f"train_prior_std_{what}" for what in SPREADS)),
    ("σ of the emission", tuple(f"train_emission_std_{what}" for what in SPREADS)),
    ("weight of the KL", ("kl_weight",)),
    ("step size", ("learning_rate",)),
    ("gradient norm", ("gradient_norm",)),
)
LOGARITHMIC = ("σ of the posterior", "σ of the prior", "σ of the emission", "gradient norm")
COLUMNS = 3


def draw_training(results: list[Result]) -> plt.Figure | None:
    """Return the statistics recorded in a data set's trainings, one line per model (first seed).

    Solid: a sample of the training part, without dropout; dashed: one of the validation part.
    Standard deviations have three lines, the smallest, the mean and the largest. None if no
    training kept these numbers.
    """
    frame = _first_seeds(results)
    panels = [
        (title, present)
        for title, columns in PANELS
        if (present := [name for name in columns if name in frame and frame[name].notna().any()])
    ]
    if not panels:
        return None
    rows = -(-len(panels) // COLUMNS)
    figure, grid = plt.subplots(rows, COLUMNS, figsize=(12, 2.6 * rows), sharex=True, squeeze=False)
    colours = dict(zip(frame["model"].unique(), palette(frame["model"].nunique()), strict=True))
    for axes, (title, columns) in zip(grid.flat, panels, strict=False):
        for name in columns:
            sns.lineplot(
                frame[frame[name].notna()],
                x="epoch",
                y=name,
                hue="model",
                palette=colours,
                ls="--" if name.startswith("valid") else "-",
                lw=1.0,
                marker=".",  # a training of one validation is a point
                markeredgewidth=0,
                legend=False,
                ax=axes,
            )
        axes.set(title=title, ylabel="", xscale="log", xlabel="epoch (log scale)")
        if title in LOGARITHMIC:
            axes.set_yscale("log")
        if title == PANELS[0][0]:
            _leave_out_the_start(axes, frame, columns)
    for axes in list(grid.flat)[
        max(0, len(panels) - COLUMNS) : len(panels)
    ]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
        axes.xaxis.label.set_visible(True)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    styles = {"training part": "-", "validation part": "--"}
    handles = [plt.Line2D([], [], color=colour) for colour in colours.values()]
    handles += [plt.Line2D([], [], color="black", ls=style) for style in styles.values()]
    names = [*colours, *styles]
    figure.legend(handles, names, loc="upper left", bbox_to_anchor=(1, 0.95), frameon=False)
    figure.tight_layout()
    return figure


def _first_seeds(results: list[Result]) -> pd.DataFrame:
    curves: dict[str, pd.DataFrame] = {}
    for result in results:
        if result.training["epochs"] and result.title not in curves:
            columns = result.training.get("validations", {"epoch": []})
            curves[result.title] = pd.DataFrame({"model": result.title, **columns})
    whole = pd.concat(curves.values()) if curves else pd.DataFrame({"epoch": []})
    return whole.query("epoch > 0")


def _leave_out_the_start(axes: plt.Axes, frame: pd.DataFrame, columns: list[str]) -> None:
    # The first epochs are far below; what matters is how the curves differ near their ends.
    ends = frame.groupby("model")[columns].max()
    low, high = ends.min().min(), ends.max().max()
    axes.set_ylim(low - 0.7 * (high - low + 0.1), high + 0.1 * (high - low + 0.1))
