"""Races: trainings until a target, and one epoch of every contender in turn."""

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.utils.flop_counter import FlopCounterMode

from repro.bench.run import operations_per_step
from repro.data import batches, prepared
from repro.errors import ConfigError, DataError
from repro.kernels import dispatch
from repro.results.race import COLUMNS, PYRO, SCHEMA, Race, Target, log_of, race_path, read, write
from repro.results.race import stored as stored_races
from repro.runtime.files import write_text
from repro.runtime.provenance import environment
from repro.training.optimizers import build_optimizers
from repro.training.progress import Monitor, Run, bars
from repro.training.run import require_fitting, train_epoch
from repro.training.trainer import Training

ROUNDS = 3  # epochs of each contender, in turn
COUNTED_STEPS = 32  # of the sequence whose operations are counted
CPU = torch.device("cpu")


def run(
    recipe: dict, data_file: Path, seeds: list[int], target: Target, threads: int, root: Path
) -> list[Race]:
    """Train a recipe from every seed until the target is met; write and return the races.

    A seed whose race is already there for the same recipe is not run again, and one that was
    stopped continues. Then one epoch of every contender is timed in turn.

    Args:
        root: gets <data set>/<model>/<preset>/seed<seed>.json and .jsonl.
    Raises:
        DataError: the data are missing, damaged or not those of the target.
    """
    require_data(data_file, target)
    races = [_run_seed(recipe, data_file, seed, target, threads, root) for seed in seeds]
    if not all(race.epochs_in_turn for race in races):
        epochs = epochs_in_turn(recipe, data_file, target)
        races = [replace(race, epochs_in_turn=epochs) for race in races]
        for race in races:
            write(race, race_path(root, race.dataset, race.model, race.contender, race.seed))
    return races


def require_data(data_file: Path, target: Target) -> None:
    """Refuse data that the target was not derived on.

    Raises:
        DataError: the data are missing, damaged or others.
    """
    found = prepared.load(data_file, ())[0].sha256
    if found != target.data_sha256:
        raise DataError(
            f"{data_file} holds other data (sha256 {found[:12]}…) than the target was derived on "
            f"({target.data_sha256[:12]}…): fetch and prepare {target.dataset} again."
        )


def _run_seed(
    recipe: dict, data_file: Path, seed: int, target: Target, threads: int, root: Path
) -> Race:
    path = race_path(root, target.dataset, target.model, recipe["preset"], seed)
    recorded_target = {"printed": target.printed, "valid_bound": target.valid_bound}
    if path.exists():
        before = read(path, target)
        if (before.recipe, before.target) == (recipe, recorded_target):
            return before
    training = Training(recipe, data_file, seed, path.with_suffix(""), CPU, 0)
    require_fitting(training)
    with bars() as progress:
        run = Run(recipe, seed, training.folder)
        epochs = training.settings["max_epochs"]
        with Monitor(run, epochs, "disabled", progress) as monitor:
            training.begin(monitor)
            while not training.ended and training.best_bound < target.valid_bound:
                train_epoch(training)
    training.finish()
    history = (training.folder / "history.jsonl").read_text(encoding="utf-8")
    write_text(log_of(path), history)
    race = _race(recipe["preset"], target, seed, recipe, training.history, threads)
    write(race, path)
    return race


def _race(
    contender: str, target: Target, seed: int, recipe: dict, history: list[dict], threads: int
) -> Race:
    rows = [row for row in history if "valid_bound" in row]
    kernels = {} if contender == PYRO else {"kernels": dispatch.current().kernels}
    return Race(
        schema=SCHEMA,
        contender=contender,
        dataset=target.dataset,
        model=target.model,
        seed=seed,
        target={"printed": target.printed, "valid_bound": target.valid_bound},
        part="valid",
        data_sha256=target.data_sha256,
        recipe=recipe,
        curve={name: [row[name] for row in rows] for name in COLUMNS},
        epochs_in_turn={},
        environment={**environment("cpu", threads), **kernels},
        note="",
    )


def run_pyro(
    data_file: Path, seed: int, target: Target, threads: int, root: Path, minutes: float
) -> Race:
    """Train Pyro's example for `minutes` CPU minutes in all, or to the target; write the race.

    Raises:
        ConfigError: Pyro is not installed.
        DataError: as for `run`.
    """
    require_data(data_file, target)
    example = _pyro_example()
    path = race_path(root, target.dataset, target.model, PYRO, seed)
    training = example.PyroTraining(data_file, seed, path.with_suffix(""))
    history = training.run(minutes, target.valid_bound)
    race = _race(PYRO, target, seed, {"preset": PYRO, **example.SETTINGS}, history, threads)
    write_text(log_of(path), (training.folder / "history.jsonl").read_text(encoding="utf-8"))
    write(race, path)
    return race


def _pyro_example():  # a module, which is there only with Pyro
    try:
        from repro.bench import pyro_example
    except ImportError:
        raise ConfigError("Pyro is not installed: run `pip install -e '.[bench]'`.") from None
    return pyro_example


def epochs_in_turn(recipe: dict, data_file: Path, target: Target) -> dict[str, dict]:
    """Return CPU seconds and operations of one epoch of every contender, timed in turn.

    The contenders are the recipe, those with stored races, and Pyro's example if Pyro is installed.
    """
    recipes = {group[0].contender: group[0].recipe for group in stored_races(target)}
    recipes.pop(PYRO, None)
    recipes |= {recipe["preset"]: recipe}
    trainings = {name: Training(one, data_file, 0, Path(), CPU, 0) for name, one in recipes.items()}
    operations = {name: _operations(training) for name, training in trainings.items()}
    calls: dict[str, Callable[[], object]] = {n: t.one_epoch for n, t in trainings.items()}
    try:
        example = _pyro_example()
    except ConfigError:
        pass  # an optional peer
    else:
        with TemporaryDirectory() as empty:  # nothing to resume from
            pyro_training = example.PyroTraining(data_file, 0, Path(empty))
        calls[PYRO], operations[PYRO] = pyro_training.one_epoch, pyro_training.operations()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            seconds[name].append(time.process_time() - start)
    return {
        name: {"cpu_seconds": round(statistics.median(seconds[name]), 3), "flops": operations[name]}
        for name in calls
    }


def _operations(training: Training) -> float:
    """Return how many operations the matrix products of an epoch take, with the optimiser's."""
    model = copy.deepcopy(training.model)
    x = training.train_part[0][:COUNTED_STEPS].unsqueeze(1)
    noise = torch.zeros(len(x), training.settings.get("samples", 1), 1, model.latent)
    per_step = operations_per_step(model, x, noise)
    optimizers = build_optimizers(model, training.settings)
    with FlopCounterMode(display=False) as counter:
        for optimizer in optimizers:
            optimizer.step()
    steps = sum(batches.lengths_of(training.train_part))
    return per_step * steps + counter.get_total_flops() * len(list(training.batches()))
