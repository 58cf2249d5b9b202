"""Sequences that are already arrays: one .npz file per part."""

from pathlib import Path

import numpy as np

from repro.data.parts import PARTS, NamedSequences, Part
from repro.errors import DataError
from repro.runtime.files import readable

SAVING = "`np.savez(path, *list_of_arrays)`"


def read_npz(files: dict[str, Path], options: dict) -> dict[str, Part]:
    """Return the sequences in train.npz, valid.npz and test.npz of a folder.

    Each file has one (T, D) array per sequence, under any names; sequences keep the order of the
    file. Nothing is unpickled.

    Raises:
        DataError: a file is missing or damaged, has no arrays, or holds Python objects.
    """
    (folder,) = files.values()
    return {part: _read(folder / f"{part}.npz") for part in PARTS}


def _read(path: Path) -> NamedSequences:
    if not readable(path):
        raise DataError(f"{path} is missing: a folder needs {', '.join(PARTS)}.npz.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except ValueError as error:
        if "Object arrays" not in str(error):
            raise DataError(f"{path} cannot be read ({error}).") from None
        raise DataError(
            f"{path} holds Python objects, such as a list of arrays saved as one: save each "
            f"sequence as a separate array, {SAVING}."
        ) from None
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} cannot be read ({type(error).__name__}: {error}).") from None
    return NamedSequences(list(arrays), list(arrays.values()).__getitem__)
