"""Renders Results as one table per data set: Markdown, LaTeX, CSV, and HTML for the report."""

import math
from itertools import groupby
from pathlib import Path

import numpy as np
import pandas as pd

from repro.config.traits import SAMPLED
from repro.results.record import (
    Result,
    aggregate,
    cells,
    interval,
    paired_difference,
    standard_error,
)
from repro.results.reliability import RULE as DOUBTFUL
from repro.results.reliability import reliability
from repro.runtime.files import write_text


def numbers(results: list[Result]) -> pd.DataFrame:
    """Return one row per cell with every average and error, in nats; this is the CSV."""
    found = cells(results)
    exact = {cell[0].dataset: cell for cell in found if cell[0].true_parameters}
    return pd.DataFrame([_row(cell, exact.get(cell[0].dataset)) for cell in found])


def _row(cell: list[Result], exact: list[Result] | None) -> dict:
    first = cell[0]
    row: dict = {"dataset": first.dataset, "model": first.model, "title": first.title}
    for metric in ("bound", "is"):
        estimate = aggregate(cell, metric)
        row |= {
            f"{metric}_per_step": estimate.value,
            f"{metric}_error_over_seeds": estimate.over_seeds,
            f"{metric}_error_over_sequences": estimate.over_sequences,
            f"{metric}_error_monte_carlo": estimate.monte_carlo,
            f"{metric}_mean_of_averages": float(
                np.mean([r.mean_of_averages(metric) for r in cell])
            ),
            f"{metric}_per_sequence": float(np.mean([r.per_sequence_mean(metric) for r in cell])),
        }
        row[f"{metric}_low"], row[f"{metric}_high"] = interval(cell, metric)
    if exact is not None:
        gap, error = paired_difference(cell, "is", exact[:1], "is")
        row |= {"gap_to_exact": gap, "gap_to_exact_error": error}
        row["true_parameters"] = first.true_parameters
    if "squared_error" in first.per_sequence:
        errors = [math.sqrt(r.per_step("squared_error")) for r in cell]
        row["rmse"] = float(np.mean(errors))
    diverged = sum("diverged" in r.training for r in cell)
    if diverged:
        row["diverged"] = diverged
    if all("particles" in r.evaluation for r in cell):
        values = [r.per_step("fivo") for r in cell]
        row["fivo_per_step"] = float(np.mean(values))
        row["fivo_error_over_seeds"] = standard_error(values)
        row["particles"] = first.evaluation["particles"]
    for name in first.training.get("learned", {}):
        values = [r.training["learned"][name] for r in cell]
        row[f"learned_{name}"] = float(np.mean(values))
        row[f"learned_{name}_error"] = standard_error(values)
    trust = reliability(cell)
    if all("is_tenth" in r.per_sequence for r in cell):
        row["is_tenth_per_step"] = float(np.mean([r.per_step("is_tenth") for r in cell]))
    bits = -row["is_per_step"] / (first.data["dim"] * math.log(2.0))
    return row | {
        "is_bits_per_dimension": bits,
        "seeds": len(cell),
        "num_samples": first.evaluation["num_samples"],
        **_until(cell),
        "effective_sample_size": trust.size,
        "pareto_k": trust.pareto_k,
        "doubtful": trust.doubtful,
        "likelihood": cell[0].likelihood,
        "parameters": first.training["parameters"],
        "epochs": float(np.mean([r.training["epochs"] for r in cell])),
        "training_seconds": float(np.mean([r.training["seconds"] for r in cell])),
        "training_cpu_seconds": float(np.mean([r.training["cpu_seconds"] for r in cell])),
    }


def _until(cell: list[Result]) -> dict:
    # The CSV's column num_samples has the first seed's; with a precision, seeds may differ.
    found = [r.evaluation["until"] for r in cell if "until" in r.evaluation]
    if not found:
        return {}
    return {
        "until_error": found[0]["error"],
        "found_error": max(until["found"] for until in found),
        "imprecise": not all(until["reached"] for until in found),
    }


