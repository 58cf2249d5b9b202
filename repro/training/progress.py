"""Shows the progress of a run, and logs it to Weights & Biases if the user asks for that."""

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from repro.errors import ConfigError
from repro.runtime.files import sha256_of


@dataclass(frozen=True)
class Run:
    """One training: its recipe, its seed and its folder."""

    recipe: dict
    seed: int
    folder: Path

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.recipe['model']['name']} {self.recipe['dataset']['name']} seed {self.seed}"


@contextmanager
def bars() -> Iterator[Any]:
    """Show progress bars for the block, on a terminal; yield None if there is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, "{task.fields[bound]}", console=console) as progress:
        yield progress


class Monitor:
    """Shows a training's progress: a bar on a terminal, else one plain line per validation.

    Args:
        run: what is being trained.
        epochs: how many there will be at most.
        wandb_mode: disabled, offline or online.
        progress: what `bars` yields.
    """

    def __init__(self, run: Run, epochs: int, wandb_mode: str, progress: Any) -> None:
        self.title, self.bar = run.title, progress
        self.wandb_run: Any = None
        if progress:
            self.task = progress.add_task(run.title, total=epochs, bound="")
        if wandb_mode != "disabled":
            self.wandb_run = _start_wandb(run, wandb_mode)

    def replay(self, history: list[dict]) -> None:
        """Log the epochs of a resumed training to Weights & Biases again if it is offline.

        `wandb sync` replaces an uploaded run that has the same id, so the last folder must hold
        every epoch. Online, the server already has the earlier ones.
        """
        if self.wandb_run and self.wandb_run.offline:
            _log_all(self.wandb_run, history)

    def epoch(self, row: dict[str, float]) -> None:
        """Report one epoch; `row` has its numbers, with the validation bound if it was computed."""
        validated = "valid_bound" in row
        bound = f"{row['valid_bound']:.4f} nats/step" if validated else ""
        if self.bar:
            fields = {"bound": bound} if validated else {}
            self.bar.update(self.task, completed=row["epoch"], **fields)
        elif validated:
            self.note(f"epoch {row['epoch']}  validation bound {bound}")
        if self.wandb_run:
            self.wandb_run.log(row, step=int(row["epoch"]))

    def summary(self, numbers: dict[str, Any]) -> None:
        """Report the final numbers."""
        if self.wandb_run:
            self.wandb_run.summary.update(numbers)

    def note(self, text: str) -> None:
        """Print a note."""
        print(f"{self.title}  {text}", file=sys.stderr, flush=True)

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.wandb_run:
            self.wandb_run.finish(exit_code=0 if error is None else 1)


def report_result(run: Run, wandb_mode: str, numbers: dict[str, float]) -> None:
    """Add an evaluation's numbers to the summary of its training's Weights & Biases run."""
    started = None if wandb_mode == "disabled" else _start_wandb(run, wandb_mode)
    if started:
        history = run.folder / "history.jsonl"
        if started.offline and history.exists():
            text = history.read_text(encoding="utf-8")
            _log_all(started, [json.loads(line) for line in text.splitlines()])
        started.summary.update(numbers)
        started.finish()


def _log_all(wandb_run: Any, history: list[dict]) -> None:
    for row in history:
        wandb_run.log(row, step=int(row["epoch"]))


def _start_wandb(run: Run, mode: str) -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            f"wandb: {mode} needs wandb: `pip install wandb`, or set it to disabled."
        ) from None
    recipe = run.recipe
    config = {"recipe": recipe, "seed": run.seed, "folder": str(run.folder)}
    group = f"{recipe['preset']}/{recipe['dataset']['name']}/{recipe['model']['name']}"
    # One id per run, so that a resumed training continues the same run. An offline run has one
    # folder, which is written again with everything it held.
    identity = sha256_of(config)[:16]
    if mode == "offline":
        for folder in (run.folder / "wandb").glob(f"offline-run-*-{identity}"):
            shutil.rmtree(folder, ignore_errors=True)
    try:
        return wandb.init(
            project="repro",
            name=run.title,
            group=group,
            mode=mode,  # type: ignore[arg-type]  # the schema allows only its values
            config=config,
            dir=run.folder,
            id=identity,
            resume="allow" if mode == "online" else None,
            reinit="create_new",  # seeds that train together have one run each
        )
    except wandb.errors.Error as error:
        # Numbers do not depend on it: a training without account or network continues.
        print(f"{run.title}  continues without wandb: {error}", file=sys.stderr, flush=True)
        return None
