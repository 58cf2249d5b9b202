"""The `repro` command: one subcommand for each rule of the Snakefile, and a few to explore."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from repro.cli import data, explore, reports, run, tools
from repro.errors import ReproError
from repro.runtime.provenance import version

EPILOG = "What it makes goes into runs/ here. Exit status: 0 done, 1 check failed, 2 user error."
COMMANDS = (
    data.fetch,
    data.prepare,
    data.configure,
    run.train,
    run.evaluate,
    run.sample,
    run.predict,
    run.listen,
    reports.tables,
    reports.paper_tables,
    reports.figures,
    reports.check,
    reports.accept,
    reports.weights,
    reports.leaderboard,
    reports.results,
    reports.report,
    reports.salvage,
    run.verify,
    explore.show,
    tools.plan,
    tools.trust,
    tools.bench,
    tools.race,
)

app = typer.Typer(
    help="Reproduce and compare sequential generative models.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)
app.command("list")(explore.list_)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version())
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version, and in a clone its commit, and exit.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
    runs: Annotated[
        Path | None,
        typer.Option(help="Folder for all that is made, instead of runs.", envvar="REPRO_RUNS"),
    ] = None,
) -> None:
    """Handle the options before a subcommand."""
    if runs is not None:
        os.environ["REPRO_RUNS"] = str(runs)


def main() -> None:
    """Run the command line; print expected errors without a traceback."""
    try:
        app()
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
