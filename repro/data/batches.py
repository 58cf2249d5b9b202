"""Padded time-major batches, in an order that a seed decides."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from repro.data.parts import Stored

HELD_BYTES = 2**26  # a part of fewer, in float32, is held on the device; of a larger one, a batch


class Batch(NamedTuple):
    """Some sequences side by side: x (T, B, D), zero past each end; lengths (B,); ids (B,)."""

    x: Tensor
    lengths: Tensor
    ids: list[int]


class Tensors:
    """Sequences as float32 tensors on a device, (T, D) each, made when they are asked for."""

    def __init__(self, stored: Stored, device: torch.device) -> None:
        self.lengths, self._stored, self._device = stored.lengths, stored, device

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        return _tensor(self._stored[index], self._device)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))


def _tensor(sequence: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(sequence, dtype=np.float32)).to(device)


def to_tensors(
    sequences: Stored | Sequence[np.ndarray], device: torch.device
) -> Tensors | list[Tensor]:
    """Return the sequences as float32 tensors on `device`, (T, D) each.

    Those of a prepared file that are more than HELD_BYTES stay there until they are asked for.
    """
    if isinstance(sequences, Stored) and 4 * sequences.dim * sum(sequences.lengths) > HELD_BYTES:
        return Tensors(sequences, device)
    return [_tensor(sequence, device) for sequence in sequences]


def lengths_of(sequences: Tensors | list[Tensor]) -> list[int]:
    """Return the number of steps of each sequence."""
    if isinstance(sequences, Tensors):
        return sequences.lengths
    return [len(sequence) for sequence in sequences]


def collate(sequences: Tensors | list[Tensor], ids: list[int]) -> Batch:
    """Return the batch of the sequences with these ids."""
    chosen = [sequences[i] for i in ids]
    lengths = torch.tensor([len(s) for s in chosen], device=chosen[0].device)
    return Batch(pad_sequence(chosen), lengths, ids)


def by_length(sequences: Tensors | list[Tensor]) -> list[int]:
    """Return all ids, shortest sequence first."""
    return sorted(range(len(sequences)), key=lengths_of(sequences).__getitem__)


def epoch(
    sequences: Tensors | list[Tensor], batch_size: int, order: str, generator: torch.Generator
) -> Iterator[Batch]:
    """Yield every sequence once, in batches whose order `generator` draws.

    Args:
        order: "shuffled" for batches at random; "similar_lengths" for batches of neighbours in
            length (ties and the order of batches at random), which saves padding.
    """
    ids = torch.randperm(len(sequences), generator=generator).tolist()
    if order == "similar_lengths":
        ids.sort(key=lengths_of(sequences).__getitem__)
    groups = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    if order == "similar_lengths":
        groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
    for group in groups:
        yield collate(sequences, group)


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
