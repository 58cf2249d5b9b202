"""Padded time-major batches, in an order that a seed decides."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


class Batch(NamedTuple):
    """Some sequences side by side: x (T, B, D), zero past each end; lengths (B,); ids (B,)."""

    x: Tensor
    lengths: Tensor
    ids: list[int]


def to_tensors(sequences: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Return the sequences as float32 tensors on `device`, (T, D) each."""
    return [torch.from_numpy(np.array(s, dtype=np.float32)).to(device) for s in sequences]


def collate(sequences: list[Tensor], ids: list[int]) -> Batch:
    """Return the batch of the sequences with these ids."""
    chosen = [sequences[i] for i in ids]
    lengths = torch.tensor([len(s) for s in chosen], device=chosen[0].device)
    return Batch(pad_sequence(chosen), lengths, ids)


def by_length(sequences: list[Tensor]) -> list[int]:
    """Return all ids, shortest sequence first."""
    return sorted(range(len(sequences)), key=lambda i: len(sequences[i]))


def groups(
    sequences: list[Tensor],
    batch_size: int,
    order: str,
    generator: torch.Generator,
    count: int | None = None,
) -> list[list[int]]:
    """Return the ids of an epoch's batches, every sequence once, in an order `generator` draws.

    Args:
        batch_size: sequences in a batch; the last may have fewer.
        order: "shuffled" for batches at random; "similar_lengths" for batches of neighbours in
            length (ties and the order of batches at random), which saves padding.
        count: how many batches there shall be, of nearly equal size, whatever `batch_size` is;
            fewer where there are fewer sequences.
    """
    ids = torch.randperm(len(sequences), generator=generator).tolist()
    if order == "similar_lengths":
        ids.sort(key=lambda i: len(sequences[i]))
    if count is None:
        found = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    else:
        found = [part.tolist() for part in np.array_split(ids, min(count, len(ids)))]
    if order == "similar_lengths":
        found = [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]
    return found


def random_segments(
    sequences: list[Tensor], steps: int, generator: torch.Generator
) -> list[Tensor]:
    """Return the sequences (T, D) cut into segments of `steps` steps, views of them.

    The first segment of each ends after a number of steps, 1 to `steps`, that `generator` draws;
    the last has what remains. A sequence that is no longer than a segment is not cut.
    """
    ends = torch.randint(1, steps + 1, (len(sequences),), generator=generator).tolist()
    cut = []
    for sequence, end in zip(sequences, ends, strict=True):
        if len(sequence) <= steps:
            cut.append(sequence)
        else:
            cut += [sequence[:end], *sequence[end:].split(steps)]
    return cut


def segments(batch: Batch, steps: int | None) -> Iterator[tuple[Batch, Tensor]]:
    """Yield a batch cut in time, for truncated backpropagation.

    Args:
        steps: of a segment; None for the whole batch at once.
    Yields:
        the sequences that reach into the segment, and where they stood among those of the segment
        before (of the batch, for the first).
    """
    remaining = batch
    places = torch.arange(len(batch.ids), device=batch.x.device)
    while True:
        end = len(remaining.x) if steps is None else steps
        here = remaining.x[:end]
        yield Batch(here, remaining.lengths.clamp(max=len(here)), remaining.ids), places
        places = (remaining.lengths > len(here)).nonzero().flatten()
        if not len(places):
            return
        ids = [remaining.ids[i] for i in places.tolist()]
        left = remaining.lengths[places] - len(here)
        remaining = Batch(remaining.x[len(here) :, places], left, ids)
