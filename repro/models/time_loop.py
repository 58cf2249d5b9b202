"""The loop over time that draws z_t ~ q: over padded steps, or over real steps only.

Both have the same results up to rounding. On a CPU the packed loop saves the time for padding, and
a family may have a hand-written recurrence for it (`SequenceModel.propose_rows`). The padded loop
is the definition, and can handle few steps at once to save memory. Axes as in `repro.models.base`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from repro.kernels.linear import deferred_weight_gradients
from repro.kernels.packing import Packing, packing
from repro.models.terms import Terms, concatenate, masked

if TYPE_CHECKING:
    from repro.models.base import SequenceModel


class State(tuple[Tensor, ...]):
    """A state of any number of tensors that is built as a NamedTuple is: `State(*tensors)`."""

    def __new__(cls, *tensors: Tensor) -> "State":
        return super().__new__(cls, tensors)


def padded_terms(
    model: "SequenceModel",
    x: Tensor,
    lengths: Tensor,
    noise: Tensor,
    state: Any,
    steps_at_once: int | None,
) -> tuple[Terms, Any]:
    """Return the terms of every step and the state after the last; arguments as for `advance`."""
    scored = []
    for context, steps, after in propose_all(model, x, lengths, noise, state, steps_at_once):
        scored.append(model.score(context, steps))
        state = after
    return masked(concatenate(scored), lengths), state


def propose_all(
    model: "SequenceModel",
    x: Tensor,
    lengths: Tensor,
    noise: Tensor,
    state: Any = None,
    steps_at_once: int | None = None,
) -> Iterator[tuple[Any, Any, Any]]:
    """Run the padded loop; yield context, drawn steps and the state after them, by blocks.

    Arguments as for `SequenceModel.advance`. Context and steps are (T', ·, B, ·); `steps.z` has the
    samples of q.
    """
    if state is None:
        context, state = model.encode(x, lengths), model.initial(noise.shape[1], x)
    else:
        context = model.encode_after(state, x, lengths)
    block = len(x) if steps_at_once is None else steps_at_once
    # unbind and split, never context[t]: the backward pass of an index is quadratic in T.
    for part, part_noise in zip(_blocks(context, block), noise.split(block), strict=True):
        steps = []
        with deferred_weight_gradients(model):
            for context_t, noise_t in zip(unbind_steps(part), part_noise.unbind(), strict=True):
                state, step = model.propose(context_t, state, noise_t)
                steps.append(step)
        yield part, stack_steps(steps), state


def packed_terms(
    model: "SequenceModel", x: Tensor, lengths: Tensor, noise: Tensor, state: Any
) -> tuple[Terms, Any]:
    """Return the same from the real steps only.

    A step has the rows of the sequences that have not ended, and `score` sees all rows side by
    side, as if they were sequences of one step.
    """
    rows = packing(lengths, len(x))
    if state is None:
        context, state = model.encode_rows(x, lengths, rows), model.initial(noise.shape[1], x)
    else:
        context = pack(model.encode_after(state, x, lengths), rows)
    state = _each(state, lambda s: s[:, rows.order])
    steps, state = model.propose_rows(context, state, rows.pack(noise), rows.sizes)
    scored = model.score(*(_each(part, lambda t: t.unsqueeze(0)) for part in (context, steps)))
    back = rows.order.argsort()
    return scored.each(lambda term: rows.unpack(term[0])), _each(state, lambda s: s[:, back])


def propose_rows(
    model: "SequenceModel", context: Any, state: Any, noise: Tensor, sizes: list[int]
) -> tuple[Any, Any]:
    """Run the packed loop; see `SequenceModel.propose_rows`."""
    ended, steps = [], []
    parts = (tensor.split(sizes, dim=1) for tensor in (*context, noise))
    with deferred_weight_gradients(model):
        for *context_t, noise_t in zip(*parts, strict=True):
            count = noise_t.shape[1]
            if count < state[0].shape[1]:
                ended.append([s[:, count:] for s in state])
                state = _like(state, [s[:, :count] for s in state])
            state, step = model.propose(_like(context, context_t), state, noise_t)
            steps.append(step)
    last = (torch.cat(field, dim=1) for field in zip(state, *reversed(ended), strict=True))
    drawn = (torch.cat(field, dim=1) for field in zip(*steps, strict=True))
    return _like(steps[0], list(drawn)), _like(state, list(last))


def pack(context: tuple[Tensor, ...], rows: Packing) -> Any:
    """Return a context without padding, (1, N, ·) tensors."""
    return _each(context, rows.pack)


def unbind_steps(context: tuple[Tensor, ...]) -> list[Any]:
    """Return a context of T steps as T contexts of one, without the time axis."""
    parts = zip(*(tensor.unbind() for tensor in context), strict=True)
    return [_like(context, part) for part in parts]


def stack_steps(steps: list[tuple[Tensor, ...]]) -> Any:
    """Return steps, or contexts, of one step each as one of (T, ·, B, ·) tensors."""
    return _like(steps[0], [torch.stack(field) for field in zip(*steps, strict=True)])


def _blocks(context: tuple[Tensor, ...], block: int) -> list[Any]:
    parts = zip(*(tensor.split(block) for tensor in context), strict=True)
    return [_like(context, part) for part in parts]


def _each(record: tuple[Tensor, ...], change: Callable[[Tensor], Tensor]) -> Any:
    return _like(record, [change(tensor) for tensor in record])


def _like(record: tuple[Tensor, ...], tensors: Sequence[Tensor]) -> Any:
    return type(record)(*tensors)  # a NamedTuple of the same kind
