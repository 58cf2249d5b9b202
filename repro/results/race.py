"""Time to quality: how long a recipe trains until it is as good as a published number.

No torch here. A race is judged on the validation part alone; the test part is never read.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml

from repro.errors import ConfigError, DataError
from repro.results.record import Result, read_cell, signed_text, standard_error
from repro.runtime.files import sha256_of, write_text
from repro.runtime.paths import config_folder, results_folder

SCHEMA = 1
COLUMNS = ("epoch", "updates", "cpu_seconds", "valid_bound")  # of a curve
MIN_SEEDS = 3  # of a recipe that is accepted; for Pyro's example one is enough
PYRO = "pyro-example"  # the contender from another library
SIGNIFICANCE_LEVEL = 0.05  # of the rule for "faster"


@dataclass(frozen=True)
class Target:
    """The validation bound that corresponds to a printed number of one cell.

    Attributes:
        printed: as the paper prints it, nats per step, negated log-likelihood.
        valid_bound: nats per step; a race ends at the first validation that is not below it.
        preset: the preset that follows the paper, whose stored results it was derived from.
        data_sha256: of the prepared data.
        reason: why this bound corresponds to this number.
    """

    dataset: str
    model: str
    printed: float
    valid_bound: float
    preset: str
    data_sha256: str
    reason: str


@dataclass(frozen=True)
class Race:
    """One training, from one seed, towards a target.

    Attributes:
        contender: the preset, or "pyro-example".
        part: the part of the data that it is judged on, "valid".
        curve: one list per name of COLUMNS, over the validations; CPU seconds include validation,
            not the start of the process; bounds are nats per step.
        epochs_in_turn: CPU seconds and operations ("cpu_seconds", "flops") of one epoch of every
            contender, measured in turn in one process on this machine; empty if not measured.
        note: how the CPU seconds came about, if they were not measured at every validation.
    """

    schema: int
    contender: str
    dataset: str
    model: str
    seed: int
    target: dict
    part: str
    data_sha256: str
    recipe: dict
    curve: dict[str, list]
    epochs_in_turn: dict[str, dict]
    environment: dict
    note: str

    def at_target(self, bound: float) -> dict | None:
        """Return the first validation that is not below `bound`, by column; None if none is."""
        for row in zip(*(self.curve[name] for name in COLUMNS), strict=True):
            if row[-1] >= bound:
                return dict(zip(COLUMNS, row, strict=True))
        return None

    def last(self) -> dict:
        """Return the last validation, by column."""
        return {name: self.curve[name][-1] for name in COLUMNS}

    def best(self) -> float:
        """Return the best validation bound, nats per step."""
        return max(self.curve["valid_bound"])


def races_folder() -> Path:
    """Return the folder of the stored races."""
    return results_folder() / "races"


def target_of(dataset: str, model: str, printed: float | None = None) -> Target:
    """Return the target of a cell.

    Args:
        printed: the number that the caller means; None for the cell's.
    Raises:
        ConfigError: the file has no target for the cell, or none for this number.
    """
    file = config_folder() / "targets.yaml"
    entries = yaml.safe_load(file.read_text(encoding="utf-8"))
    known = [f"{m} on {d}" for d, models in entries.items() for m in models]
    if model not in entries.get(dataset, {}):
        raise ConfigError(
            f"no target for {model} on {dataset} in {file} (it has {', '.join(known)}): add the "
            "validation bound that corresponds to the printed number, with its reason."
        )
    target = Target(dataset, model, **entries[dataset][model])
    if printed is not None and printed != target.printed:
        raise ConfigError(
            f"no validation bound is known for the printed {printed} of {model} on {dataset}: "
            f"{file} has only that for {target.printed}, which is {target.valid_bound}."
        )
    return target


def equivalent_bound(
    printed: float, results: list[Result], metric: str = "bound"
) -> tuple[float, float]:
    """Return the validation bound that corresponds to a printed test number, and its error.

    Minus the printed number, minus the mean over seeds of (test − best validation bound). The
    error is that mean's standard error over seeds.
    """
    gaps = [r.per_step(metric) - r.training["best_validation_bound"] for r in results]
    return -printed - float(np.mean(gaps)), standard_error(gaps)


def from_result(result: Result, target: Target) -> Race:
    """Return a stored training as a race.

    Raises:
        DataError: it was trained on other data.
    """
    curve = result.training["validations"]
    note = ""
    if "cpu_seconds" not in curve:
        seconds, epochs = result.training["cpu_seconds"], result.training["epochs"]
        curve = {**curve, "cpu_seconds": [round(seconds * e / epochs, 1) for e in curve["epoch"]]}
        note = "CPU seconds: the training's total, spread evenly over its epochs."
    if "updates" not in curve:
        updates_per_epoch = result.training["updates"] / result.training["epochs"]
        curve = {**curve, "updates": [round(updates_per_epoch * e) for e in curve["epoch"]]}
    if missing := result.training.get("validations_note"):
        note = f"{note} Validation bounds: {missing}.".strip()
    race = Race(
        schema=SCHEMA,
        contender=result.preset,
        dataset=result.dataset,
        model=result.model,
        seed=result.seed,
        target={"printed": target.printed, "valid_bound": target.valid_bound},
        part="valid",
        data_sha256=result.data["sha256"],
        recipe=result.recipe,
        curve={name: curve[name] for name in COLUMNS},
        epochs_in_turn={},
        environment=result.environment.get("training", result.environment),
        note=note,
    )
    return _checked(race, target, f"the Result of {result.preset}, seed {result.seed}")


def race_path(root: Path, dataset: str, model: str, contender: str, seed: int) -> Path:
    """Return the path of a race, under runs/races/ or results/races/; its log is beside it."""
    return root / dataset / model / contender / f"seed{seed}.json"


def log_of(path: Path) -> Path:
    """Return the path of a race's log, one JSON object per epoch or validation."""
    return path.with_suffix(".jsonl")


