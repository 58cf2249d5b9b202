"""The suite from Python: load a data set, train a model on it, bound its likelihood.

    >>> checkpoint = api.train("dmm", "linear_gaussian", max_epochs=5)
    >>> api.evaluate(checkpoint, num_samples=100).per_step("is")  # nats per step of the test part

Runs are stored under runs/ in the working directory, or where the environment variable REPRO_RUNS
says; the command line finds them there. A training that is finished is not repeated.
"""

from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.config import recipes as configuration
from repro.data import prepared
from repro.data.batches import to_tensors
from repro.data.prepare import prepared_file
from repro.errors import ConfigError
from repro.evaluation.evaluate import evaluate as evaluate_checkpoint
from repro.kernels import dispatch
from repro.results.record import Result
from repro.runtime.devices import prepare_device
from repro.runtime.files import readable
from repro.runtime.paths import data_file, run_folder
from repro.training.checkpoints import checkpoint_in, is_trained, load_checkpoint
from repro.training.run import train as train_run


def load(
    dataset: str, preset: str = "starter", mirror: Path | str | None = None
) -> dict[str, list[Tensor]]:
    """Return the sequences of a data set, (T, D) each, by part; fetch and prepare them if needed.

    They are normalised, in float32.

    >>> api.load("linear_gaussian")["train"][0].shape  # (T, D)

    Args:
        dataset: its name.
        preset: the preset whose configuration has the data set.
        mirror: a folder that already holds the files to download.
    Raises:
        ConfigError: there is no such data set or preset.
        DataError: its files cannot be obtained.
    """
    config = configuration.load(preset)
    config = {**config, "mirror": mirror or config["mirror"]}
    data = prepared_file(dataset, configuration.describe(config, dataset), config)
    _, parts = prepared.load(data, prepared.PARTS)
    cpu = torch.device("cpu")
    return {part: list(to_tensors(sequences, cpu)) for part, sequences in parts.items()}


def train(
    model: str,
    dataset: str,
    seed: int = 0,
    preset: str = "starter",
    sizes: dict | None = None,
    **training: object,
) -> Path:
    """Return the path of a model's checkpoint, after training it as a preset says.

    >>> api.train("dmm", "linear_gaussian", seed=1, sizes={"latent": 2}, max_epochs=5)

    Args:
        model, dataset, preset: their names.
        seed: of the training.
        sizes, training: settings that differ from the preset's (config/schema.yaml names them);
            such a run has a separate folder, `<preset>-own`, where a later training with other
            settings replaces it.
    Raises:
        ConfigError: a name or a setting is wrong.
        DataError: the data set's files cannot be obtained.
    """
    seed = _require_whole_number("seed", seed, 0)
    config = configuration.load(preset)
    if sizes or training:
        experiment = {"datasets": [dataset], "models": [model]}
        experiment |= _as_yaml_values({"sizes": sizes or {}, "training": training})
        changes = {"preset": f"{preset}-own", "experiments": [*config["experiments"], experiment]}
        config = configuration.check({**config, **changes})
    recipe = configuration.resolve(config, dataset, model)
    folder = run_folder(config["preset"], dataset, model, seed)
    checkpoint = checkpoint_in(folder)
    data = prepared_file(dataset, configuration.describe(config, dataset), config)
    if is_trained(checkpoint, recipe, prepared.load(data, ())[0].sha256):
        return checkpoint
    device = prepare_device(config["device"], config["threads"])
    with dispatch.using(kernels=config.get("kernels", "fast")):
        return train_run(recipe, data, seed, folder, device, config["wandb"])


def evaluate(checkpoint: Path | str, num_samples: int = 200, particles: int = 0) -> Result:
    """Return the Result of a checkpoint on the test part of its data set, nats per test sequence.

    >>> result = api.evaluate(checkpoint, num_samples=100)
    >>> result.per_step("bound"), result.per_step("is")  # nats per step

    Args:
        checkpoint: the path that `train` returned.
        num_samples: importance samples K of each sequence; exact models use none.
        particles: of the particle filter (FIVO); 0 for no filter.
    Raises:
        ConfigError: `num_samples` or `particles` is not a whole number, or is too small.
        CheckpointError: the checkpoint is missing or damaged, or its data set has changed since.
        DataError: the prepared data are missing or damaged.
        NumericalError: a log weight is NaN or infinite.
    """
    checkpoint = Path(checkpoint)
    num_samples = _require_whole_number("num_samples", num_samples, 1)
    particles = _require_whole_number("particles", particles, 0)
    _, info = load_checkpoint(checkpoint)
    device = prepare_device("auto", torch.get_num_threads())
    name = info.recipe["dataset"]["name"]
    data = data_file(name)
    if made_by := prepared.made_by(data) if readable(data) else {}:
        data = prepared_file(name, configuration.with_content(made_by, f"datasets.{name}"), {})
    return evaluate_checkpoint(checkpoint, data, num_samples, [], device, particles)


def _require_whole_number(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ConfigError(f"{name}: {value!r} must be a whole number, {least} or more.")
    return int(value)


def _as_yaml_values(value: Any) -> Any:
    """Return settings as a YAML file would hold them: no NumPy numbers, tuples or paths."""
    if isinstance(value, dict):
        return {key: _as_yaml_values(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_yaml_values(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)
