"""Ranks saved Results of any models with the stored ones, paired by test sequence."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from repro.config.traits import SAMPLED
from repro.errors import ConfigError, DataError, hint
from repro.results import findings
from repro.results.beside import units_of
from repro.results.comparison import LEVEL, MARGIN, estimator, significantly_below
from repro.results.protocol import version_of
from repro.results.record import Result, paired_difference, read, read_cells, standard_error
from repro.results.reliability import reliability
from repro.runtime.files import write_text
from repro.runtime.paths import results_folder

REQUIRED_STATISTICS = (
    "length",
    "bound",
    "bound_error",
    "is",
    "is_error",
    "ess",
)  # of each test sequence
MAX_LOG_PROBABILITY = 1e-4  # nats; the log of a probability, but for rounding
FORMATS = (".md", ".csv")
RULE = f"""\
- **Rank**: rank 1 is the best row and those after it that cannot be told apart from it, down to the
  first that can; that row begins the next rank, and so on.
- Two rows are told apart if their difference exceeds both errors: that over test sequences, paired,
  and that over seeds (t-tests, the larger p-value counts), at {LEVEL:.0%} over all pairs of rows by
  Holm's correction. A single seed is taken to spread like the other side's; where both have one,
  the difference must exceed {MARGIN:g} nats per step and three standard errors over sequences.
- Without a rank: models with the parameters that the data were drawn with, and those whose audit
  failed.
