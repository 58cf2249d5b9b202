"""The valid steps of a padded batch, row by row, so that nothing is computed on padding."""

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """Where the rows come from: step by step, in each step the longest sequences first.

    A step's rows are the first rows of the step before, less the sequences that have ended.

    Attributes:
        places: of each of the N rows among the T · B steps of the padded batch, (N,).
        sizes: rows of each step; they never grow.
        order: the sequences, longest first, (B,).
        shape: (T, B).
    """

    places: Tensor
    sizes: list[int]
    order: Tensor
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """Return the rows (K, N, ·) of x (T, K, B, ·)."""
        return x.movedim(1, 0).flatten(1, 2).index_select(1, self.places)

    def unpack(self, rows: Tensor) -> Tensor:
        """Return rows (K, N, ...) as (T, K, B, ...), zeros past each sequence's end."""
        padded = rows.new_zeros(len(rows), self.shape[0] * self.shape[1], *rows.shape[2:])
        return padded.index_copy(1, self.places, rows).unflatten(1, self.shape).movedim(0, 1)


def packing(lengths: Tensor, steps: int, backward: bool = False) -> Packing:
    """Return the packing of sequences of these lengths (B,), padded to `steps`.

    Args:
        backward: rows run from each sequence's own last step to its first.
    """
    order = lengths.argsort(descending=True, stable=True)
    longest_first = lengths[order]
    step = torch.arange(steps, device=lengths.device).unsqueeze(1)  # (T, 1)
    inside = step < longest_first  # (T, B)
    source = longest_first - 1 - step if backward else step
    index = (source * len(lengths) + order)[inside]
    sizes = [size for size in inside.sum(1).tolist() if size]
    return Packing(index, sizes, order, (steps, len(lengths)))


def last_rows(rows: Tensor, sizes: list[int]) -> Tensor:
    """Return each sequence's last of rows (N, ·), (B, ·), longest sequence first."""
    steps = zip(rows.split(sizes), [*sizes[1:], 0], strict=True)
    return torch.cat([step[going_on:] for step, going_on in steps][::-1])


def before(rows: Tensor, start: Tensor, sizes: list[int]) -> Tensor:
    """Return what rows (N, ·) were one step before, and at the first step start (B, ·)."""
    steps = zip(rows.split(sizes)[:-1], sizes[1:], strict=True)
    return torch.cat([start[: sizes[0]], *(step[:going_on] for step, going_on in steps)])
