"""Commands that read Results: tables, figures, the check, the report.

Heavy imports are inside the commands, so that `repro --help` and light rules start at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from repro.cli.arguments import description_of, in_order, read_results, without_results
from repro.cli.options import Expected, Files, Folder, Out, Preset, Source, Table, Task
from repro.runtime.extras import require
from repro.runtime.paths import (
    README,
    paper_tables_folder,
    require_clone,
    results_folder,
    runs_folder,
    weights_folder,
)

FIGURES_NEED = ("matplotlib", "seaborn")


def tables(
    results: Files = None, preset: Preset = "starter", source: Source = None, out: Out = None
) -> None:
    """Render one table per data set, as Markdown, LaTeX and CSV.

    Example: repro tables --source results --out paper_tables/starter
    """
    from repro.reports.tables import write_tables

    source = source or runs_folder()
    loaded = read_results(results, source, preset)
    for path in write_tables(loaded, out or source / preset / "tables"):
        print(path)


def paper_tables() -> None:
    """Render the published tables with our stored results, in paper_tables/.

    The scoreboard over all of them goes into paper_tables/scoreboard.md and README.md, and all
    stored numbers into paper_tables/all-numbers.csv.

    Example: repro paper-tables
    """
    from repro.reports.published import render_published
    from repro.reports.scoreboard import show_scoreboard, write_scoreboard
    from repro.results.stored import stored_results, write_table

    require_clone("paper-tables")
    folder = paper_tables_folder()
    for path in sorted(folder.glob("*/table.yaml")):
        for written in render_published(path.parent, results_folder()):
            print(written)
    scoreboard = write_scoreboard(folder, results_folder())
    show_scoreboard(scoreboard, README)
    print(scoreboard)
    numbers = folder / "all-numbers.csv"
    write_table(stored_results(), numbers)
    print(numbers)


def results(
    task: Annotated[str | None, typer.Option(help="One data set; default: all.")] = None,
    model: Annotated[str | None, typer.Option(help="One model; default: all.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write it, *.csv or *.parquet.")] = None,
) -> None:
    """Show the stored numbers, one row per training and metric, or write them as one table.

    Example: repro results --task linear_gaussian
    """
    from repro.results.stored import stored_results, write_table

    table = stored_results(task, model)
    if out:
        write_table(table, out)
        print(out)
    else:
        columns = table[["preset", "task", "model", "seed", "metric", "nats_per_step"]]
        print(columns.to_string(index=False, float_format="%.4f"))


def figures(
    results: Files = None, preset: Preset = "starter", source: Source = None, out: Out = None
) -> None:
    """Draw learning curves, the estimate against K, data and samples, and the KL of each step.

    Example: repro figures --preset starter
    """
    require(*FIGURES_NEED)
    from repro.reports.figures import write_figures

    source = source or runs_folder()
    loaded = read_results(results, source, preset)
    for path in write_figures(loaded, runs_folder() / preset, out or source / preset / "figures"):
        print(path)


def check(
    results: Files = None,
    preset: Preset = "starter",
    report: Annotated[Path | None, typer.Option(help="Write the verdicts as Markdown.")] = None,
    always_succeed: Annotated[bool, typer.Option(help="Exit 0 even if a cell got worse.")] = False,
) -> None:
    """Compare new Results with the stored ones; exit 1 and name the cells that got worse.

    Example: repro check --preset starter
    """
    from repro.results.check import compare, render, summary
    from repro.runtime.files import write_text

    is_complete = not results
    loaded = read_results(results, runs_folder(), preset)
    verdicts = compare(loaded, results_folder(), preset, is_complete)
    if report:
        write_text(report, render(verdicts))
    print(render(verdicts))
    line, failed = summary(verdicts)
    print(line, file=sys.stderr)
    if failed and not always_succeed:
        raise typer.Exit(1)


def accept(preset: Preset = "starter") -> None:
    """Store a preset's new Results as those to compare with; nothing else writes results/.

    Refused if a cell would have seeds with different settings, data or numbers of samples.

    Example: repro accept --preset starter
    """
    from repro.results.stored import accept as store

    require_clone("accept")
    loaded = read_results(None, runs_folder(), preset)
    store(loaded, results_folder())
    print(f"stored {len(loaded)} results under {results_folder() / preset}; commit them.")


def weights(
    preset: Annotated[
        str | None, typer.Option(help="Keep those of this preset; default: list all that are kept.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the trainings.")] = 0,
) -> None:
    """Keep the trained weights of stored results in weights/, each with a card; or list them.

    Example: repro weights
    """
    from repro.evaluation.stored_weights import stored, weights_file, write_weights

    if preset:
        require_clone("weights --preset")
        write_weights(preset, seed)
    sizes = {cell: weights_file(*cell).stat().st_size / 1e6 for cell in stored()}
    for (of_preset, dataset, model, number), size in sizes.items():
        print(f"{of_preset}/{dataset}/{model}, seed {number}: {size:.1f} MB")
    print(f"{len(sizes)} files in {weights_folder()}, {sum(sizes.values()):.1f} MB")


def leaderboard(task: Task, folder: Folder = None, out: Table = None) -> None:
    """Rank saved Results of anyone's models with the stored ones of a task.

    Example: repro leaderboard --task linear_gaussian
    """
    from repro.results.leaderboard import leaderboard as ranked

    board = ranked(task, folder)
    if out:
        board.write(out)
    print(board)


def salvage(expected: Expected, preset: Preset = "starter") -> None:
    """Render the Results of a run that failed, in runs/<preset>/partial; say what failed and why.

    Snakemake calls it when a job fails. Exit status 1 if a Result is missing.

    Example: repro salvage runs/starter/linear_gaussian/dmm/seed0.json --preset starter
    """
    import shutil

    require(*FIGURES_NEED)
    from repro.reports.figures import write_figures
    from repro.reports.html import write_report
    from repro.reports.missing import failed_pages, up_to_date
    from repro.reports.tables import write_tables
    from repro.results.check import compare, render
    from repro.runtime.files import write_text

    runs = runs_folder() / preset
    folder = runs / "partial"
    shutil.rmtree(folder, ignore_errors=True)
    loaded, lines = up_to_date(expected)
    lines += failed_pages(runs)
    if loaded:
        loaded = in_order(loaded, runs_folder(), preset)
        write_tables(loaded, folder / "tables")
        write_figures(loaded, runs, folder / "figures")
        verdicts = compare(loaded, results_folder(), preset, is_complete=False)
        write_text(folder / "check.md", render(verdicts))
        scoreboard = paper_tables_folder() / "scoreboard.md"
        page = write_report(
            loaded, folder, lines, scoreboard, folder / "report.html", runs, description_of(preset)
        )
        lines.append(f"the other {len(loaded)} of {len(expected)} results: {page}")
    print("\n".join(lines))
    if len(loaded) < len(expected):
        raise typer.Exit(1)


def report(results: Files = None, preset: Preset = "starter", out: Out = None) -> None:
    """Put tables, figures and verdicts on one self-contained HTML page.

    Example: repro report --preset starter
    """
    from repro.reports.html import write_report

    folder = runs_folder() / preset
    loaded = read_results(results, runs_folder(), preset)
    left_out = without_results(preset, loaded)
    scoreboard = paper_tables_folder() / "scoreboard.md"
    path, about = out or folder / "report.html", description_of(preset)
    races = paper_tables_folder() / "races"
    print(write_report(loaded, folder, left_out, scoreboard, path, description=about, races=races))
