"""Statistics recorded during training: whether it overfits, and how latent variables are used."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from repro.data import batches
from repro.inference.bounds import elbo
from repro.models.base import SequenceModel, Terms
from repro.models.terms import masked
from repro.models.time_loop import propose_all
from repro.nn import bernoulli
from repro.nn.gaussian import Gaussian, kl_per_dimension
from repro.runtime.seeding import generator

MAX_STEPS = 200  # steps used of each sequence
MIN_STEPS = 2000  # of a sample, if the part has that many
MIN_STEP_SHARE = 0.05  # of the training part's steps, if that is more than MIN_STEPS
BATCH_SIZE = 50  # in a batch
ACTIVE_UNIT_KL = 0.01  # nats per step of KL, above which a latent unit counts as used


def sample_of(part: batches.Sequences, train_steps: int, seed: int) -> list[Tensor]:
    """Return the beginnings of sequences of a part, (T, D) each: the same for the same seed.

    Args:
        train_steps: steps of the whole training part, which decides how many are used.
    """
    min_steps, steps = max(MIN_STEPS, MIN_STEP_SHARE * train_steps), 0
    taken: list[Tensor] = []
    for i in torch.randperm(len(part), generator=generator(seed, "statistics")).tolist():
        if steps >= min_steps:
            break
        taken.append(part[i][:MAX_STEPS])
        steps += len(taken[-1])
    return taken


class StdRange:
    """The smallest, mean and largest of the standard deviations added to it."""

    def __init__(self) -> None:
        self.least, self.most, self.total, self.count = float("inf"), 0.0, 0.0, 0

    def add(self, std: Tensor) -> None:
        """Add standard deviations, of any shape."""
        self.least = min(self.least, std.min().item())
        self.most = max(self.most, std.max().item())
        self.total, self.count = self.total + std.sum().item(), self.count + std.numel()

    def numbers(self, name: str) -> dict[str, float]:
        """Return minimum, mean and maximum by key: `<name>_std_min` and so on."""
        values = {"min": self.least, "mean": self.total / self.count, "max": self.most}
        return {f"{name}_std_{what}": value for what, value in values.items()}


@torch.no_grad()
def part_statistics(model: SequenceModel, part: list[Tensor], seed: int) -> dict[str, Any]:
    """Return statistics of a model on some sequences, without dropout, with one sample of z each.

    Which ones there are depends on the model's terms and its head: `bound`, `log_likelihood` and
    `kl` in nats per step; if the family gives q and p of a step (`Terms.distributions`),
    `kl_per_unit`, Z numbers in nats per step, and `active_units`, how many of them exceed 0.01;
    smallest, mean and largest standard deviation of every Gaussian: `posterior_std_min` and so on,
    `prior_…`, and `emission_…` if the head has one.
    """
    model.eval()
    stream = generator(seed, "statistics noise", device=part[0].device)
    sums: dict[str, Any] = {"bound": 0.0, "log_likelihood": 0.0, "kl_per_unit": 0.0}
    spreads: defaultdict[str, StdRange] = defaultdict(StdRange)
    order, steps = batches.by_length(part), sum(map(len, part))
    for start in range(0, len(order), BATCH_SIZE):
        batch = batches.collate(part, order[start : start + BATCH_SIZE])
        shape = (len(batch.x), 1, len(batch.ids), model.latent)
        noise = torch.randn(shape, generator=stream, device=batch.x.device)
        times = torch.arange(len(batch.x), device=batch.x.device)
        inside = times.unsqueeze(1) < batch.lengths  # (T, B)
        with _emissions(model, inside, spreads["emission"]):
            terms = _terms(model, batch, noise)
        inside_terms = masked(terms, batch.lengths)
        sums["bound"] += elbo(inside_terms).sum().item()
        sums["log_likelihood"] += inside_terms.log_likelihood.sum().item()
        if terms.distributions is not None:
            sums["kl_per_unit"] += _kl_per_unit(*terms.distributions)[inside.unsqueeze(1)].sum(0)
            for name, gaussian in zip(("posterior", "prior"), terms.distributions, strict=True):
                if isinstance(gaussian, Gaussian):
                    std = gaussian.std.expand_as(gaussian.mean)
                    spreads[name].add(std[inside.unsqueeze(1)])
    statistics = {name: sums[name] / steps for name in ("bound", "log_likelihood")}
    if model.latent:
        statistics["kl"] = statistics["log_likelihood"] - statistics["bound"]
    if isinstance(sums["kl_per_unit"], Tensor):
        statistics["kl_per_unit"] = (sums["kl_per_unit"] / steps).tolist()
        statistics["active_units"] = sum(
            value > ACTIVE_UNIT_KL for value in statistics["kl_per_unit"]
        )
    for name, spread in spreads.items():
        statistics |= spread.numbers(name) if spread.count else {}
    return statistics


def _terms(model: SequenceModel, batch: batches.Batch, noise: Tensor) -> Terms:
    if not model.latent:
        return model(batch.x, batch.lengths, noise, steps_at_once=len(batch.x))
    ((context, steps, _),) = propose_all(model, batch.x, batch.lengths, noise)
    return model.score(context, steps)


def _kl_per_unit(q: Any, p: Any) -> Tensor:
    kl = kl_per_dimension if isinstance(q, Gaussian) else bernoulli.kl_per_dimension
    return kl(q, p)


@contextmanager
def _emissions(model: SequenceModel, inside: Tensor, spread: StdRange) -> Iterator[None]:
    # A head's parameters are a Gaussian or contain one: (T, B, ·), with samples (T, 1, B, ·).
    real = inside.unsqueeze(1) if model.latent else inside

    def record_stds(head: Any, inputs: Any, output: Any) -> None:
        for part in [output] if isinstance(output, Gaussian) else output:
            if isinstance(part, Gaussian):
                steps = part.std.shape[: real.ndim] == real.shape  # else one for all steps
                spread.add(part.std[real] if steps else part.std)

    head = getattr(model, "head", None)
    if head is None:
        yield
        return
    hook = head.register_forward_hook(record_stds)
    try:
        yield
    finally:
        hook.remove()
