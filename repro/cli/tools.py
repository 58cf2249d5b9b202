"""Commands that measure the project itself.

Heavy imports are inside the commands, so that `repro --help` and light rules start at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repro.cli.options import Dataset, Device, Out, Preset
from repro.config import recipes as configuration
from repro.runtime.extras import require
from repro.runtime.paths import (
    paper_tables_folder,
    require_clone,
    results_folder,
    runs_folder,
)

if TYPE_CHECKING:
    from repro.results.race import Target


def trust(out: Out = None) -> None:
    """Compare the estimators with exact likelihoods, and simulate the check's errors.

    Example: repro trust
    """
    require("matplotlib")
    from repro.selftest.page import write_trust

    for path in write_trust(out or runs_folder() / "trust"):
        print(path)


def plan(
    preset: Preset = "starter",
    workers: Annotated[list[int] | None, typer.Option(min=1, help="Default: 1, 8, 64.")] = None,
    speedup: Annotated[
        float, typer.Option(min=0.01, help="A worker's speed, relative to the measured ones.")
    ] = 1.0,
    source: Annotated[
        Path | None, typer.Option(help="Where to read Results; default: the stored ones.")
    ] = None,
) -> None:
    """Estimate what a preset will cost: jobs, hours, memory, disk, and wall time by workers.

    The hours come from stored results; --speedup is your assumption about other hardware.

    Example: repro plan --preset paper-music --workers 8
    """
    from repro import planning

    found = planning.plan(configuration.load(preset), planning.stored(source or results_folder()))
    print(planning.as_text(found, workers or [1, 8, 64], speedup))


def bench(
    quick: Annotated[
        bool, typer.Option(help="Three repeats instead of seven, no handwriting.")
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    growth: Annotated[bool, typer.Option("--growth", help="Instead: how cost grows.")] = False,
    sweep: Annotated[bool, typer.Option("--sweep", help="Instead: two trainings at once.")] = False,
    device: Annotated[
        Device, typer.Option(help="cuda: training steps on a GPU instead.")
    ] = Device.cpu,
) -> None:
    """Time training and evaluation against a plain implementation, and Pyro if it is installed.

    Example: repro bench --quick
    """
    require("matplotlib", "seaborn")
    from repro.bench import growth as growing
    from repro.bench import sweep as sweeping
    from repro.bench import table
    from repro.bench.run import run
    from repro.reports.sequence_plots import save_svg
    from repro.reports.tables import as_markdown

    if device == Device.cuda:
        from repro.bench import gpu

        path = runs_folder() / "bench" / "gpu.json"
        print(f"{gpu.run(path)}\n{path}")
        return
    if sweep:
        path = runs_folder() / "bench" / "sweep.json"
        print(f"{sweeping.as_text(sweeping.run(path))}\n{path}")
        return
    name = "growth" if growth else f"threads{threads}"
    path = runs_folder() / "bench" / f"{name}.json"
    if growth:
        record = growing.run(threads, path)
        text, figure = growing.as_text(record), growing.draw(record)
    else:
        record = run(quick, threads, path)
        tables = table.as_table(record), table.profile_table(record)
        text, figure = "\n\n".join(map(as_markdown, tables)), table.draw(record)
        text += f"\n\n{table.caption(record)}"
    save_svg(figure, path.with_suffix(".svg"))
    print(f"{text}\n{path}\n{path.with_suffix('.svg')}")


def race(
    model: Annotated[str, typer.Argument(help="A model with a target in config/targets.yaml.")],
    dataset: Dataset,
    preset: Annotated[str, typer.Option(help="The preset whose recipe runs.")] = "music",
    target: Annotated[
        float | None, typer.Option(help="The printed number, if you want it checked.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(min=0, help="A seed; default: 0, 1 and 2.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    pyro: Annotated[
        float | None,
        typer.Option(min=0.0, help="Instead: Pyro's example, for this many CPU minutes in all."),
    ] = None,
    accept: Annotated[
        bool, typer.Option("--accept", help="Instead: store the races under runs/ in results/.")
    ] = False,
) -> None:
    """Train until the validation bound is as good as a printed number; report the CPU seconds.

    A race that was stopped continues, and the test part is not read. The table beside the paper's
    recipe, stored races and Pyro's example is in runs/races/, or with --accept in
    paper_tables/races/.

    Example: repro race dmm --dataset jsb_chorales
    """
    from repro.reports.race import write_race
    from repro.results.race import accept_races, races_folder, stored, target_of

    configuration.require_cell(dataset, model)
    goal = target_of(dataset, model, target)
    runs = runs_folder() / "races"
    if accept:
        require_clone("race --accept")
        accept_races(goal, runs, races_folder())
        groups = stored(goal)
        folder = paper_tables_folder() / "races" / dataset / model
    else:
        _run_race(preset, goal, seed or [0, 1, 2], threads, pyro)
        known = {group[0].contender: group for group in [*stored(goal), *stored(goal, runs)]}
        groups, folder = list(known.values()), runs / dataset / model
    table, figure = write_race(groups, goal, folder)
    print(f"{table.read_text(encoding='utf-8')}\n{table}\n{figure}")


def _run_race(
    preset: str, goal: "Target", seeds: list[int], threads: int, pyro: float | None
) -> None:
    from repro.bench.race import run, run_pyro
    from repro.data.prepare import prepared_file
    from repro.runtime.devices import prepare_device

    prepare_device("cpu", threads)
    config, runs = configuration.load(preset), runs_folder() / "races"
    described = configuration.describe(config, goal.dataset)
    file = prepared_file(goal.dataset, described, config)
    if pyro is not None:
        for seed in seeds:
            run_pyro(file, seed, goal, threads, runs, pyro)
        return
    recipe = configuration.resolve(config, goal.dataset, goal.model)
    run(recipe, file, seeds, goal, threads, runs)
