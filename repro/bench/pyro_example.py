"""Pyro's example of the DMM with its own settings, trained for a race; needs the extra `bench`.

Model, guide and settings are those of `examples/dmm.py` in Pyro's repository, in code of our own:
z_0, the guide's z_0 and the RNN's first state are learnt; a ReLU RNN of 600 units reads the packed
notes backwards; one sample estimates the KL, whose weight rises from 0.2 to 1 over 1000 epochs.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ClippedAdam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.flop_counter import FlopCounterMode

from repro.data import batches, prepared
from repro.data.batches import Batch, real_steps
from repro.nn.recurrent import reverse
from repro.runtime.files import replacing, write_text
from repro.runtime.seeding import derive

LATENT, EMISSION, TRANSITION, RNN = 100, 100, 200, 600
OPTIMIZER = {
    "lr": 0.0003,
    "betas": (0.96, 0.999),
    "clip_norm": 10.0,
    "lrd": 0.99996,
    "weight_decay": 2.0,
}
BATCH_SIZE, MAX_EPOCHS = 20, 5000
ANNEALING_EPOCHS, LEAST_KL_WEIGHT = 1000, 0.2
COUNTED_STEPS = 32  # of the sequence whose operations are counted
VALIDATE_EVERY = 5  # epochs, as in the preset music; the example validates every 50
SETTINGS = {
    "sizes": {"latent": LATENT, "emission": EMISSION, "transition": TRANSITION, "rnn": RNN},
    "optimizer": OPTIMIZER,
    "batch_size": BATCH_SIZE,
    "annealing_epochs": ANNEALING_EPOCHS,
    "least_kl_weight": LEAST_KL_WEIGHT,
    "max_epochs": MAX_EPOCHS,
    "validate_every": VALIDATE_EVERY,
}


class PyroExample(nn.Module):
    """p(x, z) and q(z | x) of Pyro's example, for sequences x (T, B, D) of given lengths (B,)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.emission = nn.Sequential(
            nn.Linear(LATENT, EMISSION), nn.ReLU(),
            nn.Linear(EMISSION, EMISSION), nn.ReLU(),
            nn.Linear(EMISSION, dim), nn.Sigmoid(),
        )  # fmt: skip
        self.gate = nn.Sequential(
            nn.Linear(LATENT, TRANSITION), nn.ReLU(), nn.Linear(TRANSITION, LATENT), nn.Sigmoid()
        )
        self.proposed = nn.Sequential(
            nn.Linear(LATENT, TRANSITION), nn.ReLU(), nn.Linear(TRANSITION, LATENT)
        )
        self.linear_mean, self.deviation = nn.Linear(LATENT, LATENT), nn.Linear(LATENT, LATENT)
        nn.init.eye_(self.linear_mean.weight)
        nn.init.zeros_(self.linear_mean.bias)
        self.from_latent = nn.Linear(LATENT, RNN)
        self.q_mean, self.q_deviation = nn.Linear(RNN, LATENT), nn.Linear(RNN, LATENT)
        self.rnn = nn.RNN(dim, RNN, nonlinearity="relu")
        self.z_start, self.q_start = (nn.Parameter(torch.zeros(LATENT)) for _ in range(2))
        self.rnn_start = nn.Parameter(torch.zeros(1, 1, RNN))

    def model(self, x: Tensor, lengths: Tensor, kl_weight: float) -> None:
        """p(x, z)."""
        pyro.module("example", self)
        mask = real_steps(lengths, len(x)).unsqueeze(-1)
        with pyro.plate("sequences", x.shape[1]):
            z = self.z_start.expand(x.shape[1], -1)
            for t in pyro.markov(range(len(x))):
                gate, proposed = self.gate(z), self.proposed(z)
                mean = (1 - gate) * self.linear_mean(z) + gate * proposed
                prior = dist.Normal(mean, F.softplus(self.deviation(F.relu(proposed))))
                with pyro.poutine.scale(scale=kl_weight):
                    z = pyro.sample(f"z_{t}", prior.mask(mask[t]).to_event(1))
                notes = dist.Bernoulli(self.emission(z))
                pyro.sample(f"x_{t}", notes.mask(mask[t]).to_event(1), obs=x[t])

    def guide(self, x: Tensor, lengths: Tensor, kl_weight: float) -> None:
        """q(z | x), step by step from the guide's own z_0."""
        pyro.module("example", self)
        mask = real_steps(lengths, len(x)).unsqueeze(-1)
        start = self.rnn_start.expand(-1, x.shape[1], -1).contiguous()
        rows = pack_padded_sequence(reverse(x, lengths), lengths, enforce_sorted=False)
        hidden = reverse(pad_packed_sequence(self.rnn(rows, start)[0])[0], lengths)
        with pyro.plate("sequences", x.shape[1]):
            z = self.q_start.expand(x.shape[1], -1)
            for t in pyro.markov(range(len(x))):
                combined = 0.5 * (torch.tanh(self.from_latent(z)) + hidden[t])
                q = dist.Normal(self.q_mean(combined), F.softplus(self.q_deviation(combined)))
                with pyro.poutine.scale(scale=kl_weight):
                    z = pyro.sample(f"z_{t}", q.mask(mask[t]).to_event(1))


