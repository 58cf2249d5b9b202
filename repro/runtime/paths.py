"""Paths from the repository's root; the Snakefile writes the same paths out."""

from pathlib import Path

RUNS, RESULTS, PAPER_TABLES = Path("runs"), Path("results"), Path("paper_tables")
README = Path("README.md")


def raw_folder(dataset: str) -> Path:
    """Return the folder of a data set's raw files."""
    return RUNS / "data" / dataset / "raw"


def data_file(dataset: str) -> Path:
    """Return the prepared file of a data set."""
    return RUNS / "data" / dataset / "sequences.safetensors"


def run_folder(preset: str, dataset: str, model: str, seed: int) -> Path:
    """Return the folder of one training."""
    return RUNS / preset / dataset / model / f"seed{seed}"
