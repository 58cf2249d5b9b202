"""Paths of files: in a clone its own folders; anywhere else, those that the package came with.

A run's files are below the runs folder: `runs` here, or what the environment variable REPRO_RUNS
names. The Snakefile writes its paths out and always uses `runs`.
"""

import os
from pathlib import Path

import repro
from repro.errors import ConfigError

README = Path("README.md")


def in_clone() -> bool:
    """Return whether the working directory is the root of a clone."""
    return Path("config/schema.yaml").is_file()


def require_clone(command: str) -> None:
    """Refuse a command that changes files of the repository, where there is none.

    Raises:
        ConfigError: the working directory is not the root of a clone.
    """
    if not in_clone():
        raise ConfigError(
            f"`repro {command}` writes files of the repository: run it in a clone's root folder."
        )


def shipped() -> Path:
    """Return the folder that a wheel carries its copies of config/ and results/ in."""
    return Path(repro.__file__).parent / "shipped"


def _root() -> Path:
    if in_clone():
        return Path()
    return shipped() if shipped().is_dir() else Path(repro.__file__).parent.parent


def config_folder() -> Path:
    """Return the folder of presets, registers and their schema."""
    return _root() / "config"


def results_folder() -> Path:
    """Return the folder of the stored results."""
    return _root() / "results"


def paper_tables_folder() -> Path:
    """Return the folder of the published tables."""
    return _root() / "paper_tables"


def weights_folder() -> Path:
    """Return the folder of the weights of stored results."""
    return _root() / "weights"


def runs_folder() -> Path:
    """Return the folder of everything that a run makes."""
    return Path(os.environ.get("REPRO_RUNS") or "runs")


def raw_folder(dataset: str) -> Path:
    """Return the folder of a data set's raw files."""
    return runs_folder() / "data" / dataset / "raw"


def data_file(dataset: str) -> Path:
    """Return the prepared file of a data set."""
    return runs_folder() / "data" / dataset / "sequences.safetensors"


def run_folder(preset: str, dataset: str, model: str, seed: int) -> Path:
    """Return the folder of one training."""
    return runs_folder() / preset / dataset / model / f"seed{seed}"
