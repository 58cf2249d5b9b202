"""Polyphonic music as 88-key piano rolls: column 0 is MIDI pitch 21 (A0), column 87 is 108 (C8)."""

import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from repro.errors import ConfigError, DataError

LOWEST, KEYS = 21, 88
STREAMS = 16  # into which Fraccaro et al. cut a part; the segments of one of their batches
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
            part: [np.asarray(roll, dtype=np.uint8) for roll in content[f"{part}data"].ravel()]
            for part in ("train", "valid", "test")
        }
    except Exception as error:  # scipy raises many kinds for a damaged file
        raise DataError(f"{path} holds no piano rolls ({type(error).__name__}: {error}).") from None
    if any(roll.shape[1:] != (KEYS,) for rolls in parts.values() for roll in rolls):
        raise DataError(f"{path}: a roll has not {KEYS} columns.")
    return parts


def read_srnn(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the rolls (T, 88) in the arrays that Fraccaro et al. (2016) published with their code.

    For train and valid the authors joined all songs end to end, cut the result into 16 streams,
    and every stream into segments of 100 steps: segment i + 16 begins where segment i ends. Where
    a song ends is not recorded, so the songs cannot be restored. They train on one segment of each
    stream at a time and carry the state to the next; they validate each segment from an empty
    state. Here a sequence of valid is a segment. One of train is a segment too or, with
    `options["train"]` "streams", a stream, to be cut by the training setting `segment`. A sequence
    of test is a whole song: its first frame, which the authors only condition on, and the frames
    that they score.

    Raises:
        ConfigError: the option is neither "segments" nor "streams".
        DataError: the file is damaged or holds something else.
    """
    (path,) = files.values()
    if options["train"] not in ("segments", "streams"):
        raise ConfigError(
            f"option train: '{options['train']}' is neither 'segments' nor 'streams'; correct it "
            "in the data set's entry."
        )
    arrays, mask = _arrays(path)
    for part in ("train", "valid"):
        _check_segments(path, part, arrays[f"u_{part}"], arrays[f"x_{part}"])
    train = arrays["x_train"]
    streams = [np.concatenate(list(train[first::STREAMS])) for first in range(STREAMS)]
    return {
        "train": list(train) if options["train"] == "segments" else streams,
        "valid": list(arrays["x_valid"]),
        "test": _songs(path, arrays["u_test"], arrays["x_test"], mask),
    }


def _arrays(path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    # u and x of each part, (N, T, 88) as uint8 with 2 for what is neither 0 nor 1 (u_test has NaN
    # past the end of a song), and mask_test, (N, T).
    names = [f"{kind}_{part}" for part in ("train", "valid", "test") for kind in "ux"]
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: np.asarray(archive[name], dtype=np.float32) for name in names}
            mask = np.asarray(archive["mask_test"], dtype=np.float32)
    except Exception as error:  # numpy and zipfile raise many kinds for a damaged file
        raise DataError(f"{path} holds no piano rolls ({type(error).__name__}: {error}).") from None
    for name, array in found.items():
        if array.ndim != 3 or array.shape[2] != KEYS:
            raise DataError(f"{path}: {name} does not have the shape (N, T, {KEYS}).")
    bits = {
        name: np.where(array == 1, 1, np.where(array == 0, 0, 2)).astype(np.uint8)
        for name, array in found.items()
    }
    return bits, mask


def _check_segments(path: Path, part: str, u: np.ndarray, x: np.ndarray) -> None:
    # u is x one step earlier, within a segment and from a segment to the next of its run.
    if not (
        u.shape == x.shape
        and x.size
        and len(x) % STREAMS == 0
        and max(u.max(), x.max()) < 2
        and np.array_equal(u[:, 1:], x[:, :-1])
        and np.array_equal(u[STREAMS:, 0], x[:-STREAMS, -1])
    ):
        raise DataError(
            f"{path}: u_{part} and x_{part} are not successive segments of {STREAMS} streams."
        )


def _songs(path: Path, u: np.ndarray, x: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    # A song's mask is 1 up to its end; as far as that, u is x one step earlier.
    songs = []
    steps = np.arange(x.shape[1])
    if u.shape != x.shape or mask.shape != x.shape[:2] or not len(x):
        raise DataError(f"{path}: u_test, x_test and mask_test differ in songs or steps.")
    for number, (before, scored, inside) in enumerate(zip(u, x, mask, strict=True)):
        length = int((inside == 1).sum())
        song = np.concatenate([before[:1], scored[:length]])
        if not (
            length
            and np.array_equal(inside, steps < length)
            and np.array_equal(before[:length], song[:-1])
            and song.max() < 2
        ):
            raise DataError(
                f"{path}: u_test is not x_test one step earlier, or no roll, in song {number}."
            )
        songs.append(song)
    return songs


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
