"""Trainings of several seeds as one: stacked weights, batched operations."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from repro.bounds import elbo
from repro.data.batches import Batch
from repro.errors import ConfigError, NumericalError
from repro.nn.dropout import Dropout
from repro.nn.ways import elementary_operations
from repro.training import Clock, Training


def train_stack(trainings: list[Training]) -> None:
    """Train models that differ only in their seed to their ends, each as it would be alone.

    Where they stand at different epochs (a kill came between two of their states), those behind go
    first. One that has ended leaves the others.

    Raises:
        ConfigError: the model does something that cannot be batched.
    """
    stack = None
    while going := [one for one in trainings if not one.ended]:
        first = min(one.epoch for one in going)
        members = [one for one in going if one.epoch == first]
        if stack is None or members != stack.trainings:
            stack = _Stack(members)
        stack.one_epoch()


class _Stack:
    """Models whose parameters stand side by side along a first axis S.

    Each model's own parameters are views of the stack's, so that its optimiser, its validation and
    its checkpoint are what they are alone.
    """

    def __init__(self, trainings: list[Training]) -> None:
        self.trainings = trainings
        models = [one.model.train() for one in trainings]  # stacking wants all in one mode
        self.parameters, self.buffers = stack_module_state(models)
        for s, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.data = self.parameters[name].data[s]
        self.model = models[0]
        self.dropouts = [
            {n: m for n, m in model.named_modules() if isinstance(m, Dropout) and m.share}
            for model in models
        ]

    def one_epoch(self) -> None:
        """Train, validate and save one epoch of every member."""
        clock = Clock()
        totals, steps = [0.0] * len(self.trainings), [0] * len(self.trainings)
        for one in self.trainings:
            one.model.train()
        for group in zip(*(one.batches() for one in self.trainings), strict=True):
            weight = self.trainings[0].kl_weight
            objectives, losses = self._differentiate(group, weight)
            for s, (one, batch) in enumerate(zip(self.trainings, group, strict=True)):
                if one.diverged:
                    continue
                for name, parameter in one.model.named_parameters():
                    gradient = self.parameters[name].grad
                    parameter.grad = None if gradient is None else gradient[s]
                try:
                    one.update(losses[s])
                except NumericalError as error:
                    one.diverge(error)
                totals[s] += objectives[s] * len(batch.ids)
                steps[s] += int(batch.lengths.sum())
        seconds, cpu_seconds = (spent / len(self.trainings) for spent in clock.read())
        for one, total, count in zip(self.trainings, totals, steps, strict=True):
            if not one.diverged:
                one.close_epoch(one.row(total / count, weight), (seconds, cpu_seconds))

    def _differentiate(
        self, group: tuple[Batch, ...], weight: float
    ) -> tuple[list[float], list[float]]:
        """Leave the gradients of all losses with the stack; return objectives and losses."""

        def objective(parameters: dict, buffers: dict, count: Tensor, *inputs: Tensor) -> Tensor:
            terms = functional_call(self.model, {**parameters, **buffers}, inputs)
            bounds = elbo(terms, weight)  # (K, B), zero for the sequences of padding
            return bounds.sum() / (count * len(bounds))

        masks, *inputs = self._inputs(group)
        for parameter in self.parameters.values():
            parameter.grad = None
        with elementary_operations():
            try:
                objectives = vmap(objective)(self.parameters, {**self.buffers, **masks}, *inputs)
            except RuntimeError as error:
                if "vmap" not in str(error):
                    raise
                name = self.trainings[0].recipe["model"]["name"]
                raise ConfigError(
                    f"the seeds of {name} cannot train together ({str(error).splitlines()[0]}): "
                    "say `can_stack = False` in its class, or set `together: false`."
                ) from None
        losses = -objectives
        penalty = self.trainings[0].settings["l2_penalty"]
        if penalty:
            squares = [p.square().flatten(1).sum(1) for p in self.parameters.values()]
            losses = losses + penalty * torch.stack(squares).sum(0)
        losses.sum().backward()
        return objectives.tolist(), losses.tolist()

    def _inputs(
        self, group: tuple[Batch, ...]
    ) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, Tensor]:
        """Return dropout masks, numbers of sequences (S,), x (S, T, B, D), lengths and noise.

        Everything is drawn in the shape it has alone, and padded to the largest of the stack.
        """
        steps = max(len(batch.x) for batch in group)
        rows = max(len(batch.ids) for batch in group)

        def stacked(parts: Iterable[Tensor]) -> Tensor:  # (T', …, B', ·) each to (S, T, …, B, ·)
            return torch.stack(
                [
                    F.pad(
                        x, (0, 0, 0, rows - x.shape[-2], *(0, 0) * (x.ndim - 3), 0, steps - len(x))
                    )
                    for x in parts
                ]
            )

        counts = torch.tensor([len(batch.ids) for batch in group], device=group[0].x.device)
        x = stacked(batch.x for batch in group)
        lengths = torch.stack([F.pad(b.lengths, (0, rows - len(b.lengths))) for b in group])
        pairs = list(zip(self.trainings, group, strict=True))
        noise = stacked(one.draw_noise(batch) for one, batch in pairs)
        masks = {
            f"{name}.mask": stacked(
                dropouts[name].draw(len(batch.x), len(batch.ids), batch.x)
                for dropouts, batch in zip(self.dropouts, group, strict=True)
            )
            for name in self.dropouts[0]
        }
        return masks, counts, x, lengths, noise
