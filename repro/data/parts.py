"""The sequences of a part: a list of arrays, or an object that reads one when it is asked for."""

import mmap
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

import numpy as np

PARTS = ("train", "valid", "test")


class NamedSequences:
    """Sequences that are read when they are asked for, (T, D) each.

    For readers whose corpus may be larger than memory, or whose sequences have names by which an
    error can be traced to its source.
    """

    def __init__(self, names: Sequence[str], read: Callable[[int], np.ndarray]) -> None:
        self.names, self._read = list(names), read

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._read(range(len(self))[index])

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._read, range(len(self)))


Part = list[np.ndarray] | NamedSequences


def name_of(part: Part, index: int) -> str:
    """Return what error messages call a sequence: its index, and its name if it has one."""
    return f"sequence {index}" + (
        f" ({part.names[index]})" if isinstance(part, NamedSequences) else ""
    )


class StoredSequences:
    """Sequences in a file that is mapped into memory, (T, D) each, copied when asked for.

    Pages are released after each copy, so that memory does not grow with the data read.
    """

    def __init__(
        self, file: BinaryIO, begin: int, dtype: str, dim: int, lengths: list[int]
    ) -> None:
        self.lengths, self.dim, self._dtype = lengths, dim, np.dtype(dtype)
        self._ends = begin + np.cumsum([0, *lengths]) * dim * self._dtype.itemsize
        self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> np.ndarray:
        index = range(len(self))[index]
        first, end = self._ends[index : index + 2].tolist()
        values = np.frombuffer(self._map[first:end], dtype=self._dtype)
        if sys.platform != "win32":  # Windows has no madvise, and releases pages by itself
            self._map.madvise(mmap.MADV_DONTNEED)  # all: the kernel also maps neighbouring pages
        return values.reshape(-1, self.dim)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))
