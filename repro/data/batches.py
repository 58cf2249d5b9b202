"""Padded time-major batches, in an order that a seed decides."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from repro.data.parts import Stored
from repro.errors import require_known

HELD_BYTES = 2**26  # a part of fewer, in float32, is held on the device; of a larger one, a batch
ORDERS = ("shuffled", "similar_lengths")


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


class Segments:
    """Stretches of sequences, (T, D) each, cut out when they are asked for.

    Args:
        sequences: what is cut. places: sequence, first step and number of steps of each.
    """

    def __init__(
        self, sequences: Tensors | list[Tensor], places: list[tuple[int, int, int]]
    ) -> None:
        self._sequences, self._places = sequences, places
        self.lengths = [steps for _, _, steps in places]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Tensor:
        which, first, steps = self._places[index]
        return self._sequences[which][first : first + steps]


Sequences = Tensors | Segments | list[Tensor]


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
        batch_size: sequences in a batch; the last may have fewer.
        order: "shuffled" for batches at random; "similar_lengths" for batches of neighbours in
            length (ties and the order of batches at random), which saves padding.
        count: how many batches there shall be, of nearly equal size, whatever `batch_size` is;
            fewer where there are fewer sequences.
    Raises:
        ConfigError: there is no order of this name.
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

    The first segment of each ends after a number of steps, 1 to `steps`, that `generator` draws;
    the last has what remains. A sequence that is no longer than a segment is not cut.
    """
    ends = torch.randint(1, steps + 1, (len(sequences),), generator=generator).tolist()
    places = []
    for i, (length, end) in enumerate(zip(lengths_of(sequences), ends, strict=True)):
        starts = [0, *range(end, length, steps)] if length > steps else [0]
        stops = [*starts[1:], length]
        places += [(i, a, b - a) for a, b in zip(starts, stops, strict=True)]
    return Segments(sequences, places)


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
