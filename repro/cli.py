"""The `repro` command: one subcommand for each rule of the Snakefile, and nothing more.

Heavy imports stand inside the commands, so that `repro --help` and light rules start at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from repro import config as configuration
from repro.errors import ReproError
from repro.gather import dataset_entry, read_results
from repro.options import (
    Corpora,
    Dataset,
    Device,
    Entry,
    Files,
    Mirror,
    Model,
    Out,
    Preset,
    Recipe,
    Seed,
    Source,
    Threads,
)
from repro.paths import PAPER_TABLES, RESULTS, RUNS, data_file, raw_folder, run_folder

EPILOG = "Run in the repository's root folder. Exit status: 0 done, 1 check failed, 2 user error."

app = typer.Typer(
    help="Reproduce and compare sequential generative models.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command()
def fetch(
    dataset: Dataset, config: Entry = None, mirror: Mirror = None, corpora: Corpora = None
) -> None:
    """Fetch and verify the raw files of a data set.

    Example: repro fetch --dataset japanese_vowels
    """
    from repro.data.sources import fetch as fetch_files
    from repro.data.sources import write_manifest

    entry = dataset_entry(dataset, config)
    files = fetch_files(dataset, entry, raw_folder(dataset), mirror, corpora)
    write_manifest(entry, raw_folder(dataset).parent / "raw.json")
    found = "your copy" if "licensed" in entry else f"{len(files)} raw files verified"
    print(f"{dataset}: {found}. Licence: {entry['licence']}")


@app.command()
def prepare(dataset: Dataset, config: Entry = None) -> None:
    """Turn raw files into the one prepared format, and check their counts.

    Example: repro prepare --dataset japanese_vowels
    """
    from repro.data.prepare import prepare as prepare_data

    path = data_file(dataset)
    spec = prepare_data(dataset, dataset_entry(dataset, config), raw_folder(dataset), path)
    for part, count in spec.sequences.items():
        print(f"{dataset} {part}: {count} sequences, {spec.steps[part]} steps of {spec.dim} values")


@app.command()
def configure(dataset: Dataset, model: Model, preset: Preset = "starter") -> None:
    """Freeze the recipe of one cell; training reads nothing else.

    Example: repro configure --model dmm --dataset linear_gaussian
    """
    recipe = configuration.resolve(configuration.load(preset), dataset, model)
    path = RUNS / preset / dataset / model / "config.yaml"
    configuration.freeze(recipe, path)
    print(path)


@app.command()
def train(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    config: Recipe = None,
    device: Device = None,
    threads: Threads = None,
    wandb: Annotated[str | None, typer.Option(help="disabled, offline or online.")] = None,
) -> None:
    """Train one model from one seed; resumes where an interrupted run stopped.

    Example: repro train --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.devices import prepare_device
    from repro.train import train as train_model

    settings = {"device": device, "threads": threads, "wandb": wandb}
    if config is None or None in settings.values():
        loaded = configuration.load(preset)
        settings = {key: loaded[key] if v is None else v for key, v in settings.items()}
    if config is None:
        recipe = configuration.resolve(loaded, dataset, model)
    else:
        recipe = configuration.thaw(config, dataset, model)
    path = train_model(
        recipe,
        data_file(dataset),
        seed,
        run_folder(preset, dataset, model, seed),
        prepare_device(settings["device"], settings["threads"]),
        settings["wandb"],
    )
    print(path)


