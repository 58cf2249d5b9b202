"""One seeded, resumable training run: data and recipe in, checkpoint out."""

import json
import math
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from repro.checkpoints import (
    CheckpointInfo,
    is_trained,
    load_state,
    model_spec,
    save_checkpoint,
    save_state,
)
from repro.data import batches, sequences
from repro.errors import NumericalError
from repro.files import sha256_of, write_text
from repro.models import build
from repro.models.base import SequenceModel
from repro.monitors import Monitor, Run
from repro.objectives import annealed_elbo, kl_weight
from repro.provenance import environment, peak_memory_mb
from repro.seeding import derive, generator
from repro.validation import validation_bound, validation_is


def train(
    recipe: dict,
    data_file: Path,
    seed: int,
    folder: Path,
    device: torch.device,
    wandb: str,
    validation_samples: int = 0,
) -> Path:
    """Train one model from one seed; return its checkpoint, chosen on the validation bound.

    Initial weights, batch order, noise and dropout have streams of their own, all derived from
    `seed`. State is saved at every validation under `folder`/state, and a run that was stopped
    goes on from there to the same bits. A loss or gradient that is not finite ends the training at
    once: it is an outcome, not a failure, that the checkpoint says under "diverged". Where another
    process is at this run (it may have outlived a killed snakemake), its checkpoint is waited for.

    Args:
        recipe: the frozen configuration (`config.resolve`).
        data_file: prepared sequences; the test part is not read.
        folder: gets checkpoint.safetensors and history.jsonl.
        validation_samples: importance samples of the validation part at every validation, for the
            learning curve; 0 leaves them out. Nothing else depends on it.
    Raises:
        DataError: the data are missing or damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, checkpoint = FileLock(folder / "state.lock"), folder / "checkpoint.safetensors"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder} is being trained by another process; waiting for it", file=sys.stderr)
        lock.acquire()
        if is_trained(checkpoint, recipe):
            lock.release()
            return checkpoint
    with lock:
        run = _Run(recipe, data_file, seed, folder, device, validation_samples)
        return run.to_the_end(wandb)


class _Run:
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
        self.data, parts = sequences.load(data_file, ("train", "valid"))
        self.train_part = batches.to_tensors(parts["train"], device)
        self.valid_part = batches.to_tensors(parts["valid"], device)

        torch.manual_seed(derive(seed, "initial weights"))
        self.model = build(model_spec(recipe, self.data)).to(device)
        torch.manual_seed(derive(seed, "dropout"))
        self.order = generator(seed, "batch order")
        self.noise = generator(seed, "noise", device=device)
        self.optimizer = torch.optim.Adam(
            list(self.model.parameters()) or [torch.zeros(0)],  # a known model has none
            lr=self.settings["learning_rate"],
            betas=tuple(self.settings["adam_betas"]),
        )
        self.epoch = self.updates = self.best_epoch = 0
        self.best_bound = -math.inf
        self.best_weights = _copy(self.model)
        self.history: list[dict] = []
        self.seconds = self.cpu_seconds = 0.0
        self.diverged = ""
        self.state_file = folder / "state" / "last.pt"

    def to_the_end(self, wandb: str) -> Path:
        run = Run(self.recipe, self.seed, self.folder)
        with Monitor(run, self.settings["max_epochs"], wandb) as monitor:
            if self._resume():
                monitor.note(f"resumes after epoch {self.epoch}")
            if self.epoch == 0 and not self.history:
                self._validate(
                    {"epoch": 0, **self.model.watched}
                )  # the untrained model, for the learning curve
                monitor.epoch(self.history[-1])
            while self.epoch < self.settings["max_epochs"] and not self._out_of_patience():
                wall, cpu = time.perf_counter(), time.process_time()
                try:
                    row = self._one_epoch()
                except NumericalError as error:
                    self.diverged = str(error)
                    monitor.note(f"diverged: {error}")
                    break
                last = self.epoch == self.settings["max_epochs"]
                validates = self.epoch % self.settings["validate_every"] == 0 or last
                if validates:
                    self._validate(row)
                else:
                    self.history.append(row)
                self.seconds += time.perf_counter() - wall
                self.cpu_seconds += time.process_time() - cpu
                if validates:
                    save_state(self.state_file, self._state())
                monitor.epoch(row)
            monitor.summary({"best_valid_bound": self.best_bound, "best_epoch": self.best_epoch})
        return self._finish()

    def _one_epoch(self) -> dict:
        self.model.train()
        settings, total, steps = self.settings, 0.0, 0
        groups = batches.epoch(
            self.train_part, settings["batch_size"], settings["batch_order"], self.order
        )
        for batch in groups:
            state = None
            for i, (part, places) in enumerate(batches.segments(batch, settings.get("segment"))):
                state = None if i % settings.get("segments_carried", 1) == 0 else state
                weight = kl_weight(self.updates, settings["kl_start"], settings["kl_updates"])
                samples = settings.get("samples", 1)
                shape = (len(part.x), samples, len(part.ids), self.model.latent)
                noise = torch.randn(shape, generator=self.noise, device=self.device)
                if state is not None:  # of the sequences that go on; no gradient flows back
                    state = type(state)(*(s.detach()[:, places] for s in state))
                terms, state = self.model.advance(part.x, part.lengths, noise, state)
                objective = annealed_elbo(terms, weight)
                surrogate = self.model.surrogate(part.x, part.lengths, terms, weight)
                self._update(-objective if surrogate is None else -objective - surrogate)
                total += objective.item() * len(part.ids)
                steps += int(part.lengths.sum())
        self.epoch += 1
        progress = {"epoch": self.epoch, "train_objective": total / steps, "kl_weight": weight}
        return {**progress, **self.model.watched}

    def _update(self, loss: Tensor) -> None:
        if self.settings["l2_penalty"]:
            squares = sum(p.square().sum() for p in self.model.parameters())
            loss = loss + self.settings["l2_penalty"] * squares
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["clip_norm"])
        if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
            what = "loss" if not math.isfinite(loss.item()) else "gradient"
            raise NumericalError(
                f"the {what} of {self.recipe['model']['name']} on {self.data.name}, "
                f"seed {self.seed}, is not finite at update {self.updates} "
                f"(epoch {self.epoch + 1}); the weights of epoch "
                f"{self.best_epoch}, the best before, are kept. Lower learning_rate or clip_norm."
            )
        self.optimizer.step()
        self.updates += 1

    def _validate(self, row: dict) -> None:
        row["valid_bound"] = validation_bound(self.model, self.valid_part, self.seed)
        if self.validation_samples and self.model.latent:
            samples = self.validation_samples
            row["valid_is"] = validation_is(self.model, self.valid_part, self.seed, samples)
        self.history.append(row)
        if row["valid_bound"] > self.best_bound:
            self.best_bound, self.best_epoch = row["valid_bound"], self.epoch
            self.best_weights = _copy(self.model)

    def _out_of_patience(self) -> bool:
        patience = self.settings["patience"]
        since = sum("valid_bound" in row and row["epoch"] > self.best_epoch for row in self.history)
        return patience is not None and since >= patience

    def _fingerprint(self) -> str:
        return sha256_of({**self.recipe, "seed": self.seed, "data": self.data.sha256})

    def _random_states(self) -> dict[str, tuple[Callable, Callable]]:
        states = {
            "order": (self.order.get_state, self.order.set_state),
            "noise": (self.noise.get_state, self.noise.set_state),
            "torch": (torch.get_rng_state, torch.set_rng_state),
        }
        if self.device.type == "cuda":
            states["cuda"] = (torch.cuda.get_rng_state, torch.cuda.set_rng_state)
        return states

    def _state(self) -> dict:
        return {
            "fingerprint": self._fingerprint(),
            "model": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "random": {name: get() for name, (get, _) in self._random_states().items()},
            "progress": {name: getattr(self, name) for name in _PROGRESS},
        }

    def _resume(self) -> bool:
        state = load_state(self.state_file, self._fingerprint())
        if state is None:
            return False
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best_weights"]
        self.optimizer.load_state_dict(state["optimizer"])
        for name, (_, set_state) in self._random_states().items():
            set_state(state["random"][name])
        for name, value in state["progress"].items():
            setattr(self, name, value)
        return True

    def _finish(self) -> Path:
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
                "parameters": sum(p.numel() for p in self.model.parameters()),
                **({"diverged": self.diverged} if self.diverged else {}),
                **({"learned": self.model.watched} if self.model.watched else {}),
            },
            environment=environment(self.device.type, torch.get_num_threads()),
        )
        lines = [json.dumps(row) for row in self.history]
        write_text(self.folder / "history.jsonl", "\n".join(lines) + "\n")
        path = self.folder / "checkpoint.safetensors"
        save_checkpoint(path, self.best_weights, info)
        shutil.rmtree(self.state_file.parent, ignore_errors=True)
        return path


_PROGRESS = ("epoch", "updates", "best_epoch", "best_bound", "history", "seconds", "cpu_seconds")


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
