"""The training of one model from one seed: its epochs, its best weights, its resumable state."""

import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.data import batches, prepared
from repro.data.batches import Batch
from repro.errors import NumericalError, require_known
from repro.inference.objectives import FILTER_OBJECTIVES, by_elbo, by_filter, by_iwae
from repro.kernels import dispatch
from repro.models import build
from repro.models.base import SequenceModel
from repro.runtime.files import sha256_of, write_text
from repro.runtime.provenance import environment, peak_memory_mb
from repro.runtime.seeding import derive, generator
from repro.training.checkpoints import (
    CheckpointInfo,
    checkpoint_in,
    load_state,
    model_spec,
    save_checkpoint,
    save_state,
)
from repro.training.optimizers import WeightAverage, build_optimizers
from repro.training.progress import Monitor
from repro.training.schedules import kl_weight, learning_rate_factor
from repro.training.statistics import part_statistics, sample_of
from repro.training.validation import validation_bound, validation_is

STATE_VERSION = 3  # version of the saved state; an older one is not resumed
OBJECTIVES = ("elbo", "iwae", *FILTER_OBJECTIVES)
MIN_EPOCH_RATIO = 1.2  # between successive epochs with statistics or a validation IS


class Training:
    """One model, its optimiser and its random streams, all from `seed`.

    Arguments as for `repro.training.run.train`.
    """

    def __init__(
        self,
        recipe: dict,
        data_file: Path,
        seed: int,
        folder: Path,
        device: torch.device,
        validation_samples: int,
    ) -> None:
        self.recipe, self.seed, self.folder, self.device = recipe, seed, folder, device
        self.validation_samples = validation_samples
        self.settings = recipe["model"]["training"]
        require_known("objective", self.settings.get("objective", "elbo"), OBJECTIVES)
        require_known("batch_order", self.settings["batch_order"], batches.ORDERS)
        self.data, parts = prepared.load(data_file, ("train", "valid"))
        self.train_part = batches.to_tensors(parts["train"], device)
        self.valid_part = batches.to_tensors(parts["valid"], device)
        steps = sum(batches.lengths_of(self.train_part))
        self.samples = {  # small parts of both, for the statistics
            "train": sample_of(self.train_part, steps, seed),
            "valid": sample_of(self.valid_part, steps, seed),
        }

        torch.manual_seed(derive(seed, "initial weights"))
        self.model = build(model_spec(recipe, self.data)).to(device)
        if self.settings.get("initialise_from_data") or self.model.always_from_data:
            self.model.initialise_from_data(self.train_part)
        self.order_rng = generator(seed, "batch order")
        self.noise_rng = generator(seed, "noise", device=device)
        self.mask_rng = generator(seed, "dropout", device=device)
        self.model.set_generator(self.mask_rng)
        self.optimizers = build_optimizers(self.model, self.settings)
        self.average = WeightAverage(self.model, self.settings.get("average"))
        self.epoch = self.updates = self.best_epoch = 0
        self.progress = 0.0  # share of all updates of all epochs that came before the next one
        self.best_bound = -math.inf
        self.best_weights = _copy(self.model)
        self.history: list[dict] = []
        self.gradient_norms: list[float] = []  # of the epoch's updates
        self.seconds = self.cpu_seconds = 0.0
        self.diverged = ""
        # Reading a loss makes the CPU wait for a GPU; there losses are checked once per epoch.
        self.checks_every_update = device.type == "cpu"
        self._unchecked: list[Tensor] = []  # loss and gradient norm of updates, (2,) each
        self.state_file = folder / "state" / "last.pt"
        self.checkpoint = checkpoint_in(folder)

    def begin(self, monitor: Monitor) -> None:
        """Resume from the saved state, or else validate the untrained model for the curve."""
        self.monitor = monitor
        if self._resume():
            monitor.note(f"resumes after epoch {self.epoch}")
            monitor.replay(self.history)
        elif self.checkpoint.exists():
            monitor.note(f"starts from the beginning; {self.checkpoint} is replaced at the end")
        if self.epoch == 0 and not self.history:
            before = {"epoch": 0, "updates": 0, "cpu_seconds": 0.0}
            self._validate({**before, **self.model.logged_scalars})
            monitor.epoch(self.history[-1])

    @property
    def ended(self) -> bool:
        """Whether no further epoch will be trained."""
        patience = self.settings["patience"]
        since = sum("valid_bound" in row and row["epoch"] > self.best_epoch for row in self.history)
        impatient = patience is not None and since >= patience
        return bool(self.diverged) or impatient or self.epoch >= self.settings["max_epochs"]

    @property
    def kl_weight(self) -> float:
        """β of the next update."""
        return kl_weight(self.settings, self.updates, self.progress)

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of the next epoch."""
        size, order = self.settings["batch_size"], self.settings["batch_order"]
        sequences: batches.Sequences = self.train_part
        count = None
        if steps := self.settings.get("random_segments"):
            # The same number of batches in every epoch and for every seed, wherever the cuts are.
            lengths = batches.lengths_of(self.train_part)
            count = max(1, round(sum(max(1.0, length / steps) for length in lengths) / size))
            sequences = batches.random_segments(self.train_part, steps, self.order_rng)
        groups = batches.groups(sequences, size, order, self.order_rng, count)
        for i, ids in enumerate(groups):
            self.progress = (self.epoch + i / len(groups)) / self.settings["max_epochs"]
            yield batches.collate(sequences, ids)

    def draw_noise(self, batch: Batch) -> Tensor:
        """Return the noise of an update, (T, K, B, Z)."""
        samples = self.settings.get("samples", 1)
        shape = (len(batch.x), samples, len(batch.ids), self.model.latent)
        return torch.randn(shape, generator=self.noise_rng, device=self.device)

    def one_epoch(self) -> dict:
        """Update the model with every batch; return the epoch's row of the history.

        Raises:
            NumericalError: a loss or a gradient is not finite.
        """
        self.model.train()
        settings, total = self.settings, torch.zeros((), dtype=torch.float64, device=self.device)
        for batch in self.batches():
            state = None
            for i, (part, kept) in enumerate(batches.segments(batch, settings.get("segment"))):
                state = None if i % settings.get("segments_carried", 1) == 0 else state
                weight, noise = self.kl_weight, self.draw_noise(part)
                if state is not None:  # of the sequences that continue; no gradient flows back
                    state = type(state)(*(s.detach()[:, kept] for s in state))
                inputs = self.model, part.x, part.lengths, noise
                match settings.get("objective", "elbo"):
                    case "elbo":
                        objective, to_maximise, state = by_elbo(*inputs, weight, state)
                    case "iwae":
                        objective, to_maximise = by_iwae(*inputs, weight)
                    case name:
                        objective, to_maximise = by_filter(name, *inputs, self.noise_rng)
                loss = -to_maximise
                if settings["l2_penalty"]:
                    squares = sum(p.square().sum() for p in self.model.parameters())
                    loss = loss + settings["l2_penalty"] * squares
                self.model.zero_grad()
                loss.backward()
                self.update(loss.detach())
                total += objective.detach().double() * len(part.ids)
        self.require_finite()
        return self.row(total.item(), weight)

    def row(self, total: float, weight: float) -> dict:
        """Return an epoch's row of the history, from the sum of its objectives and its β."""
        objective = total / sum(batches.lengths_of(self.train_part))
        norms, self.gradient_norms = self.gradient_norms, []
        progress = {
            "epoch": self.epoch + 1,
            "train_objective": objective,
            "kl_weight": weight,
            "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
            "gradient_norm": sum(norms) / len(norms),
            "clipped_updates": sum(n > self.settings["clip_norm"] for n in norms) / len(norms),
        }
        return {**progress, **self.model.logged_scalars}

    def update(self, loss: Tensor) -> None:
        """Change the weights by their current gradients, clipped; `loss` is a scalar.

        On a GPU nothing is checked here: `require_finite` checks all updates of an epoch at once.

        Raises:
            NumericalError: the loss or the gradient is not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip_norm"])
        self._unchecked.append(torch.stack([loss, norm]))
        factor = learning_rate_factor(self.settings, self.updates, self.epoch, self.progress)
        self.updates += 1
        if self.checks_every_update:
            self.require_finite()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = factor * group["initial_lr"]
            optimizer.step()
        self.average.update()

    def require_finite(self) -> None:
        """Check the updates since the last call.

        Raises:
            NumericalError: a loss or a gradient was not finite.
        """
        if not self._unchecked:
            return
        checked = torch.stack(self._unchecked)
        self.gradient_norms += checked[:, 1].tolist()
        self._unchecked.clear()
        broken = (~checked.isfinite()).nonzero().tolist()
        if broken:
            row, column = broken[0]
            raise NumericalError(
                f"the {('loss', 'gradient')[column]} of {self.recipe['model']['name']} on "
                f"{self.data.name}, seed {self.seed}, is not finite at update "
                f"{self.updates - len(checked) + row} (epoch {self.epoch + 1}); the weights of "
                f"epoch {self.best_epoch}, the best before, are kept. Lower learning_rate or "
                "clip_norm."
            )

    def diverge(self, error: NumericalError) -> None:
        """End a training whose numbers are not finite; the checkpoint will record that outcome."""
        self.diverged = str(error)
        self.monitor.note(f"diverged: {error}")

    def close_epoch(self, row: dict, spent: tuple[float, float]) -> None:
        """Validate if it is due; keep the row, and the state to resume from.

        Args:
            spent: the time that the updates took, as `Clock.read` returns it.
        """
        self.epoch += 1
        clock = Clock()
        last = self.epoch == self.settings["max_epochs"]
        validates = self.epoch % self.settings["validate_every"] == 0 or last
        if validates:
            self._validate(row)
        else:
            self.history.append(row)
        seconds, cpu_seconds = clock.read()
        self.seconds += spent[0] + seconds
        self.cpu_seconds += spent[1] + cpu_seconds
        row |= {"updates": self.updates, "cpu_seconds": round(self.cpu_seconds, 1)}
        if validates:
            save_state(self.state_file, self._state())
        self.monitor.epoch(row)

    def _validate(self, row: dict) -> None:
        with self.average.in_the_model():
            row["valid_bound"] = validation_bound(self.model, self.valid_part, self.seed)
            if self._is_due("train_bound") and not self.model.estimates_z:
                for name, sample in self.samples.items():
                    statistics = part_statistics(self.model, sample, self.seed)
                    # The bound of the whole validation part is `valid_bound`; of the sample, this.
                    statistics["sample_bound" if name == "valid" else "bound"] = statistics.pop(
                        "bound"
                    )
                    row |= {f"{name}_{what}": value for what, value in statistics.items()}
            if self.validation_samples and self.model.latent and self._is_due("valid_is"):
                samples = self.validation_samples
                row["valid_is"] = validation_is(self.model, self.valid_part, self.seed, samples)
            self.history.append(row)
            if row["valid_bound"] > self.best_bound:
                self.best_bound, self.best_epoch = row["valid_bound"], self.epoch
                self.best_weights = _copy(self.model)

    def _is_due(self, column: str) -> bool:
        # What costs as much as several updates is done at epochs 20 % apart: learning curves have a
        # logarithmic axis.
        last = max((row["epoch"] for row in self.history if column in row), default=0)
        return self.epoch >= MIN_EPOCH_RATIO * last or self.epoch == self.settings["max_epochs"]

    def _validations(self) -> dict[str, list]:
        """Return the history of the epochs that were validated, one list per column."""
        rows = [row for row in self.history if "valid_bound" in row]
        names = {name: None for row in rows for name, value in row.items() if _is_number(value)}
        return {name: [_rounded(row.get(name)) for row in rows] for name in names}

    def _fingerprint(self) -> str:
        parts = {"state": STATE_VERSION, "seed": self.seed, "data": self.data.sha256}
        return sha256_of({**self.recipe, **parts})

    def _streams(self) -> dict[str, torch.Generator]:
        return {"order": self.order_rng, "noise": self.noise_rng, "masks": self.mask_rng}

    def _state(self) -> dict:
        return {
            "fingerprint": self._fingerprint(),
            "model": _copy(self.model),
            "best_weights": self.best_weights,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "average": self.average.values,
            "random": {name: stream.get_state() for name, stream in self._streams().items()},
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def _resume(self) -> bool:
        state = load_state(self.state_file, self._fingerprint())
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best_weights"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average.values = [value.to(self.device) for value in state["average"]]
        for name, stream in self._streams().items():
            stream.set_state(state["random"][name])
        for name, value in state["progress"].items():
            setattr(self, name, value)
        return True

    def finish(self) -> Path:
        """Write history and checkpoint, remove the state, and return the checkpoint."""
        best = {"best_valid_bound": self.best_bound, "best_epoch": self.best_epoch}
        self.monitor.summary(best)
        self.model.load_state_dict(self.best_weights)
        info = CheckpointInfo(
            recipe=self.recipe,
            seed=self.seed,
            data=asdict(self.data),
            training={
                "epochs": self.epoch,
                "updates": self.updates,
                "seconds": round(self.seconds, 1),
                "cpu_seconds": round(self.cpu_seconds, 1),
                "peak_memory_mb": peak_memory_mb(),
                "best_epoch": self.best_epoch,
                "best_validation_bound": self.best_bound,
                "untrained_validation_bound": self.history[0]["valid_bound"],
                "validations": self._validations(),
                "parameters": sum(p.numel() for p in self.model.parameters()),
                **({"diverged": self.diverged} if self.diverged else {}),
                **({"learned": self.model.logged_scalars} if self.model.logged_scalars else {}),
            },
            environment={
                **environment(self.device.type, torch.get_num_threads()),
                "kernels": dispatch.current().kernels,
            },
        )
        lines = [json.dumps(row) for row in self.history]
        write_text(self.folder / "history.jsonl", "\n".join(lines) + "\n")
        save_checkpoint(self.checkpoint, self.best_weights, info)
        shutil.rmtree(self.state_file.parent, ignore_errors=True)
        return self.checkpoint


_PROGRESS = ("epoch", "updates", "best_epoch", "best_bound", "history", "seconds", "cpu_seconds")


class Clock:
    """Measures wall-clock and CPU time."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return the seconds of wall-clock time and of CPU time since it was made."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _rounded(value: float | None) -> float | None:
    # Results keep these columns: six digits are enough for a curve.
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