@app.command()
def evaluate(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    num_samples: Annotated[int | None, typer.Option(min=1, help="Importance samples K.")] = None,
    curve: Annotated[list[int] | None, typer.Option(min=1, help="A smaller K to report.")] = None,
    particles: Annotated[int | None, typer.Option(min=0, help="Of FIVO; 0: leave out.")] = None,
    device: Device = None,
    threads: Threads = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
) -> None:
    """Compute the bounds of a checkpoint on the test part.

    Example: repro evaluate --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.devices import prepare_device
    from repro.evaluate import evaluate as evaluate_checkpoint
    from repro.results import result_path, write

    if None in (num_samples, curve, particles, device, threads):
        loaded = configuration.load(preset)
        settings = loaded["evaluation"]
        num_samples = num_samples or settings["num_samples"]
        curve = settings["curve"] if curve is None else curve
        particles = settings.get("particles", 0) if particles is None else particles
        device, threads = device or loaded["device"], threads or loaded["threads"]
    if checkpoint is None:
        checkpoint = run_folder(preset, dataset, model, seed) / "checkpoint.safetensors"
    result = evaluate_checkpoint(
        checkpoint,
        data_file(dataset),
        num_samples,
        curve,
        prepare_device(device, threads),
        particles,
        expected={"model": model, "dataset": dataset, "seed": seed},
    )
    path = result_path(RUNS, preset, dataset, model, seed)
    write(result, path)
    bound, importance = result.per_step("bound"), result.per_step("is")
    samples = result.evaluation["num_samples"]
    print(f"{path}: bound {bound:.4f}, IS-{samples} {importance:.4f} nats/step")


@app.command()
def sample(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    num: Annotated[int, typer.Option(min=1, help="Sequences to draw.")] = 8,
) -> None:
    """Draw sequences from a checkpoint, beside real ones.

    Example: repro sample --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.sampling import write_samples

    folder = run_folder(preset, dataset, model, seed)
    expected = {"model": model, "dataset": dataset, "seed": seed}
    path = folder / "samples.npz"
    write_samples(folder / "checkpoint.safetensors", data_file(dataset), num, path, expected)
    print(path)


@app.command()
def listen(dataset: Dataset, model: Model, seed: Seed, preset: Preset = "starter") -> None:
    """Write what `repro sample` drew as files to play: rolls as MIDI, waveforms as WAV.

    Example: repro listen --model vrnn --dataset bach_chorales --seed 0
    """
    from repro.listen import write_all

    folder = run_folder(preset, dataset, model, seed)
    for path in write_all(folder / "samples.npz", folder / "listen"):
        print(path)


@app.command()
def tables(
    results: Files = None, preset: Preset = "starter", source: Source = RUNS, out: Out = None
) -> None:
    """Render one table a data set, as Markdown, LaTeX and CSV.

    Example: repro tables --source results --out paper_tables/starter
    """
    from repro.tables import write_tables

    found = read_results(results, source, preset)
    for path in write_tables(found, out or source / preset / "tables"):
        print(path)


@app.command()
def paper_tables() -> None:
    """Render the published tables beside our stored results, in paper_tables/.

    Example: repro paper-tables
    """
    from repro.published import render_published

    for path in sorted(PAPER_TABLES.glob("*/table.yaml")):
        for written in render_published(path.parent, RESULTS):
            print(written)


@app.command()
def figures(
    results: Files = None, preset: Preset = "starter", source: Source = RUNS, out: Out = None
) -> None:
    """Draw learning curves, the estimate against K, samples beside data, and the KL of steps.

    Example: repro figures --preset starter
    """
    from repro.figures import write_figures

    found = read_results(results, source, preset)
    for path in write_figures(found, RUNS / preset, out or source / preset / "figures"):
        print(path)


@app.command()
def check(
    results: Files = None,
    preset: Preset = "starter",
    report: Annotated[Path | None, typer.Option(help="Write the verdicts as Markdown.")] = None,
    always_succeed: Annotated[bool, typer.Option(help="Exit 0 even if a cell got worse.")] = False,
) -> None:
    """Compare new Results with the stored ones; exit 1 and name the cells that got worse.

    Example: repro check --preset starter
    """
    from repro.check import compare, render, summary
    from repro.files import write_text

    whole = not results
    verdicts = compare(read_results(results, RUNS, preset), RESULTS, preset, whole)
    if report:
        write_text(report, render(verdicts))
    print(render(verdicts))
    line, failed = summary(verdicts)
    print(line, file=sys.stderr)
    if failed and not always_succeed:
        raise typer.Exit(1)


@app.command()
def report(preset: Preset = "starter", out: Out = None) -> None:
    """Put tables, figures and verdicts on one self-contained HTML page.

    Example: repro report --preset starter
    """
    from repro.report import write_report

    print(write_report(RUNS / preset, out or RUNS / preset / "report.html"))


@app.command()
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


@app.command()
def accept(preset: Preset = "starter") -> None:
    """Store the new Results of a preset as the ones to compare with; nothing else writes results/.

    Example: repro accept --preset starter
    """
    from repro.results import result_path, write

    found = read_results(None, RUNS, preset)
    for result in found:
        path = result_path(RESULTS, preset, result.dataset, result.model, result.seed)
        write(result, path)
    print(f"stored {len(found)} results under {RESULTS / preset}; commit them.")


def main() -> None:
    """Run the command line; print expected errors without a traceback."""
    try:
        app()
    except ReproError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(2)
