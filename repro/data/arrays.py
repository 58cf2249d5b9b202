"""Sequences that are already arrays: one .npz file a part."""

from pathlib import Path

import numpy as np

from repro.errors import DataError

PARTS = ("train", "valid", "test")


def read_npz(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the sequences in train.npz, valid.npz and test.npz of a folder.

    Each file has one (T, D) array a sequence, under any names; sequences keep the order of the
    file. Nothing is unpickled.

    Raises:
        DataError: a file is missing or damaged, or an array is not (T, D) with one D for all.
    """
    (folder,) = files.values()
    parts = {part: _read(folder / f"{part}.npz") for part in PARTS}
    widths = {sequence.shape[1] for sequences in parts.values() for sequence in sequences}
    if len(widths) != 1:
        raise DataError(f"{folder}: steps have different sizes {sorted(widths)}; all need one D.")
    return parts


def _read(path: Path) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = [np.asarray(archive[name], dtype=np.float64) for name in archive.files]
    except FileNotFoundError:
        raise DataError(f"{path} is missing: a folder needs {', '.join(PARTS)}.npz.") from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).") from None
    if not arrays or any(array.ndim != 2 for array in arrays):
        raise DataError(f"{path}: every array must be one sequence, (T, D).")
    return arrays
