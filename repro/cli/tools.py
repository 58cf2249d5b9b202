"""What measures the project itself.

Heavy imports stand inside the commands, so that `repro --help` and light rules start at once.
"""

from typing import Annotated

import typer

from repro import config as configuration
from repro.cli.options import Out, Preset, Source
from repro.paths import RESULTS, RUNS


def trust(out: Out = None) -> None:
    """Compare the estimators with exact likelihoods, and simulate the check's errors.

    Example: repro trust
    """
    from repro.trust import write_trust

    for path in write_trust(out or RUNS / "trust"):
        print(path)


def plan(
    preset: Preset = "starter",
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Default: 1, 8, 64.")] = None,
    speedup: Annotated[
        float, typer.Option(min=0.01, help="A worker's speed, in those that were measured.")
    ] = 1.0,
    source: Source = RESULTS,
) -> None:
    """Say what a preset will take: jobs, hours, memory, disk, and wall time on so many workers.

    The hours are those of stored results; --speedup is your assumption about other hardware.

    Example: repro plan --preset paper-music --workers 8
    """
    from repro import plan as planning

    found = planning.plan(configuration.load(preset), planning.stored(source))
    print(planning.as_text(found, workers or [1, 8, 64], speedup))


def bench(
    quick: Annotated[bool, typer.Option(help="Three repeats instead of seven.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Time training and evaluation beside a plain implementation, and Pyro where it is installed.

    Example: repro bench --quick
    """
    from repro.bench.run import run
    from repro.bench.table import as_table, caption
    from repro.tables import as_markdown

    path = RUNS / "bench" / f"threads{threads}.json"
    record = run(quick, threads, path)
    print(f"{as_markdown(as_table(record))}\n\n{caption(record)}\n{path}")
