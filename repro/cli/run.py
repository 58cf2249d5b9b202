"""Commands for one model, one data set and one seed.

Heavy imports are inside the commands, so that `repro --help` and light rules start at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from repro.cli.options import (
    Dataset,
    DeviceOption,
    KernelsOption,
    Model,
    PrecisionOption,
    Preset,
    Recipe,
    Seed,
    Threads,
    WandbOption,
)
from repro.config import recipes as configuration
from repro.runtime.paths import data_file, run_folder, runs_folder

VERIFY_TOLERANCE = 1e-5  # nats per step, which another CPU's order of summation may change


def train(
    dataset: Dataset,
    model: Model,
    seed: Annotated[
        list[int] | None,
        typer.Option(min=0, help="Seed of the run, default 0; several run as one job."),
    ] = None,
    preset: Preset = "starter",
    config: Recipe = None,
    validation_samples: Annotated[
        int | None, typer.Option(min=0, help="For the learning curve; 0: only the bound.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    kernels: KernelsOption = None,
    cuda_graphs: Annotated[
        bool | None, typer.Option(help="On a GPU, replay recorded kernels.")
    ] = None,
    threads: Threads = None,
    wandb: WandbOption = None,
) -> None:
    """Train a model from one seed, or from several together; resume where it was interrupted.

    Without --config, data that are missing are fetched and prepared.

    Example: repro train --model dmm --dataset linear_gaussian
    """
    from repro.data.prepare import prepared_file
    from repro.kernels import dispatch
    from repro.runtime.devices import prepare_device
    from repro.training.run import train_seeds

    loaded: dict = {}  # the preset is not read where all of these are given, as in the workflow
    if (
        config is None
        or validation_samples is None
        or device is None
        or precision is None
        or kernels is None
        or cuda_graphs is None
        or threads is None
        or wandb is None
    ):
        loaded = configuration.load(preset)
        device, threads = device or loaded["device"], threads or loaded["threads"]
        wandb = wandb or loaded["wandb"]
    if validation_samples is None:
        validation_samples = loaded.get("evaluation", {}).get("validation_samples", 0)
    if cuda_graphs is None:
        cuda_graphs = loaded.get("cuda_graphs", False)
    if config is None:
        recipe = configuration.resolve(loaded, dataset, model)
        data = prepared_file(dataset, configuration.describe(loaded, dataset), loaded)
    else:
        recipe, data = configuration.thaw(config, dataset, model), data_file(dataset)
    seeds = seed or [0]
    precision = precision or loaded.get("precision", "float32")
    where = prepare_device(device, threads, precision)
    with dispatch.using(kernels=str(kernels or loaded.get("kernels", "fast"))):
        paths = train_seeds(
            recipe,
            data,
            seeds,
            [run_folder(preset, dataset, model, one) for one in seeds],
            where,
            wandb,
            validation_samples,
            graphs=bool(cuda_graphs) and where.type == "cuda",
        )
    print(*paths, sep="\n")


def evaluate(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    num_samples: Annotated[int | None, typer.Option(min=1, help="Importance samples K.")] = None,
    until_error: Annotated[
        float | None,
        typer.Option(min=0.0, help="Stop at this error, nats per step; K is then the maximum."),
    ] = None,
    curve: Annotated[list[int] | None, typer.Option(min=1, help="A smaller K to report.")] = None,
    particles: Annotated[
        int | None, typer.Option(min=0, help="Particles of FIVO; 0: no FIVO.")
    ] = None,
    device: DeviceOption = None,
    precision: PrecisionOption = None,
    kernels: KernelsOption = None,
    threads: Threads = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Default: the run's own.")] = None,
    wandb: WandbOption = None,
) -> None:
    """Compute the bounds of a checkpoint on the test part.

    Example: repro evaluate --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.evaluation.evaluate import evaluate as evaluate_checkpoint
    from repro.kernels import dispatch
    from repro.results.record import result_path, write
    from repro.runtime.devices import prepare_device
    from repro.training.checkpoints import checkpoint_in
    from repro.training.progress import Run, report_result

    loaded: dict = {}
    if (
        num_samples is None
        or curve is None
        or particles is None
        or device is None
        or precision is None
        or kernels is None
        or threads is None
        or wandb is None
    ):
        loaded = configuration.load(preset)
        settings = loaded["evaluation"]
        if num_samples is None:
            num_samples = settings["num_samples"]
            until_error = until_error or settings.get("until", {}).get("error")
        curve = settings["curve"] if curve is None else curve
        particles = settings.get("particles", 0) if particles is None else particles
        device, threads = device or loaded["device"], threads or loaded["threads"]
        wandb = wandb or loaded["wandb"]
    precision = precision or loaded.get("precision", "float32")
    if checkpoint is None:
        checkpoint = checkpoint_in(run_folder(preset, dataset, model, seed))
    with dispatch.using(kernels=str(kernels or loaded.get("kernels", "fast"))):
        result = evaluate_checkpoint(
            checkpoint,
            data_file(dataset),
            num_samples,
            curve,
            prepare_device(device, threads, precision),
            particles,
            expected={"model": model, "dataset": dataset, "seed": seed},
            until_error=until_error,
        )
    path = result_path(runs_folder(), preset, dataset, model, seed)
    write(result, path)
    bound, importance = result.per_step("bound"), result.per_step("is")
    samples = result.evaluation["num_samples"]
    best = {"best_valid_bound": result.training["best_validation_bound"]}
    best |= {"best_epoch": result.training["best_epoch"]}
    numbers = {**best, "test_bound": bound, "test_is": importance, "num_samples": samples}
    report_result(Run(result.recipe, seed, checkpoint.parent), wandb, numbers)
    print(f"{path}: bound {bound:.4f}, IS-{samples} {importance:.4f} nats/step")
    until = result.evaluation.get("until", {"reached": True})
    if not until["reached"]:
        print(
            f"{path}: an error of {until['error']:g} nats/step was not reached with {samples} "
            f"samples. It is estimated as {until['found']:.2g}; that is itself unreliable if few "
            "samples carry most of the weight.",
            file=sys.stderr,
        )


