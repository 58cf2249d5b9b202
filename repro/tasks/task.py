"""A task: a data set, the units of a number on it, and the rule by which it is measured."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from repro.config import recipes as configuration
from repro.data import prepared
from repro.data.batches import Tensors, collate, real_steps
from repro.data.parts import StoredSequences
from repro.data.prepare import prepared_file
from repro.errors import DataError, require_known
from repro.results.protocol import version_of

UNITS = ("original", "normalised")


class Ragged(Tensors):
    """The sequences of one part, float32 tensors (T, D) of different T, in the task's units.

    `part[i]` reads a sequence when it is asked for; `lengths` has the number of steps of each.
    """

    def __init__(self, stored: StoredSequences, mean: Tensor, std: Tensor) -> None:
        super().__init__(stored, torch.device("cpu"))
        self._mean, self._std = mean, std

    def __getitem__(self, index: int) -> Tensor:
        x = super().__getitem__(index)
        return (x.double() * self._std + self._mean).float()

    @property
    def values(self) -> Tensor:
        """All sequences end to end, (sum of lengths, D)."""
        return torch.cat(list(self))

    def padded(self, ids: list[int] | None = None) -> tuple[Tensor, Tensor]:
        """Return x (T, B, D), zero past the end of each sequence, and lengths (B,).

        Args:
            ids: which sequences; None for all of the part.
        """
        batch = collate(self, list(range(len(self))) if ids is None else ids)
        return batch.x, batch.lengths


@dataclass(frozen=True)
class Task:
    """Data and protocol: what a model is given, and what its number means.

    Attributes:
        name: the data set.
        kind: "binary", "real" or "strokes".
        units: of the values in `train` and `valid`: "original", or "normalised" by (x − mean) / σ
            of the training part. Numbers are in nats of normalised data in either case.
        dim: D. mean, std: of the normalisation, (D,) float64; 0 and 1 for binary data.
        sequences, steps: counts by part, the test part's too.
        licence: of the data.
        sha256: of the prepared values and lengths.
        version: changes when data or protocol do; numbers compare within one version.
        notes: what a user should know, such as sequences that two parts share.
        file: the prepared file.
    """

    name: str
    kind: str
    units: str
    dim: int
    mean: Tensor = field(repr=False)
    std: Tensor = field(repr=False)
    sequences: dict[str, int]
    steps: dict[str, int]
    licence: str
    sha256: str
    version: str
    notes: list[str]
    file: Path

    @cached_property
    def train(self) -> Ragged:
        """The training part."""
        return part_of(self, "train")

    @cached_property
    def valid(self) -> Ragged:
        """The validation part, for every choice that is made. The test part is not here."""
        return part_of(self, "valid")

    @property
    def log_scale(self) -> float:
        """Σ_d log σ_d, nats: log p of a normalised step minus log p of it in the task's units."""
        return float(self.std.log().sum()) if self.units == "original" else 0.0

    def normalised(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return x (T, B, D), given in the task's units, normalised; zero past lengths (B,)."""
        if self.units == "normalised":
            return x
        inside = real_steps(lengths, len(x)).unsqueeze(-1)
        return ((x.double() - self.mean) / self.std).to(x.dtype).where(inside, 0.0)


def task(
    name: str,
    units: str = "original",
    preset: str = "starter",
    mirror: Path | str | None = None,
) -> Task:
    """Return the task of a data set, which is fetched and prepared first if necessary.

    >>> repro.task("jsb_chorales").train[0].shape  # (T, 88)

    Args:
        name: of the data set.
        units: of the x that the model takes and of its densities: "original" or "normalised".
        preset: the preset whose configuration has the data set; your own preset may add some.
        mirror: a folder that already holds the files to download.
    Raises:
        ConfigError: there is no such data set, or no such units.
        DataError: its files cannot be obtained, or it needs a licence.
    """
    require_known("units", units, UNITS)
    config = configuration.load(preset)
    config = {**config, "mirror": mirror or config["mirror"]}
    file = prepared_file(name, configuration.describe(config, name), config)
    return of_file(file, config["datasets"][name]["licence"], units)


def of_file(file: Path, licence: str, units: str = "original") -> Task:
    """Return the task of a prepared file; see `task`."""
    spec, _ = prepared.load(file, ())
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (spec.mean, spec.std))
    return Task(
        name=spec.name,
        kind=spec.kind,
        units=units,
        dim=spec.dim,
        mean=mean,
        std=std,
        sequences=spec.sequences,
        steps=spec.steps,
        licence=licence,
        sha256=spec.sha256,
        version=version_of(asdict(spec)),
        notes=spec.notes,
        file=file.absolute(),  # a task outlives a change of the working directory
    )


def part_of(task: Task, part: str) -> Ragged:
    """Return a part of a task's data. Only `repro.evaluate` asks for the test part.

    Raises:
        DataError: the prepared file is missing or damaged, or holds other data by now.
    """
    spec, parts = prepared.load(task.file, (part,))
    if spec.sha256 != task.sha256:
        raise DataError(f"{task.file} has changed since this task was made: call repro.task again.")
    original = task.units == "original"
    mean = task.mean if original else torch.zeros_like(task.mean)
    std = task.std if original else torch.ones_like(task.std)
    return Ragged(parts[part], mean, std)
