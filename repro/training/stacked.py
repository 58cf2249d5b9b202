"""Trains several seeds as one model: stacked weights, batched operations."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from repro.data.batches import Batch
from repro.errors import ConfigError, NumericalError
from repro.inference.bounds import elbo
from repro.kernels.dispatch import vmap_compatible
from repro.models.base import SequenceModel
from repro.nn.dropout import Dropout
from repro.training.cuda_graphs import Recorded
from repro.training.trainer import Clock, Training

PADDED_STEPS_MULTIPLE = 16  # with CUDA graphs, batches are padded to a multiple of this many steps


def train_stack(trainings: list[Training], graphs: bool = False) -> None:
    """Train models that differ only in their seed until all have ended, each as it would alone.

    If they are at different epochs (a kill came between two of their states), those behind go
    first. A training that has ended leaves the stack.

    Args:
        graphs: record the computation of each shape of a batch and replay it
            (`repro.training.cuda_graphs`).
    Raises:
        ConfigError: the model does something that cannot be batched.
    """
    stack = None
    while unfinished := [one for one in trainings if not one.ended]:
        first = min(one.epoch for one in unfinished)
        members = [one for one in unfinished if one.epoch == first]
        if stack is None or members != stack.trainings:
            stack = _Stack(members, graphs)
        stack.one_epoch()


def _or_diverge(training: Training, step: Callable[[], None]) -> None:
    try:
        step()
    except NumericalError as error:
        training.diverge(error)


class StackedModels:
    """Models of one architecture whose parameters are stacked along a first axis S.

    Each model's own parameters become views of the stack's.

    Args:
        models: on one device.
        l2_penalty: weight of the sum of squared weights in each loss.
        graphs: record the computation of each shape of a batch and replay it
            (`repro.training.cuda_graphs`).
    """

    def __init__(
        self, models: Sequence[SequenceModel], l2_penalty: float = 0.0, graphs: bool = False
    ) -> None:
        self.l2_penalty = l2_penalty
        self.gradients = Recorded(self._gradients) if graphs else self._gradients
        for model in models:
            model.train()  # stacking requires all in one mode
        self.parameters, self.buffers = stack_module_state(list(models))
        for s, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.data = self.parameters[name].data[s]
        self.model = models[0]
        named = [
            [(n, m) for n, m in model.named_modules() if isinstance(m, Dropout) and m.share]
            for model in models
        ]
        self.mask_names = [f"{name}.mask" for name, _ in named[0]]
        self.dropouts = list(zip(*([m for _, m in dropouts] for dropouts in named), strict=True))

    def _gradients(
        self,
        weight: Tensor,
        counts: Tensor,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        *masks: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return objectives (S,), losses (S,) and the losses' gradients for each parameter.

        Args:
            weight: β of the KL, a scalar.
            counts: the number of sequences in each batch, without padding, (S,).
            x, lengths, noise: as for `SequenceModel.forward`, with S as a first axis.
            masks: the mask of every dropout layer, (S, T, B, width).
        """

        def objective(parameters: dict, buffers: dict, count: Tensor, *inputs: Tensor) -> Tensor:
            terms = functional_call(self.model, {**parameters, **buffers}, inputs)
            bounds = elbo(terms, weight)  # (K, B), zero for sequences that are padding
            return bounds.sum() / (count * len(bounds))

        buffers = {**self.buffers, **dict(zip(self.mask_names, masks, strict=True))}
        with vmap_compatible():
            objectives = vmap(objective)(self.parameters, buffers, counts, x, lengths, noise)
        losses = -objectives
        parameters = list(self.parameters.values())
        if self.l2_penalty:
            squares = [p.square().flatten(1).sum(1) for p in parameters]
            losses = losses + self.l2_penalty * torch.stack(squares).sum(0)
        gradients = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
        return objectives.detach(), losses.detach(), *gradients


class _Stack:
    """Trainings whose models are stacked; each has its own optimiser, validation and checkpoint."""

    def __init__(self, trainings: list[Training], graphs: bool) -> None:
        self.trainings = trainings
        self.multiple = PADDED_STEPS_MULTIPLE if graphs else 1
        penalty = trainings[0].settings["l2_penalty"]
        self.models = StackedModels([one.model for one in trainings], penalty, graphs)

    def one_epoch(self) -> None:
        """Train, validate and save one epoch of every member."""
        clock = Clock()
        for one in self.trainings:
            one.model.train()
        totals: Tensor | float = 0.0
        for group in zip(*(one.batches() for one in self.trainings), strict=True):
            weight = self.trainings[0].kl_weight
            inputs = self._inputs(group, weight)
            objectives, losses, *gradients = self._compute(inputs)
            totals = totals + objectives.double() * inputs[1]
            for s, one in enumerate(self.trainings):
                if one.diverged:
                    continue
                for parameter, gradient in zip(one.model.parameters(), gradients, strict=True):
                    parameter.grad = gradient[s]
                _or_diverge(one, partial(one.update, losses[s]))
        seconds, cpu_seconds = (spent / len(self.trainings) for spent in clock.read())
        for one, total in zip(self.trainings, torch.as_tensor(totals).tolist(), strict=True):
            _or_diverge(one, one.require_finite)
            if not one.diverged:
                one.close_epoch(one.row(total, weight), (seconds, cpu_seconds))

    def _compute(self, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        try:
            return self.models.gradients(*inputs)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            name = self.trainings[0].recipe["model"]["name"]
            raise ConfigError(
                f"the seeds of {name} cannot be stacked ({str(error).splitlines()[0]}): "
                "set `can_stack = False` in its class, or `stack_seeds: false` in the preset."
            ) from None

    def _inputs(self, group: tuple[Batch, ...], weight: float) -> list[Tensor]:
        """Return β, numbers of sequences (S,), x (S, T, B, D), lengths, noise and dropout masks.

        Everything is drawn in the shape that each training has alone, and then padded to the
        largest of the stack.
        """
        steps = -(-max(len(batch.x) for batch in group) // self.multiple) * self.multiple
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

        device, pairs = group[0].x.device, list(zip(self.trainings, group, strict=True))
        return [
            torch.tensor(weight, device=device),
            torch.tensor([len(batch.ids) for batch in group], device=device),
            stacked(batch.x for batch in group),
            torch.stack([F.pad(b.lengths, (0, rows - len(b.lengths))) for b in group]),
            stacked(one.draw_noise(batch) for one, batch in pairs),
            *(
                stacked(
                    dropout.draw(len(batch.x), len(batch.ids), batch.x)
                    for dropout, batch in zip(dropouts, group, strict=True)
                )
                for dropouts in self.models.dropouts
            ),
        ]
