"""A model under audit, and the sequences on which it is checked."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from repro.data import prepared
from repro.data.batches import real_steps
from repro.inference.bounds import effective_sample_size
from repro.runtime.seeding import generator
from repro.tasks.scorers import Scorer
from repro.tasks.task import Task

SEQUENCES, STEPS = 6, 8  # that most checks use
MAX_STANDARD_ERRORS = 6.0  # a larger difference between sampled numbers is not chance
FLOAT32_TOLERANCE = 1e-4  # of rounding in float32, absolute (nats) and relative


class Observation(NamedTuple):
    """What a check saw of a model: whether it passed, and the likely reason if not."""

    status: str
    seen: str
    reason: str = ""


class Estimate(NamedTuple):
    """Log p(x) or a bound, (B,), and its standard error, 0 where it is exact."""

    value: Tensor
    error: Tensor


class Probe:
    """A model, and the sequences on which it is checked."""

    def __init__(self, scorer: Scorer, task: Task, samples: int, seed: int, claimed: bool) -> None:
        self.scorer, self.task, self.samples, self.seed = scorer, task, samples, seed
        self.claims_true_parameters = claimed
        longest = sorted(task.valid.lengths, reverse=True)
        self.steps = min(STEPS, longest[:3][-1])
        ids = [i for i, n in enumerate(task.valid.lengths) if n >= self.steps][:SEQUENCES]
        self.x = torch.stack([task.valid[i][: self.steps] for i in ids], dim=1)  # (T, B, D)
        T, B = self.steps, len(ids)
        self.full_lengths = torch.full((B,), T)
        self.ragged_lengths = torch.tensor([T, max(1, T // 2), T, max(1, T - 1), 1, T][:B])
        original = task.units == "original"
        self.std = task.std.float() if original else torch.ones(task.dim)

    @property
    def true_parameters(self) -> dict | None:
        """The true linear-Gaussian parameters, where the data were drawn with such."""
        return prepared.made_by(self.task.file).get("options", {}).get("parameters")

    def masked(self, lengths: Tensor, x: Tensor | None = None) -> Tensor:
        """Return x (T, B, D), `self.x` by default, cut to `lengths`: zero past each end."""
        x = self.x if x is None else x
        inside = real_steps(lengths, len(x)).unsqueeze(-1)
        return x.where(inside, 0.0)[: int(lengths.max())]

    def terms(self, x: Tensor, lengths: Tensor) -> Tensor | None:
        """Return log p(x_t | x_<t), (T, B), in nats; None if the model has no per-step terms."""
        if self.scorer.sampled:
            return None
        log_probs = self.scorer.exact(x, lengths)
        return log_probs if log_probs.ndim == 2 else None

    def log_weights(self, x: Tensor, lengths: Tensor, count: int, *purpose: int | str) -> Tensor:
        """Return log weights (K, B) in nats; for an exact model log p(x), with K = 1."""
        if not self.scorer.sampled:
            log_probs = self.scorer.exact(x, lengths)
            return (log_probs if log_probs.ndim == 1 else log_probs.sum(0)).unsqueeze(0)
        log_p, log_q = self.scorer.log_densities(
            x, lengths, count, generator(self.seed, "audit", *purpose)
        )
        return log_p - log_q

    def bound(self, x: Tensor, lengths: Tensor, *purpose: int | str) -> Estimate:
        """Return the mean log weight, whose error is better known than that of the IS estimate."""
        weights = self.log_weights(x, lengths, self.samples, *purpose)
        error = weights.std(0) if len(weights) > 1 else torch.zeros_like(weights[0])
        return Estimate(weights.mean(0), error / math.sqrt(len(weights)))


def importance_error(weights: Tensor) -> Tensor:
    """Return the standard error of log mean w over log weights (K, B), nats, to first order."""
    return (1.0 / effective_sample_size(weights) - 1.0 / len(weights)).clamp(min=0.0).sqrt()


def changed(probe: Probe, x: Tensor) -> Tensor:
    """Return x with every value changed: other bits, or one standard deviation higher."""
    return 1.0 - x if probe.task.kind == "binary" else x + probe.std