def with_error(value: float, error: float) -> str:
    """Return "value ± error", rounded to two digits of the error."""
    if math.isnan(error):
        return f"{value:.4f}"
    digits = 4 if error < 1e-4 else max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def display(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that readers want, as text."""
    rows, has_rmse = [], "rmse" in table and table["rmse"].notna().all()
    has_tenth, has_k = "is_tenth_per_step" in table, table["pareto_k"].notna().any()
    uneven = table["seeds"].nunique() > 1
    for row in table.to_dict("records"):
        sampled = row["likelihood"] == SAMPLED
        rows.append(
            {
                "Model": row["title"] + (" ‡" if row.get("diverged", 0) > 0 else ""),
                "Bound": with_error(row["bound_per_step"], row["bound_error_over_seeds"]),
                "IS": with_error(row["is_per_step"], row["is_error_over_seeds"])
                + " †" * row["doubtful"]
                + " §" * (row.get("imprecise") is True),
                "95 %": f"{row['is_low']:.3f} to {row['is_high']:.3f}",
                **({"IS, K/10": _or_empty(row["is_tenth_per_step"], ".3f")} if has_tenth else {}),
                **_particles(row, "fivo_per_step" in table),
                **_gap(row),
                **({"RMSE of E z": f"{row['rmse']:.4f}"} if has_rmse else {}),
                **_learned(row),
                "IS, mean of averages": f"{row['is_mean_of_averages']:.3f}",
                "IS, nats/sequence": f"{row['is_per_sequence']:.2f}",
                "ESS": f"{row['effective_sample_size']:.3g}" if sampled else row["likelihood"],
                **({"Pareto k": _or_empty(row["pareto_k"], ".2f")} if has_k else {}),
                **({"Seeds": str(row["seeds"])} if uneven else {}),
                "Parameters": f"{row['parameters']:,}",
                "Training": f"{row['training_cpu_seconds']:.0f} s",
            }
        )
    return pd.DataFrame(rows)


def _or_empty(value: float, digits: str) -> str:
    return "" if math.isnan(value) else f"{value:{digits}}"


def _gap(row: dict) -> dict:
    if "gap_to_exact" not in row:
        return {}
    if row["true_parameters"]:
        return {"IS − exact": "0"}
    return {"IS − exact": with_error(row["gap_to_exact"], row["gap_to_exact_error"])}


def _particles(row: dict, has_fivo: bool) -> dict:
    if not has_fivo:
        return {}
    value = row["fivo_per_step"]
    return {"FIVO": "" if math.isnan(value) else with_error(value, row["fivo_error_over_seeds"])}


def _learned(row: dict) -> dict:
    names = [key.removeprefix("learned_") for key in row if key.startswith("learned_")]
    return {
        f"{name}, learned": with_error(row[f"learned_{name}"], row[f"learned_{name}_error"])
        for name in names
        if not name.endswith("_error")
    }


def caption(results: list[Result]) -> str:
    """Return Markdown: units and counts, and a list of what columns and marks mean."""
    found, data = cells(results), results[0].data
    std = np.array(data["std"][1:] if data["kind"] == "strokes" else data["std"])
    spread = (
        f"σ = {std[0]:.4g}" if np.ptp(std) == 0 else f"σ from {std.min():.4g} to {std.max():.4g}"
    )
    normalised = "" if data["kind"] == "binary" else f" of data normalised with {spread}"
    lead = (
        f"Log-likelihood of the test part in nats per step{normalised}; higher is better. All "
        f"models share the {data['sequences']['test']} test sequences ({data['steps']['test']} "
        "steps)."
    )
    truth = results[-1].recipe["dataset"]["options"].get("nonlinear_parameters", {})
    if truth:
        values = ", ".join(f"{name} = {value:g}" for name, value in truth.items())
        lead += f" The data were drawn with {values}."
    lines = [
        "**Bound**: the ELBO; without latent variables, the exact value.",
        *_estimates(results),
        *_errors(found),
        *_columns(results),
        *_diagnostics(found),
        *_marks(results),
        f"**Training**: the mean CPU time of a seed on {_hardware(results)}.",
    ]
    return with_list(lead, lines)


def with_list(lead: str, lines: list[str]) -> str:
    """Return a paragraph and a list as Markdown."""
    return lead + "\n\n" + "\n".join(f"- {line}" for line in lines)


def _estimates(results: list[Result]) -> list[str]:
    most = max(r.evaluation["num_samples"] for r in results)
    how = f"with {most} samples"
    until = [r.evaluation["until"] for r in results if "until" in r.evaluation]
    if until:
        how = (
            f"with as many samples as an error of {until[0]['error']:g} nats per step takes, up to "
            f"{max(u['num_samples'] for u in until)}"
        )
    lines = [
        f"**IS**: the importance-sampled estimate {how}; without latent variables, the exact value."
    ]
    if any("is_tenth" in r.per_sequence for r in results):
        lines.append("**IS, K/10**: the estimate with a tenth of the samples.")
    particles = {r.evaluation["particles"] for r in results if "particles" in r.evaluation}
    if particles:
        lines.append(
            f"**FIVO**: the particle filter's estimate with {max(particles)} particles (systematic "
            "resampling below half of them); like IS, a lower bound in expectation."
        )
    return lines


def _errors(found: list[list[Result]]) -> list[str]:
    counts = {len(cell) for cell in found}
    lines = []
    if max(counts) > 1:
        seeds = f"{max(counts)} seeds" if len(counts) == 1 else "the seeds, where there are several"
        lines.append(f"**±**: the standard error over {seeds}.")
    return [*lines, "**95 %**: the bootstrap interval of IS over seeds and test sequences."]


def _columns(results: list[Result]) -> list[str]:
    lines = []
    if any(r.true_parameters for r in results):
        lines.append(
            "**IS − exact**: the difference to the exact log-likelihood, paired by test sequence, "
            "± its standard error over test sequences."
        )
    if "squared_error" in results[-1].per_sequence:
        lines.append(
            "**RMSE of E z**: the root mean squared distance from the posterior's mean to the z "
            "that the data were drawn with."
        )
    return [
        *lines,
        "**IS, mean of averages**: the mean over sequences of each one's own average per step.",
        "**IS, nats/sequence**: the mean over sequences, not divided by their lengths.",
    ]


def _diagnostics(found: list[list[Result]]) -> list[str]:
    ways = {cell[0].likelihood for cell in found}
    words = " or ".join(f"“{way}”" for way in sorted(ways - {SAMPLED}))
    without = f"{words}, how log p(x) is computed without samples of z" if words else ""
    size = "the median effective sample size" if SAMPLED in ways else ""
    lines = [f"**ESS**: {', or '.join(part for part in (size, without) if part)}."]
    if any("pareto_k" in r.per_sequence for cell in found for r in cell):
        lines.append("**Pareto k**: the median shape of the weights' tail.")
    if any(reliability(cell).doubtful for cell in found):
        lines.append(f"**†**: more samples would still raise the estimate ({DOUBTFUL}).")
    return lines


def _marks(results: list[Result]) -> list[str]:
    lines = []
    if any(not r.evaluation.get("until", {}).get("reached", True) for r in results):
        lines.append("**§**: the error that was asked for was not reached.")
    diverged = [f"{r.title}, seed {r.seed}" for r in results if "diverged" in r.training]
    if diverged:
        names = "; ".join(diverged)
        lines.append(
            f"**‡**: trainings that diverged ({names}) count with the best weights before."
        )
    return lines


def _hardware(results: list[Result]) -> str:
    machines = {
        f"{r.environment['training']['device']}, {r.environment['training']['threads']} thread(s)"
        for r in results
    }
    return "; ".join(sorted(machines))


def as_markdown(table: pd.DataFrame) -> str:
    """Return a table of text as Markdown: first column to the left, the others to the right."""
    return table.map(lambda cell: str(cell).replace("|", r"\|")).to_markdown(
        index=False, disable_numparse=True, colalign=["left"] + ["right"] * (table.shape[1] - 1)
    )


def as_latex(table: pd.DataFrame) -> str:
    """Return a table of text as LaTeX, with booktabs rules."""
    style = table.style.format(escape="latex").hide(axis="index")
    return style.to_latex(hrules=True, column_format="l" + "r" * (table.shape[1] - 1))


def write_tables(results: list[Result], folder: Path) -> list[Path]:
    """Write <data set>.md, .tex and .csv for each data set; return their paths."""
    paths = []
    for dataset, neighbours in groupby(results, key=lambda r: r.dataset):
        group = list(neighbours)
        table = numbers(group)
        displayed, note = display(table), caption(group)
        heading = f"# {dataset}\n\n"
        comment = "".join(f"% {line}\n" for line in note.replace("**", "").splitlines() if line)
        for suffix, text in {
            ".md": f"{heading}{as_markdown(displayed)}\n\n{note}\n",
            ".tex": comment + as_latex(displayed),
            ".csv": table.to_csv(index=False, float_format="%.6g", lineterminator="\n"),
        }.items():
            paths.append(folder / f"{dataset}{suffix}")
            write_text(paths[-1], text)
    return paths