def write(race: Race, path: Path) -> None:
    """Write a race as JSON, with a digest of the whole record."""
    write_text(path, signed_text(asdict(race)))


def read(path: Path, target: Target) -> Race:
    """Return the race in a file.

    Raises:
        DataError: it is not a race, was changed, was made on another part or other data, or
            belongs to another cell.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        digest = record.pop("sha256", None)
        race = Race(**record)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is not a race ({error}): run `repro race` again.") from None
    if race.schema != SCHEMA or digest != sha256_of(record):
        raise DataError(
            f"{path} was changed after it was written, or has another schema than {SCHEMA}: "
            "restore it from git, or run `repro race` again."
        )
    if (race.dataset, race.model) != (target.dataset, target.model):
        raise DataError(
            f"{path} is a race of {race.model} on {race.dataset}: move it to the folder "
            f"{race.dataset}/{race.model}."
        )
    return _checked(race, target, str(path))


def _checked(race: Race, target: Target, where: str) -> Race:
    if race.part != "valid":
        raise DataError(
            f"{where} was made on the {race.part} part: a race is judged on the validation part "
            "alone; run `repro race` again."
        )
    if race.data_sha256 != target.data_sha256:
        raise DataError(
            f"{where} was made on other data (sha256 {race.data_sha256[:12]}…, the target's "
            f"{target.data_sha256[:12]}…): prepare {target.dataset} again and run `repro race`."
        )
    return race


def stored(
    target: Target, root: Path | None = None, results: Path | None = None
) -> list[list[Race]]:
    """Return the stored races of a target's cell, one list of seeds per contender.

    The paper's recipe comes from its stored results, the others from `root`.
    """
    results, root = results or results_folder(), root or races_folder()
    found = read_cell(results, target.preset, target.dataset, target.model)
    groups = [[from_result(result, target) for result in found]]
    for folder in sorted((root / target.dataset / target.model).glob("*/")):
        races = [read(path, target) for path in sorted(folder.glob("seed*.json"))]
        groups.append(sorted(races, key=lambda race: race.seed))
    return [group for group in groups if group]


def accept_races(target: Target, source: Path, destination: Path) -> None:
    """Store a cell's races with their logs, each contender whole.

    Raises:
        DataError: there are none; a recipe has too few seeds, or a race has no log.
    """
    folders = sorted((source / target.dataset / target.model).glob("*/"))
    found = {folder: sorted(folder.glob("seed*.json")) for folder in folders}
    if not any(found.values()):
        raise DataError(f"no races in {source / target.dataset / target.model}: run `repro race`.")
    for folder, paths in found.items():
        races = [read(path, target) for path in paths]
        logs = [log_of(path).read_text(encoding="utf-8") for path in paths if log_of(path).exists()]
        if len(logs) < len(paths):
            raise DataError(
                f"{folder} lacks the log seed<n>.jsonl of a race: run `repro race` for it again."
            )
        if races and len(races) < MIN_SEEDS and races[0].contender != PYRO:
            raise DataError(
                f"{folder} has {len(paths)} seed(s), and {MIN_SEEDS} are needed: run `repro race` "
                "for the others."
            )
        for race, log in zip(races, logs, strict=True):
            path = race_path(destination, race.dataset, race.model, race.contender, race.seed)
            write(race, path)
            write_text(log_of(path), log)


def wins_by_chance(new: Sequence[float], old: Sequence[float]) -> float:
    """Return the p-value of `new` being faster than `old`, by an exact permutation test.

    The test is one-sided; its statistic is the number of pairs in which a seed of the new recipe
    needed less time than a seed of the old (Mann–Whitney's U; ties count against the new). It
    assumes nothing about the distribution of times. With three seeds each, the new recipe must win
    all nine pairs to be significant at 5 %, which equal recipes do in exactly 5 % of races.

    Args:
        new, old: times of each seed; infinite for one that did not reach the target.
    """
    times = np.array([*new, *old], dtype=float)

    def wins(chosen: tuple[int, ...]) -> int:
        return int((times[list(chosen)][:, None] < np.delete(times, chosen)).sum())

    splits = list(combinations(range(len(times)), len(new)))
    observed = wins(splits[0])  # the split as it is
    return float(np.mean([wins(split) >= observed for split in splits]))


def times_to_target(races: list[Race], target: Target, seconds_per_epoch: float) -> list[float]:
    """Return each seed's epochs until the target × CPU seconds of one; infinite if not reached."""
    reached = [race.at_target(target.valid_bound) for race in races]
    return [math.inf if row is None else row["epoch"] * seconds_per_epoch for row in reached]
