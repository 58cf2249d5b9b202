"""Published tables compared with our stored Results: one folder of paper_tables/ each."""

import math
import textwrap
from html import escape as html_escape
from pathlib import Path

import pandas as pd
from markdown_it import MarkdownIt

from repro.reports.printed import EVIDENCE
from repro.reports.tables import as_latex, as_markdown
from repro.reports.verdicts import METRICS, Compared, compare_published, with_seed_error
from repro.results.record import Result, read_cell
from repro.results.reliability import RULE, reliability
from repro.runtime.files import write_text

LEADS = {  # the first sentence below a table, by its unit
    "nats/step": "Negative log-likelihood of the test part in nats per step; lower is better.",
    "nats/sequence": (
        "Average log-likelihood of the test part in nats per sequence of normalised data; higher "
        "is better. Such a number moves with the length of the sequences and with the normalising "
        "σ: compare it only where both are the same."
    ),
}
MEANINGS = {  # of the symbols in the column "Number"
    "is_nll": "**a**: the importance-sampled estimate, Σ over sequences ÷ Σ of lengths.",
    "bound_nll": "**b**: the bound, Σ over sequences ÷ Σ of lengths.",
    "bound_nll_per_sequence": "**c**: the bound, mean over sequences of each one's own average.",
    "bound_nll_after_first": (
        "**c′**: as c, with each sequence's first step given instead of scored; ours is the mean "
        "over all samples of z."
    ),
    "fivo_nll": (
        "**f**: a particle filter's estimate (FIVO); ours has as many particles as its preset says."
    ),
    "unstated_nll": (
        "**e**: an estimate that the paper does not name. Ours is the range from the closest "
        "estimate (importance-sampled or the particle filter's) to the bound; the difference is to "
        "the nearest value in this range."
    ),
    "nll": "**nll**: the exact value.",
    "nll_after_first": (
        "**nll′**: the exact value, with each sequence's first step given instead of scored; ours "
        "with all steps scored in brackets."
    ),
    "ll": "**=**: the exact value.",
    "bound_ll": "**≥**: the bound.",
    "is_ll": ("**≈**: the importance-sampled estimate{samples}."),
}
TOLERANCES = {  # as `_tolerance` computes them
    "nats/step": "0.05 (the spread between the DMM authors' own reruns)",
    "nats/sequence": "1 % of the printed number",
}
SEEDS = "**±**: the standard error over seeds."
VERDICTS = (
    "**reproduced**: the difference is at most {tolerance} or two standard errors, whichever is "
    "more. **better**, **worse**: beyond that. **not run**: nothing is stored."
)
MORE_SAMPLES = f"**†**: more samples would still raise the estimate ({RULE})."
EVIDENCE_MARKS = {
    "quoted": "**(quoted)**: read as a quotation in another text.",
    "recalled": "**(recalled)**: from memory, found in no text.",
}
ON_OTHER_DATA = (
    "**other data**: the number was printed for different data, so that the two cannot be compared."
)
ON_PRINTED_DATA = (
    "The same printed numbers beside ours on the data that they were printed for, preset {}."
)
ONE_RECIPE = "**Ours**: our recipe, preset {}; {}."
TWO_RECIPES = (
    "**Paper's recipe**: preset {}, the settings of the paper as far as they are known.",
    "**Our recipe**: preset {}; {}.",
)


