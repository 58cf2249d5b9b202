"""The stored results: what may be added to them, and all of them as one tidy table."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd

from repro.errors import ConfigError, DataError
from repro.results.beside import units_of
from repro.results.check import samples_asked_for
from repro.results.record import (
    Result,
    cells,
    error_over_sequences,
    read_cell,
    read_cells,
    result_path,
    write,
)
from repro.runtime.files import replacing, write_text
from repro.runtime.paths import results_folder

METRICS = ("bound", "is", "fivo")
FORMATS = (".csv", ".parquet")
ABSENT = "no setting"  # where only one of two recipes has a setting


def stored_results(
    task: Any = None, model: str | None = None, stored: Path | None = None
) -> pd.DataFrame:
    """Return the stored results, one row per training and metric ("bound", "is" or "fivo").

    Columns: preset, task, model, title, seed, metric, nats_per_step, over_sequences (its standard
    error over test sequences), nats_per_sequence, units, likelihood, samples, parameters,
    data_sha256.

    >>> repro.stored_results("linear_gaussian", model="dmm")

    Args:
        task: a Task, for results on exactly its data; the name of a data set; or None for all.
        model: its name; None for all.
        stored: the folder of stored results; default: those of the clone or the installation.
    Raises:
        DataError: no such results are stored, or a file is damaged.
    """
    stored = stored or results_folder()
    name = getattr(task, "name", task)
    everything = [r for cell in read_cells(stored, name or "*", model or "*") for r in cell]
    digest = getattr(task, "sha256", None)
    found = [r for r in everything if digest in (None, r.data["sha256"])]
    rows = [_row(r, m) for r in found for m in METRICS if m in r.per_sequence]
    if not rows:
        asked = " ".join([f"of {model}" if model else "", f"on {name}" if name else ""]).strip()
        asked += f" with the data {digest}" if digest and everything else ""
        raise DataError(f"{stored}/ has no results {asked}".rstrip() + ".")
    return pd.DataFrame(rows)


def accept(results: list[Result], stored: Path) -> None:
    """Store Results, replacing those of the same cell and seed.

    Raises:
        DataError: a cell would then have seeds with different settings, data or numbers of
            samples, whose mean says nothing; nothing is stored.
    """
    for cell in cells(results):
        first = cell[0]
        seeds = {r.seed for r in cell}
        kept = read_cell(stored, first.preset, first.dataset, first.model)
        for other in [*cell[1:], *(r for r in kept if r.seed not in seeds)]:
            changes = _changes(_origin(first), _origin(other))
            if changes:
                where = f"or remove it from {stored}/" if other in kept else "or the other"
                raise DataError(
                    f"{first.preset}/{first.dataset}/{first.model}: seeds {first.seed} and "
                    f"{other.seed} have different settings or data ({'; '.join(changes)}). Run "
                    f"seed {other.seed} again, {where}."
                )
    for result in results:
        path = result_path(stored, result.preset, result.dataset, result.model, result.seed)
        write(result, path)


def _origin(result: Result) -> dict:
    return {
        **result.recipe,
        "data": result.data["sha256"],
        "samples": samples_asked_for(result),
        "particles": result.evaluation.get("particles", 0),
    }


def _changes(one: Any, other: Any, name: str = "") -> list[str]:
    # Which settings of two recipes differ, such as "model.training.max_epochs: 60 and 30".
    if isinstance(one, dict) and isinstance(other, dict):
        keys = dict.fromkeys([*one, *other])
        found = (
            _changes(one.get(k, ABSENT), other.get(k, ABSENT), f"{name}.{k}" if name else k)
            for k in keys
        )
        return [change for changes in found for change in changes]
    return [] if one == other else [f"{name}: {one} and {other}"]


def _row(result: Result, metric: str) -> dict:
    return {
        "preset": result.preset,
        "task": result.dataset,
        "model": result.model,
        "title": result.title,
        "seed": result.seed,
        "metric": metric,
        "nats_per_step": result.per_step(metric),
        "over_sequences": error_over_sequences(result.values(metric), result.values("length")),
        "nats_per_sequence": result.per_sequence_mean(metric),
        "units": units_of(result),
        "likelihood": result.likelihood,
        "samples": result.evaluation["num_samples"],
        "parameters": result.training["parameters"],
        "data_sha256": result.data["sha256"],
    }


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or Parquet, depending on the suffix.

    Raises:
        ConfigError: the suffix is neither .csv nor .parquet, or pyarrow is not installed.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: the name must end in {' or '.join(FORMATS)}.")
    if path.suffix == ".csv":
        write_text(path, table.to_csv(index=False, float_format="%.8g", lineterminator="\n"))
        return
    if not find_spec("pyarrow"):
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed: run `pip install pyarrow`, or write "
            f"{path.with_suffix('.csv')}."
        )
    with replacing(path) as partial:
        table.to_parquet(partial, index=False)