def verify(
    model: Annotated[str, typer.Argument(help="A model with stored weights (`repro weights`).")],
    dataset: Annotated[str, typer.Argument(help="Its data set.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    preset: Annotated[
        str | None, typer.Option(help="Needed where several presets have such weights.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Evaluate stored weights again; exit 1 unless the test number is the stored one within 1e-5.

    Example: repro verify dmm linear_gaussian
    """
    from repro.evaluation.stored_weights import evaluate_again, find

    stored = find(model, dataset, seed, preset)
    again = evaluate_again(stored, threads)
    difference = abs(again.per_step("is") - stored.per_step("is"))
    same = "the same" if difference <= VERIFY_TOLERANCE else "NOT the same"
    print(
        f"{stored.preset}/{dataset}/{model}, seed {seed}: stored {stored.per_step('is'):.6f}, here "
        f"{again.per_step('is'):.6f} nats per step, {same} within {VERIFY_TOLERANCE:g}"
    )
    if difference > VERIFY_TOLERANCE:
        raise typer.Exit(1)


def sample(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    num: Annotated[int, typer.Option(min=1, help="Sequences to draw.")] = 8,
) -> None:
    """Draw sequences from a checkpoint, and take as many real ones to compare with.

    Example: repro sample --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.evaluation.sample import write_samples
    from repro.training.checkpoints import checkpoint_in

    folder = run_folder(preset, dataset, model, seed)
    expected = {"model": model, "dataset": dataset, "seed": seed}
    path = folder / "samples.npz"
    write_samples(checkpoint_in(folder), data_file(dataset), num, path, expected)
    print(path)


def predict(
    dataset: Dataset,
    model: Model,
    seed: Seed,
    preset: Preset = "starter",
    particles: Annotated[int, typer.Option(min=1, help="Particles of the filter.")] = 200,
    device: DeviceOption = None,
    threads: Threads = None,
) -> None:
    """Write how well a checkpoint predicts each step: log p(x_t | x_<t) of the test part, as CSV.

    Example: repro predict --model dmm --dataset linear_gaussian --seed 0
    """
    from repro.evaluation.predict import write_predictions
    from repro.kernels import dispatch
    from repro.runtime.devices import prepare_device
    from repro.training.checkpoints import checkpoint_in

    loaded = configuration.load(preset)
    folder = run_folder(preset, dataset, model, seed)
    path = folder / "predictions.csv"
    with dispatch.using(kernels=loaded.get("kernels", "fast")):
        write_predictions(
            checkpoint_in(folder),
            data_file(dataset),
            particles,
            prepare_device(device or loaded["device"], threads or loaded["threads"]),
            path,
            expected={"model": model, "dataset": dataset, "seed": seed},
        )
    print(path)


def listen(dataset: Dataset, model: Model, seed: Seed, preset: Preset = "starter") -> None:
    """Write what `repro sample` drew as audio files: rolls as MIDI, waveforms as WAV.

    Example: repro listen --model vrnn --dataset bach_chorales --seed 0
    """
    from repro.evaluation.audio import write_all

    folder = run_folder(preset, dataset, model, seed)
    for path in write_all(folder / "samples.npz", folder / "listen"):
        print(path)
