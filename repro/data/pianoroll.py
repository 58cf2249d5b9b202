"""Polyphonic music as 88-key piano rolls: column 0 is MIDI pitch 21 (A0), column 87 is 108 (C8)."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from repro.data.parts import PARTS
from repro.errors import DataError

LOWEST, KEYS = 21, 88
CHORALES = "music21/corpus/bach/bwv"


def read_mat(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the rolls (T, 88) of a .mat file with cells traindata, validdata and testdata.

    Raises:
        DataError: the file is damaged or holds something else.
    """
    (path,) = files.values()
    try:
        content = loadmat(path)
        parts = {
            part: [np.asarray(roll) for roll in content[f"{part}data"].ravel()] for part in PARTS
        }
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"{path} holds no piano rolls ({type(error).__name__}: {error}).") from None
    if any(roll.shape[1:] != (KEYS,) for rolls in parts.values() for roll in rolls):
        raise DataError(f"{path}: a roll does not have {KEYS} columns.")
    return parts


def read_bach_chorales(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the four-part chorales in music21's corpus as rolls (T, 88), split at random.

    A piece counts as one if it has exactly four parts; column t of its roll holds the notes that
    sound at quarter note t. A roll met before (the corpus holds some chorales twice) is dropped,
    so that no test piece is also in the training part. The rest is split by pieces with
    `options["split_seed"]`.
    """
    (wheel,) = files.values()
    rolls, seen = [], set()
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if n.startswith(CHORALES) and n.endswith(".mxl")]
        for name in sorted(names):
            roll = _quarter_note_roll(archive.read(name))
            if roll is not None and roll.tobytes() not in seen:
                seen.add(roll.tobytes())
                rolls.append(roll)
    order = np.random.default_rng(options["split_seed"]).permutation(len(rolls))
    num_test = round(options["test_fraction"] * len(rolls))
    num_valid = round(options["valid_fraction"] * len(rolls))
    chosen = {
        "train": order[num_test + num_valid :],
        "valid": order[num_test : num_test + num_valid],
        "test": order[:num_test],
    }
    return {part: [rolls[i] for i in sorted(ids)] for part, ids in chosen.items()}


def _quarter_note_roll(mxl: bytes) -> np.ndarray | None:
    from music21 import converter, stream  # heavy, and only these chorales need it

    with zipfile.ZipFile(io.BytesIO(mxl)) as archive:
        (score_name,) = [
            n for n in archive.namelist() if n.endswith("xml") and not n.startswith("META-INF")
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # music21 remarks on engraving, not on notes
            score = converter.parse(archive.read(score_name), format="musicxml")
    if not isinstance(score, stream.Score) or len(score.parts) != 4:
        return None
    roll = np.zeros((int(np.ceil(float(score.highestTime))), KEYS), dtype=np.uint8)
    for note in score.flatten().notes:
        start = float(note.offset)
        end = start + float(note.duration.quarterLength)
        for pitch in note.pitches:
            roll[int(np.ceil(start)) : int(np.ceil(end)), pitch.midi - LOWEST] = 1
    return roll
