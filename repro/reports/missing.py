"""Which Results of a run exist, and for each missing one, which step failed and why."""

import re
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from repro.config.recipes import read_yaml
from repro.data import prepared
from repro.errors import ReproError
from repro.results.record import Result, read
from repro.runtime.paths import data_file

MAX_REASON_LENGTH = 300  # characters of a reason


class Step(NamedTuple):
    """A step of the workflow towards a Result: its name, what it writes, and its possible logs."""

    name: str
    output: Path
    logs: tuple[Path, ...]


class MissingResult(NamedTuple):
    """Why a Result is missing: the step that failed, and why ("" if it was never started)."""

    step: str
    reason: str
    log: Path


def up_to_date(paths: list[Path]) -> tuple[list[Result], list[str]]:
    """Return the Results that belong to the current configuration and data, and what is missing.

    Args:
        paths: of all requested Results, runs/<preset>/<data set>/<model>/seed<n>.json.
    Returns:
        The Results, and one line per failed step: which data set or cell, why, and where its log
        is. The last line counts what was not run.
    """
    found, failed, waiting = [], defaultdict(list), 0
    for path in paths:
        missing = _missing_step(path)
        if missing is None:
            try:
                found.append(_read_current(path))
                continue
            except ReproError as error:
                missing = MissingResult("evaluate", str(error), path)
        if missing.reason:
            failed[missing].append(path)
        else:
            waiting += 1
    lines = [_line(missing, cells) for missing, cells in failed.items()]
    if waiting:
        lines.append(f"not run: {waiting} of {len(paths)} results")
    return found, lines


def failed_pages(runs: Path) -> list[str]:
    """Return one line for each of a preset's tables, figures, check and report that failed."""
    logs = [runs / f"{name}.log" for name in ("tables", "figures", "check", "report")]
    errors = [(log, _errors(log)) for log in logs if log.exists()]
    return [f"{log.stem} failed: {found[-1]} ({log})" for log, found in errors if found]


def _steps(path: Path) -> list[Step]:
    cell, run = path.parent, path.with_suffix("")
    data = data_file(cell.parent.name).parent
    return [
        Step("fetch", data / "raw.json", (data / "fetch.log",)),
        Step("prepare", data / "digests.json", (data / "prepare.log",)),
        Step("configure", cell / "config.yaml", (cell / "configure.log",)),
        Step(
            "train",
            run / "checkpoint.safetensors",
            (run / "train.log", cell / "stacked" / "train.log"),
        ),
        Step("evaluate", path, (run / "evaluate.log",)),
    ]


def _missing_step(path: Path) -> MissingResult | None:
    step = next((step for step in _steps(path) if not step.output.exists()), None)
    if step is None:
        return None
    log = next((log for log in step.logs if log.exists()), None)
    return (
        MissingResult(step.name, "", path)
        if log is None
        else MissingResult(step.name, _reason(log), log)
    )


def _reason(log: Path) -> str:
    """Return the last error in a log, else its last line."""
    lines, errors = _lines(log), _errors(log)
    if errors:
        return errors[-1]
    return (
        f"stopped after “{lines[-1][:MAX_REASON_LENGTH]}”" if lines else "stopped without a message"
    )


def _errors(log: Path) -> list[str]:
    error = r"[\w.]*(Error|Exception|Interrupt)\b"
    return [line[:MAX_REASON_LENGTH] for line in _lines(log) if re.match(error, line)]


def _lines(log: Path) -> list[str]:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _read_current(path: Path) -> Result:
    """Return a Result.

    Raises:
        ReproError: it is damaged, or belongs to another recipe or other data than the run's.
    """
    result = read(path)
    if read_yaml(path.with_name("config.yaml")) != result.recipe:
        raise ReproError("belongs to another recipe: it was not evaluated again")
    spec, _ = prepared.load(data_file(result.dataset), ())
    if asdict(spec) != result.data:
        raise ReproError("belongs to other data: it was not evaluated again")
    return result


def _line(missing: MissingResult, paths: list[Path]) -> str:
    dataset = paths[0].parent.parent.name
    if missing.step in ("fetch", "prepare"):
        what = dataset
    else:
        seeds = ", ".join(path.stem.removeprefix("seed") for path in paths)
        what = f"{dataset}/{paths[0].parent.name}, seed {seeds}"
    return f"{what}: {missing.step} failed: {missing.reason} ({missing.log})"