def render_published(folder: Path, results: Path) -> list[Path]:
    """Write table.md, .tex and .html of a published table; return their paths.

    Args:
        folder: has published.csv (one number per row, with how it is known) and table.yaml: title;
            order of models; `preset` whose Results are compared with the print (one, or by data
            set); `our_recipe`, the preset of the same models trained our way, in addition or alone;
            `instead`, data sets that replace others, with a note; what to say about data sets
            without Results; open data sets to show below, with their presets; `printed_on`, the
            preset of Results on the data that numbers with the verdict "other data" were printed
            for.
        results: the stored results.
    Raises:
        ConfigError: a file is missing or contains an unknown word.
        DataError: a Result is damaged, or has one recipe but is under the other's preset.
    """
    settings, compared = compare_published(folder, results)
    notes: list[str] = []
    rerun = any(one.printed["rerun"] for one in compared)
    rows = [_row(one, rerun, notes) for one in compared]
    on_printed_data = [_row_on_printed_data(one, notes) for one in compared if one.on_printed_data]
    estimates = [one.printed for one in compared if one.printed["metric"] == "is_ll"]
    samples = sorted({int(row["samples"]) for row in estimates if row["samples"]})
    text = _caption(settings, [one.printed for one in compared], samples)
    marks = "\n".join(f"[{i}] {note}.\n" for i, note in enumerate(notes, start=1))
    parts = [(pd.DataFrame(rows), text + marks)]
    if on_printed_data:
        explained = textwrap.fill(ON_PRINTED_DATA.format(settings["printed_on"]), width=100)
        parts.append((pd.DataFrame(on_printed_data), f"{explained}\n"))
    for dataset, preset in settings.get("open", {}).items():
        cells = [read_cell(results, preset, dataset, model) for model in settings["models"]]
        if any(cells):
            parts.append(open_columns([cell for cell in cells if cell], samples))
    return _write(folder, settings["title"], parts)


def _caption(settings: dict, printed: list[dict], samples: list[int]) -> str:
    unit, words = printed[0]["unit"], {row["evidence"] for row in printed}
    metrics = {row["metric"] for row in printed}
    counts = " or ".join(map(str, samples))
    with_samples = (
        f" with {counts} samples; ours uses its largest number where it does not have these"
    )
    lines = [
        *(
            text.format(samples=with_samples if samples else "")
            for metric, text in MEANINGS.items()
            if metric in metrics
        ),
        SEEDS,
        VERDICTS.format(tolerance=TOLERANCES[unit]),
        MORE_SAMPLES,
        *(text for word, text in EVIDENCE_MARKS.items() if word in words),
    ]
    if any(row["verdict_note"] for row in printed):
        lines.append(ON_OTHER_DATA)
    if our := settings.get("our_recipe"):
        differs = our["differs"].strip().removesuffix(".")
        if "preset" not in settings:
            lines.append(ONE_RECIPE.format(our["preset"], differs))
        else:
            preset = settings["preset"]
            names = [preset] if isinstance(preset, str) else dict.fromkeys(preset.values())
            papers, ours = TWO_RECIPES
            lines += [papers.format(" and ".join(names)), ours.format(our["preset"], differs)]
    items = [textwrap.fill(f"- {line}", width=100, subsequent_indent="  ") for line in lines]
    return "\n".join([textwrap.fill(LEADS[unit], width=100), "", *items]) + "\n\n"


def open_columns(cells: list[list[Result]], printed: list[int]) -> tuple[pd.DataFrame, str]:
    """Return a data set's numbers in the units of a table of sequences, and what they mean.

    Args:
        printed: the numbers of samples of the table's own estimates; each gets a column, if some
            cell has it, in addition to the estimate with the most samples.
    """
    rows, samples = [], max(cell[0].evaluation["num_samples"] for cell in cells)
    estimated = f"≈ {samples} or " if samples > 1 else ""
    stored = [n for n in printed if any(f"is_{n}" in cell[0].per_sequence for cell in cells)]
    for cell in cells:
        first = cell[0]
        how = cell[0].likelihood
        trust = reliability(cell)
        dims = first.data["dim"] * math.log(2.0)
        rows.append(
            {
                "Model": first.title,
                "≥, nats/sequence": _per_sequence(cell, "bound") if how == "sampled" else "",
                **{f"≈ {n}, nats/sequence": _per_sequence(cell, f"is_{n}") for n in stored},
                f"{estimated}=, nats/sequence": _per_sequence(cell, "is") + " †" * trust.doubtful,
                "nats/step": with_seed_error([r.per_step("is") for r in cell]),
                "bits/dimension": with_seed_error([-r.per_step("is") / dims for r in cell]),
                "ESS": f"{trust.size:.3g}" if how == "sampled" else how,
                "Seeds": str(len(cell)),
            }
        )
    data = cells[0][0].data
    steps, sequences = data["steps"]["test"], data["sequences"]["test"]
    text = textwrap.fill(
        f"{data['name']}, preset {cells[0][0].preset}: open data, no published number. σ = "
        f"{data['std'][-1]:.5g}, {sequences} test sequences of {steps / sequences:.1f} steps on "
        f"average, {data['dim']} values per step. nats/step, bits/dimension and ESS are of the "
        "estimate with the most samples.",
        width=100,
    )
    return pd.DataFrame(rows), f"{text}\n"


