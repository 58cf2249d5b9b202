"""Packs the valid steps of a padded batch into rows, so that nothing is computed on padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where each row comes from: rows are ordered by step, in each step longest sequence first.

    A step's rows continue the first rows of the step before; the sequences that ended are gone.

    Attributes:
        indices: of each of the N rows among the T · B steps of the padded batch, (N,).
        sizes: rows of each step; they never grow.
        order: the sequences, longest first, (B,).
        shape: (T, B).
    """

    indices: Tensor
    sizes: list[int]
    order: Tensor
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """Return the rows (K, N, ·) of x (T, K, B, ·)."""
        return x.movedim(1, 0).flatten(1, 2).index_select(1, self.indices)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return rows (K, N, ...) as (T, K, B, ...), zeros past each sequence's end."""
        padded = rows.new_zeros(len(rows), self.shape[0] * self.shape[1], *rows.shape[2:])
        return padded.index_copy(1, self.indices, rows).unflatten(1, self.shape).movedim(0, 1)


def packing(lengths: Tensor, steps: int) -> Packing:
    """Return the packing of sequences of these lengths (B,), padded to `steps`."""
    order = lengths.argsort(descending=True, stable=True)
    step = torch.arange(steps, device=lengths.device).unsqueeze(1)  # (T, 1)
    inside = step < lengths[order]  # (T, B)
    index = (step * len(lengths) + order)[inside]
    sizes = [size for size in inside.sum(1).tolist() if size]
    return Packing(index, sizes, order, (steps, len(lengths)))


def last_rows(rows: Tensor, sizes: list[int], backward: bool = False) -> Tensor:
    """Return the last of each sequence's rows (N, ·), (B, ·), longest sequence first.

    Args:
        backward: the direction is from each sequence's end to its beginning.
    """
    if backward:
        return rows[: sizes[0]]
    steps = zip(rows.split(sizes), [*sizes[1:], 0], strict=True)
    return torch.cat([step[continuing:] for step, continuing in steps][::-1])


def previous_rows(rows: Tensor, start: Tensor, sizes: list[int], backward: bool = False) -> Tensor:
    """Return the row of the step before each row (N, ·); at a first step, that of start (B, ·).

    Args:
        backward: the direction is from each sequence's end to its beginning.
    """
    steps = rows.split(sizes)
    neighbours = [*steps[1:], start[:0]] if backward else [start, *steps[:-1]]
    pairs = zip(neighbours, sizes, strict=True)
    return torch.cat([carried(state, start, size) for state, size in pairs])


def carried(state: Tensor, start: Tensor, size: int) -> Tensor:
    """Return the state with which `size` sequences enter a step.

    Args:
        state: after the previous step, longest sequence first; it has fewer sequences if some
            begin here, and more if some have ended.
        start: the state of those that begin, (B, ·).
    """
    if len(state) >= size:
        return state[:size]
    return torch.cat([state, start[len(state) : size]])


def as_sequences(rows: Tensor, samples: int) -> Tensor:
    """Return rows (K or 1, N, ·) of K samples as rows of K times as many sequences, (N · K, ·).

    The samples of a sequence follow each other, so that the longest still come first in a step.
    """
    return rows.expand(samples, *rows.shape[1:]).transpose(0, 1).flatten(0, 1)


def as_samples(rows: Tensor, samples: int) -> Tensor:
    """Return the inverse of `as_sequences`, (K, N, ·)."""
    return rows.unflatten(0, (-1, samples)).transpose(0, 1)
