"""What measures the project itself.

Heavy imports stand inside the commands, so that `repro --help` and light rules start at once.
"""

from typing import Annotated

import typer

from repro.cli.options import Out
from repro.paths import RUNS


def trust(out: Out = RUNS / "trust") -> None:
    """Compare the estimators with exact likelihoods, and simulate the check's errors.

    Example: repro trust
    """
    from repro.trust import write_trust

    for path in write_trust(out):
        print(path)


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