def _row(compared: Compared, rerun: bool, notes: list[str]) -> dict:
    # `rerun`: whether the table has numbers by others than the paper's authors and us.
    row, paper = compared.printed, compared.paper
    mark = _mark(row["note"], notes)
    first = {
        "Model": row["model_as_printed"],
        "Data set": row["dataset"],
        "Number": METRICS[row["metric"]].symbol,
        "Published": f"{row['value']}{EVIDENCE[row['evidence']]}{mark}",
    }
    if rerun:
        first["Rerun by others"] = row["rerun"] + _mark(row["rerun_source"], notes)
    ours, known = paper.value + _mark(row["instead"], notes), _mark(row["verdict_note"], notes)
    if compared.ours is None:
        return first | {
            "Ours": ours,
            "Difference": paper.difference,
            "Seeds": paper.seeds,
            "Verdict": paper.verdict + known,
        }
    return first | {
        "Paper's recipe": ours,
        "Seeds, paper's": paper.seeds,
        "Verdict, paper's": paper.verdict + known,
        "Our recipe": compared.ours.value,
        "Seeds, ours": compared.ours.seeds,
        "Verdict, ours": compared.ours.verdict + known,
    }


def _row_on_printed_data(compared: Compared, notes: list[str]) -> dict:
    row, on_printed_data = compared.printed, compared.on_printed_data
    assert on_printed_data is not None
    return {
        "Model": row["model_as_printed"],
        "Data set": row["printed_on"],
        "Number": METRICS[row["metric"]].symbol,
        "Published": row["value"] + EVIDENCE[row["evidence"]] + _mark(row["note"], notes),
        "Ours": on_printed_data.value,
        "Difference": on_printed_data.difference,
        "Seeds": on_printed_data.seeds,
        "Verdict": on_printed_data.verdict,
    }


def _mark(note: str, notes: list[str]) -> str:
    # The mark of a footnote, if there is one; a new footnote is added to `notes`.
    if not note:
        return ""
    if note not in notes:
        notes.append(note)
    return f" [{notes.index(note) + 1}]"


def _per_sequence(cell: list[Result], metric: str) -> str:
    # Empty if the cell has no such number.
    if metric not in cell[0].per_sequence:
        return ""
    return with_seed_error([result.per_sequence_mean(metric) for result in cell])


def _write(folder: Path, title: str, parts: list[tuple[pd.DataFrame, str]]) -> list[Path]:
    markdown = "\n".join(f"{as_markdown(table)}\n\n{text}" for table, text in parts)
    latex = "".join(
        "".join(f"% {line}\n" for line in [title, *text.replace("**", "").splitlines()])
        + as_latex(table)
        for table, text in parts
    )
    html = "".join(
        f"{table.to_html(index=False, border=0)}\n"
        + MarkdownIt("commonmark", {"html": False}).render(text)
        for table, text in parts
    )
    name = html_escape(title)
    page = f'<!doctype html>\n<meta charset="utf-8">\n<title>{name}</title>\n<h1>{name}</h1>\n'
    outputs = {
        "table.md": f"# {title}\n\n{markdown}",
        "table.tex": latex,
        "table.html": page + html,
    }
    for name, content in outputs.items():
        write_text(folder / name, content)
    return [folder / name for name in outputs]
