"""Padded time-major batches, in an order that the seed decides."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from repro.data.parts import StoredSequences
from repro.errors import require_known

# A part of at most this size in float32 is kept on the device; of a larger one, a batch at a time.
MAX_BYTES_ON_DEVICE = 2**26
ORDERS = ("shuffled", "similar_lengths")


class Batch(NamedTuple):
    """Some sequences side by side: x (T, B, D), zero past each end; lengths (B,); ids (B,)."""

    x: Tensor
    lengths: Tensor
    ids: list[int]


class Tensors:
    """Sequences as float32 tensors on a device, (T, D) each, loaded when they are asked for."""

    def __init__(self, stored: StoredSequences, device: torch.device) -> None:
        self.lengths, self._stored, self._device = stored.lengths, stored, device

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Tensor:
        return _tensor(self._stored[index], self._device)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self)))


class Segments:
    """Segments of sequences, (T, D) each, cut out when they are asked for.

    Args:
        sequences: what is cut.
        spans: index of the sequence, first step and number of steps of each segment.
    """

    def __init__(
        self, sequences: Tensors | list[Tensor], spans: list[tuple[int, int, int]]
    ) -> None:
        self._sequences, self._spans = sequences, spans
        self.lengths = [steps for _, _, steps in spans]

    def __len__(self) -> int:
        return len(self._spans)

    def __getitem__(self, index: int) -> Tensor:
        which, first, steps = self._spans[index]
        return self._sequences[which][first : first + steps]


Sequences = Tensors | Segments | list[Tensor]


def _tensor(sequence: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(sequence, dtype=np.float32)).to(device)


def to_tensors(
    sequences: StoredSequences | Sequence[np.ndarray], device: torch.device
) -> Tensors | list[Tensor]:
    """Return the sequences as float32 tensors on `device`, (T, D) each.

    A prepared part of more than HELD_BYTES stays in its file, and each sequence is read when it is
    asked for.
    """
    if (
        isinstance(sequences, StoredSequences)
        and 4 * sequences.dim * sum(sequences.lengths) > MAX_BYTES_ON_DEVICE
    ):
        return Tensors(sequences, device)
    return [_tensor(sequence, device) for sequence in sequences]


def lengths_of(sequences: Sequences) -> list[int]:
    """Return the number of steps of each sequence."""
    if isinstance(sequences, list):
        return [len(sequence) for sequence in sequences]
    return sequences.lengths


def collate(sequences: Sequences, ids: list[int]) -> Batch:
    """Return the batch of the sequences with these ids."""
    chosen = [sequences[i] for i in ids]
    lengths = torch.tensor([len(s) for s in chosen], device=chosen[0].device)
    return Batch(pad_sequence(chosen), lengths, ids)


def real_steps(lengths: Tensor, steps: int) -> Tensor:
    """Return which of `steps` steps each sequence has, (T, B): True before its end, then False."""
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths


def by_length(sequences: Sequences) -> list[int]:
    """Return all ids, shortest sequence first."""
    return sorted(range(len(sequences)), key=lengths_of(sequences).__getitem__)


def groups(
    sequences: Sequences,
    batch_size: int,
    order: str,
    generator: torch.Generator,
    count: int | None = None,
) -> list[list[int]]:
    """Return the ids of an epoch's batches, every sequence once, in an order `generator` draws.

    Args:
        batch_size: sequences per batch; the last batch may have fewer.
        order: "shuffled" for random batches; "similar_lengths" for batches of sequences of similar
            length (ties and the order of batches are random), which saves padding.
        count: the number of batches, of nearly equal size, instead of `batch_size`; fewer if there
            are fewer sequences.
    Raises:
        ConfigError: there is no order with this name.
    """
    require_known("batch_order", order, ORDERS)
    ids = torch.randperm(len(sequences), generator=generator).tolist()
    if order == "similar_lengths":
        ids.sort(key=lengths_of(sequences).__getitem__)
    if count is None:
        found = [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    else:
        found = [part.tolist() for part in np.array_split(ids, min(count, len(ids)))]
    if order == "similar_lengths":
        found = [found[i] for i in torch.randperm(len(found), generator=generator).tolist()]
    return found


def random_segments(
    sequences: Tensors | list[Tensor], steps: int, generator: torch.Generator
) -> Segments:
    """Return the sequences (T, D) cut into segments of `steps` steps.

    The first segment of each sequence has a random number of steps, 1 to `steps`, drawn from
    `generator`; the last has what remains. A sequence no longer than a segment is not cut.
    """
    ends = torch.randint(1, steps + 1, (len(sequences),), generator=generator).tolist()
    spans = []
    for i, (length, end) in enumerate(zip(lengths_of(sequences), ends, strict=True)):
        starts = [0, *range(end, length, steps)] if length > steps else [0]
        stops = [*starts[1:], length]
        spans += [(i, a, b - a) for a, b in zip(starts, stops, strict=True)]
    return Segments(sequences, spans)


def segments(batch: Batch, steps: int | None) -> Iterator[tuple[Batch, Tensor]]:
    """Yield a batch cut in time, for truncated backpropagation.

    Args:
        steps: length of a segment; None for the whole batch at once.
    Yields:
        the sequences that reach into the segment, and their indices among those of the segment
        before (for the first segment, in the batch).
    """
    remaining = batch
    continuing = torch.arange(len(batch.ids), device=batch.x.device)
    while True:
        end = len(remaining.x) if steps is None else steps
        segment = remaining.x[:end]
        lengths = remaining.lengths.clamp(max=len(segment))
        yield Batch(segment, lengths, remaining.ids), continuing
        continuing = (remaining.lengths > len(segment)).nonzero().flatten()
        if not len(continuing):
            return
        ids = [remaining.ids[i] for i in continuing.tolist()]
        remaining_lengths = remaining.lengths[continuing] - len(segment)
        remaining = Batch(remaining.x[len(segment) :, continuing], remaining_lengths, ids)
