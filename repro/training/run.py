"""Seeded, resumable trainings: data and recipe in, checkpoints out."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from repro.config.traits import misfit
from repro.data import prepared
from repro.errors import ConfigError, NumericalError
from repro.runtime.files import cannot_write
from repro.training.checkpoints import checkpoint_in, is_trained
from repro.training.progress import Monitor, Run, bars
from repro.training.stacked import train_stack
from repro.training.trainer import Clock, Training


def train(
    recipe: dict,
    data_file: Path,
    seed: int,
    folder: Path,
    device: torch.device,
    wandb: str,
    validation_samples: int = 0,
) -> Path:
    """Train one model from one seed; return its checkpoint, chosen on the validation bound.

    Initial weights, batch order, noise and dropout have separate streams, all derived from `seed`.
    State is saved at every validation under `folder`/state, and a run that was stopped continues
    from there to the same bits. A loss or gradient that is not finite ends the training at once:
    that is an outcome, not a failure, and the checkpoint records it under "diverged". If another
    process is training this run (it may have outlived a killed snakemake), this one waits for its
    checkpoint.

    Args:
        recipe: the frozen configuration (`config.recipes.resolve`).
        data_file: prepared sequences; the test part is not read.
        folder: gets checkpoint.safetensors and history.jsonl.
        validation_samples: importance samples for the validation part at epochs 20 % apart, for the
            learning curve; 0 for none. Nothing else depends on it.
    Raises:
        DataError: the data are missing or damaged.
        ConfigError: the model cannot be trained as the recipe says (`config.traits.misfit`).
    """
    seeds, folders = [seed], [folder]
    return train_seeds(recipe, data_file, seeds, folders, device, wandb, validation_samples)[0]


def train_seeds(
    recipe: dict,
    data_file: Path,
    seeds: Sequence[int],
    folders: Sequence[Path],
    device: torch.device,
    wandb: str,
    validation_samples: int = 0,
    graphs: bool = False,
) -> list[Path]:
    """Train a model from several seeds in one process, as one batched model if possible.

    Up to rounding, each seed gives the same result as when it is trained alone: it has its own
    batches, random numbers, early stopping, state and checkpoint. Models that cannot be batched
    (`SequenceModel.can_stack`), trainings on segments, and trainings with an objective other than
    the ELBO run one seed after another. Arguments as for `train`, with one folder per seed.

    Args:
        graphs: on a GPU, replay recorded kernels (`repro.training.cuda_graphs`) if the model can be
            batched.
    """
    paths = {folder: checkpoint_in(folder) for folder in folders}
    with ExitStack() as contexts:
        progress = contexts.enter_context(bars())
        trainings = []
        for seed, folder in zip(seeds, folders, strict=True):
            free = contexts.enter_context(_exclusive(folder))
            digest = prepared.load(data_file, ())[0].sha256
            if free or not is_trained(paths[folder], recipe, digest):
                training = Training(recipe, data_file, seed, folder, device, validation_samples)
                require_fitting(training)
                run = Run(recipe, seed, folder)
                monitor = Monitor(run, recipe["model"]["training"]["max_epochs"], wandb, progress)
                training.begin(contexts.enter_context(monitor))
                trainings.append(training)
        settings = recipe["model"]["training"]
        stackable_settings = (
            "segment" not in settings and settings.get("objective", "elbo") == "elbo"
        )
        stacking_pays = graphs or len(trainings) > 1
        if stacking_pays and trainings and trainings[0].model.can_stack and stackable_settings:
            train_stack(trainings, graphs)
        for training in trainings:
            _train_alone(training)
        for training in trainings:
            training.finish()
    return list(paths.values())


def require_fitting(training: Training) -> None:
    """Refuse a recipe that does not fit its model; only the built model knows for certain.

    Raises:
        ConfigError: says what does not fit.
    """
    recipe, model = training.recipe, training.model
    traits = model.traits._replace(latent=bool(model.latent))
    reason = misfit(traits, training.settings, recipe["dataset"]["options"])
    if reason:
        names = f"model '{recipe['model']['name']}' on {recipe['dataset']['name']}"
        raise ConfigError(f"{names}: {reason}")


def _train_alone(training: Training) -> None:
    while not training.ended:
        train_epoch(training)


def train_epoch(training: Training) -> None:
    """Train and close one epoch; a number that is not finite ends the training."""
    clock = Clock()
    try:
        training.close_epoch(training.one_epoch(), clock.read())
    except NumericalError as error:
        training.diverge(error)


@contextmanager
def _exclusive(folder: Path) -> Iterator[bool]:
    """Lock a run's folder against other processes; yield False if it had to wait for one."""
    lock, free = FileLock(folder / "state.lock"), True
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        free = False
        print(f"{folder} is being trained by another process; waiting for it", file=sys.stderr)
        lock.acquire()
    except OSError as error:
        raise cannot_write(folder, error) from None
    with lock:
        yield free