- **†**: more samples would still raise the number.
"""


@dataclass(frozen=True)
class Leaderboard:
    """All rows of a task, ranked.

    Attributes:
        table: one row per model, the best first. rank (missing where a row has none), model, title,
            source ("stored", or the files of a submission), preset, nats_per_step, over_seeds (its
            standard error), behind and behind_error (the best ranked row minus this one, paired by
            test sequence, and its standard error), estimate, samples, seeds, doubtful (whether more
            samples would raise the number), audit, data_sha256.
        task: its name. version: of data and protocol. units: of the numbers.
    """

    table: pd.DataFrame
    task: str
    version: str
    units: str

    def text(self, style: str = "simple") -> str:
        """Return the ranks as a text table, in one of the formats of the package tabulate."""
        rows = [_row(entry, style) for entry in self.table.to_dict("records")]
        return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True, tablefmt=style)

    def to_markdown(self) -> str:
        """Return the ranks with their units and their rule as Markdown; submissions in bold."""
        return f"# {self.task}\n\n{self.text('pipe')}\n\n{self._about()}"

    def _about(self) -> str:
        units = self.units[0].upper() + self.units[1:]
        return f"{units}; higher is better. Task version {self.version}.\n\n{RULE}"

    def write(self, path: Path | str) -> None:
        """Write the ranks as Markdown or CSV, depending on the suffix.

        Raises:
            ConfigError: the suffix is neither .md nor .csv.
        """
        path = Path(path)
        if path.suffix not in FORMATS:
            raise ConfigError(f"{path}: the name must end in {' or '.join(FORMATS)}.")
        text = self.table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        write_text(path, self.to_markdown() if path.suffix == ".md" else text)

    def __str__(self) -> str:
        return f"{self.text()}\n\n{self._about()}".replace("**", "").rstrip("\n")


def leaderboard(
    task: str, folder: Path | str | None = None, stored: Path | None = None
) -> Leaderboard:
    """Return the stored rows of a task and the Results saved in a folder, ranked.

    Results with the same name and preset but different seeds are trainings of one model, and make
    one row.

    >>> repro.leaderboard("linear_gaussian", "submissions").to_markdown()

    Args:
        task: a Task or the name of a data set.
        folder: holds files *.json that `Result.save` wrote; those of other tasks are left out. None
            for the stored rows alone.
        stored: the folder of stored results.
    Raises:
        ConfigError: the folder has no Result of the task.
        DataError: there are no results of the task, or a saved Result is damaged, incomplete, a
            duplicate, or of other data or another version of the task; names the file.
    """
    stored = stored or results_folder()
    task = getattr(task, "name", task)
    cells = [_Cell(cell, "stored") for cell in _stored(task, stored)]
    submitted = _read(task, Path(folder)) if folder is not None else {}
    if not cells and not submitted:
        known = sorted({path.name for path in stored.glob("*/*/")})
        raise DataError(f"{stored}/ has no results of {task!r}; {hint(task, known)}")
    reference = cells[0].results[0] if cells else next(iter(submitted.values()))
    for path, result in submitted.items():
        _require_comparable(path, result, reference)
    cells += _submitted(submitted)
    return Leaderboard(_ranked(cells), task, version_of(reference.data), units_of(reference))


@dataclass(frozen=True)
class _Cell:
    results: list[Result]
    source: str

    @property
    def is_ranked(self) -> bool:
        return not (self.results[0].true_parameters or self.audit.startswith("failed"))

    @property
    def audit(self) -> str:
        found = [r.evaluation["audit"] for r in self.results if "audit" in r.evaluation]
        return "; ".join(sorted({findings.summary(record) for record in found}))

    @property
    def metric(self) -> str:
        return estimator(self.results)

    @property
    def mean(self) -> float:
        return float(np.mean([r.per_step(self.metric) for r in self.results]))


def _stored(task: str, stored: Path) -> list[list[Result]]:
    cells = read_cells(stored, task)
    digests = {cell[0].data["sha256"] for cell in cells}
    if len(digests) > 1:
        raise DataError(f"the stored results of {task} are of different data: accept them again.")
    return cells


def _read(task: str, folder: Path) -> dict[Path, Result]:
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a directory of Results that `Result.save` wrote.")
    found = {path: read(path) for path in sorted(folder.glob("*.json"))}
    chosen = {path: result for path, result in found.items() if result.dataset == task}
    if not chosen:
        others = ", ".join(sorted({result.dataset for result in found.values()}))
        raise ConfigError(
            f"{folder} has no Result of {task}: "
            + (f"those in it are of {others}." if others else "it has no *.json files.")
        )
    return chosen


def _require_comparable(path: Path, result: Result, reference: Result) -> None:
    _require_complete(path, result)
    if result.data["sha256"] != reference.data["sha256"]:
        raise DataError(
            f"{path} is of other data than the rows of {reference.dataset} (sha256 "
            f"{result.data['sha256'][:12]}, not {reference.data['sha256'][:12]}): evaluate again."
        )
    version = version_of(reference.data)
    if result.evaluation.get("task", version) != version:
        raise DataError(
            f"{path} is of version {result.evaluation['task']} of the task {reference.dataset}, "
            f"which has version {version} now: evaluate again."
        )
    if result.per_sequence["length"] != reference.per_sequence["length"]:
        raise DataError(f"{path} does not have the test sequences of {reference.dataset} in order.")


def _require_complete(path: Path, result: Result) -> None:
    missing = [name for name in REQUIRED_STATISTICS if name not in result.per_sequence]
    if missing:
        raise DataError(f"{path} has no {', '.join(missing)} of its sequences: evaluate again.")
    for name, values in result.per_sequence.items():
        if not all(isinstance(v, int | float) and math.isfinite(v) for v in values):
            raise DataError(f"{path}: {name} has values that are not finite numbers.")
    if result.data["kind"] == "binary" and result.likelihood != SAMPLED:
        above = [
            i for i, value in enumerate(result.per_sequence["is"]) if value > MAX_LOG_PROBABILITY
        ]
        if above:
            raise DataError(
                f"{path}: log p of test sequence {above[0]} is above 0, and the data are 0 or "
                "1: a probability above 1. `repro.audit` says what is wrong."
            )


def _submitted(submitted: dict[Path, Result]) -> list[_Cell]:
    cells: dict[tuple[str, str], dict[Path, Result]] = {}
    for path, result in submitted.items():
        cell = cells.setdefault((result.preset, result.model), {})
        for other, before in cell.items():
            if before.seed == result.seed:
                raise DataError(
                    f"{other} and {path} are both called {result.model}, seed {result.seed}: give "
                    "one another name (`repro.evaluate(…, name=…)`), or each training its seed."
                )
            if before.per_sequence["is"] == result.per_sequence["is"]:
                raise DataError(
                    f"{other} and {path} have the same numbers: each seed of {result.model} must "
                    "be a separate training."
                )
        cell[path] = result
    return [
        _Cell(sorted(cell.values(), key=lambda r: r.seed), ", ".join(path.name for path in cell))
        for cell in cells.values()
    ]


def ranks(cells: list[list[Result]], metrics: list[str]) -> list[int]:
    """Return the rank of each cell of one task, 1 for the best, by RULE.

    Args:
        metrics: the statistic of each; nats per step, higher is better.
    """
    means = [np.mean([r.per_step(m) for r in c]) for c, m in zip(cells, metrics, strict=True)]
    below = significantly_below(cells, metrics)
    rank_of = [0] * len(cells)
    first, rank = -1, 0  # the best row of the rank
    for position, i in enumerate(sorted(range(len(cells)), key=lambda i: -means[i]), start=1):
        if first < 0 or (i, first) in below:
            first, rank = i, position
        rank_of[i] = rank
    return rank_of


def _ranked(cells: list[_Cell]) -> pd.DataFrame:
    chosen = [cell for cell in cells if cell.is_ranked]
    rank_of = ranks([cell.results for cell in chosen], [cell.metric for cell in chosen])
    best = max(chosen, key=lambda cell: cell.mean, default=None)
    next_rank = iter(rank_of)
    rows = [_numbers(c, next(next_rank) if c.is_ranked else None, best or c) for c in cells]
    table = pd.DataFrame(rows).astype({"rank": "Int64"})
    failed = table["audit"].str.startswith("failed")
    order = pd.DataFrame({"failed": failed, "number": -table["nats_per_step"]})
    return table.loc[order.sort_values(["failed", "number"], kind="stable").index].reset_index(
        drop=True
    )


def _numbers(cell: _Cell, rank: int | None, best: _Cell) -> dict:
    first = cell.results[0]
    behind, error = paired_difference(best.results, best.metric, cell.results, cell.metric)
    return {
        "rank": rank,
        "model": first.model,
        "title": first.title,
        "source": cell.source,
        "preset": first.preset,
        "nats_per_step": cell.mean,
        "over_seeds": standard_error([r.per_step(cell.metric) for r in cell.results]),
        "behind": behind,
        "behind_error": 0.0 if cell is best else error,
        "estimate": cell.metric if first.likelihood == SAMPLED else first.likelihood,
        "samples": first.evaluation["particles" if cell.metric == "fivo" else "num_samples"],
        "seeds": len(cell.results),
        "doubtful": reliability(cell.results).doubtful,
        "audit": cell.audit,
        "data_sha256": first.data["sha256"],
    }


def _row(entry: dict, style: str) -> dict:
    # For people; in Markdown, submissions are in bold, and | in a name must not end a column.
    stored = entry["source"] == "stored"
    names = [str(entry["title"]), str(entry["preset"] if stored else entry["source"])]
    if style == "pipe":
        names = [name.replace("|", "\\|") for name in names]
        names[0] = names[0] if stored else f"**{names[0]}**"
    error = "" if math.isnan(entry["over_seeds"]) else f" ± {entry['over_seeds']:.4f}"
    sampled = entry["estimate"] in ("is", "fivo")
    spread = "" if math.isnan(entry["behind_error"]) else f" ± {entry['behind_error']:.4f}"
    return {
        "Rank": "" if pd.isna(entry["rank"]) else str(entry["rank"]),
        "Model": names[0],
        "From": names[1],
        "Nats per step ± seeds": f"{entry['nats_per_step']:.4f}{error}" + " †" * entry["doubtful"],
        "Behind the best ± sequences": f"{entry['behind']:.4f}{spread}",
        "Estimate": f"{entry['estimate'].upper()}, K = {entry['samples']}"
        if sampled
        else entry["estimate"],
        "Seeds": str(entry["seeds"]),
        "Audit": entry["audit"],
    }