class PyroTraining:
    """A resumable training of Pyro's example; it never reads the test part.

    Pyro draws from torch's global generator and keeps parameters in a global store: one at a time.

    Args:
        data_file: a prepared data set of binary sequences.
        folder: gets history.jsonl and the state to resume from.
    """

    def __init__(self, data_file: Path, seed: int, folder: Path) -> None:
        self.data, parts = prepared.load(data_file, ("train", "valid"))
        self.train_part = batches.to_tensors(parts["train"], torch.device("cpu"))
        valid_part = batches.to_tensors(parts["valid"], torch.device("cpu"))
        self.valid = batches.collate(valid_part, list(range(len(valid_part))))
        self.seed, self.folder, self.state_file = seed, folder, folder / "last.pt"
        pyro.clear_param_store()
        pyro.set_rng_seed(seed)
        self.example = PyroExample(self.data.dim)
        self.optimizer = ClippedAdam(dict(OPTIMIZER))
        self.svi = SVI(self.example.model, self.example.guide, self.optimizer, Trace_ELBO())
        self.epoch = self.updates = 0
        self.cpu_seconds = 0.0
        self.history: list[dict] = []
        if self.state_file.exists():
            self._resume()

    def run(self, minutes: float, target: float | None) -> list[dict]:
        """Return the history after training for `minutes` CPU minutes in all, or to the target.

        Args:
            target: validation bound, nats per step; None trains for the whole time.
        """
        while self.epoch < MAX_EPOCHS and self.cpu_seconds < 60 * minutes:
            if target is not None and self.history and self.history[-1]["valid_bound"] >= target:
                break
            self.run_epochs(VALIDATE_EVERY)
        return self.history

    def one_epoch(self) -> None:
        """Update the weights with every batch, in a random order."""
        order = list(self._batches())
        for i, batch in enumerate(order):
            self.svi.step(batch.x, batch.lengths, kl_weight(self.epoch, i, len(order)))
            self.updates += 1
        self.epoch += 1

    def operations(self) -> float:
        """Return how many operations the matrix products of an epoch take, without padding."""
        x = self.train_part[0][:COUNTED_STEPS].unsqueeze(1)
        with FlopCounterMode(display=False) as counter:
            loss = Trace_ELBO().differentiable_loss
            loss(self.example.model, self.example.guide, x, torch.tensor([len(x)]), 1.0).backward()
        self.example.zero_grad()
        return counter.get_total_flops() / len(x) * sum(batches.lengths_of(self.train_part))

    def valid_bound(self) -> float:
        """Return the ELBO of the validation part, in nats per step: the same noise at each call."""
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(derive(self.seed, "validation"))
            loss = self.svi.evaluate_loss(self.valid.x, self.valid.lengths, 1.0)
        return -loss / int(self.valid.lengths.sum())

    def run_epochs(self, number: int) -> None:
        """Train `number` epochs, validate, and save the state to resume from."""
        start = time.process_time()
        for _ in range(number):
            self.one_epoch()
        bound = self.valid_bound()
        self.cpu_seconds += time.process_time() - start
        self.history.append(
            {
                "epoch": self.epoch,
                "updates": self.updates,
                "cpu_seconds": round(self.cpu_seconds, 1),
                "valid_bound": bound,
            }
        )
        self._save()

    def _batches(self) -> Iterator[Batch]:
        ids = torch.randperm(len(self.train_part)).tolist()
        for start in range(0, len(ids), BATCH_SIZE):
            yield batches.collate(self.train_part, ids[start : start + BATCH_SIZE])

    def _save(self) -> None:
        state = {
            "example": self.example.state_dict(),
            "optimizer": self.optimizer.get_state(),
            "random": torch.get_rng_state(),
            "progress": [self.epoch, self.updates, self.cpu_seconds, self.history],
        }
        with replacing(self.state_file) as partial:
            torch.save(state, partial)
        lines = [json.dumps(row) for row in self.history]
        write_text(self.folder / "history.jsonl", "\n".join(lines) + "\n")

    def _resume(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        self.example.load_state_dict(state["example"])
        self.optimizer.set_state(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.epoch, self.updates, self.cpu_seconds, self.history = state["progress"]


def kl_weight(epoch: int, batch: int, batches_per_epoch: int) -> float:
    """Return the weight of the KL for a batch: 0.2 to 1 over the first 1000 epochs, then 1."""
    if epoch >= ANNEALING_EPOCHS:
        return 1.0
    done = (batch + epoch * batches_per_epoch + 1) / (ANNEALING_EPOCHS * batches_per_epoch)
    return LEAST_KL_WEIGHT + (1.0 - LEAST_KL_WEIGHT) * done
