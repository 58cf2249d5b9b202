"""Polyphonic music as 88-key piano rolls: column 0 is MIDI pitch 21 (A0), column 87 is 108 (C8)."""

import io
import math
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from repro.data.parts import PARTS, NamedSequences, Part
from repro.errors import ConfigError, DataError
from repro.runtime.extras import require
from repro.runtime.files import visible_files

LOWEST_PITCH, KEYS = 21, 88
STREAMS = 16  # into which Fraccaro et al. cut a part; their batches have one segment of each
CHORALES = "music21/corpus/bach/bwv"
DRUM_CHANNEL = 9  # the channel whose numbers are instruments, not pitches
MAX_STEPS = 1_000_000  # steps; a file that lasts longer has a wrong time in it


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
        raise DataError(
            f"{path} does not hold piano rolls ({type(error).__name__}: {error})."
        ) from None
    if any(roll.shape[1:] != (KEYS,) for rolls in parts.values() for roll in rolls):
        raise DataError(f"{path}: a roll does not have {KEYS} columns.")
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
        raise DataError(
            f"{path} does not hold piano rolls ({type(error).__name__}: {error})."
        ) from None
    for name, array in found.items():
        if array.ndim != 3 or array.shape[2] != KEYS:
            raise DataError(f"{path}: {name} does not have the shape (N, T, {KEYS}).")
    bits = {
        name: np.where(array == 1, 1, np.where(array == 0, 0, 2)).astype(np.uint8)
        for name, array in found.items()
    }
    return bits, mask


def _check_segments(path: Path, part: str, u: np.ndarray, x: np.ndarray) -> None:
    # u is x one step earlier, within a segment and from a segment to the next of its stream.
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
    # A song's mask is 1 up to its end; up to there, u is x one step earlier.
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
                f"{path}: song {number} of the test part is not a roll whose u_test is x_test one "
                "step earlier."
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
    require("music21")
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
            roll[int(np.ceil(start)) : int(np.ceil(end)), pitch.midi - LOWEST_PITCH] = 1
    return roll


def read_midi_folder(files: dict[str, Path], options: dict) -> dict[str, Part]:
    """Return the MIDI files below a folder as rolls (T, 88), one roll per file.

    A step lasts `options["step_seconds"]`, by the files' own tempos, or `options["step_beats"]`
    (quarter notes). A note begins at the nearest step and sounds for the nearest number of steps,
    at least one. Drums, velocities and pedals are left out, and so are notes beyond a piano's 88
    keys, whose number is printed. The parts are the folders train, valid and test, or are drawn
    by file: `valid_fraction` and `test_fraction` with `split_seed`.
    `options["left_out"]` names files to leave out, as paths from the folder.

    Raises:
        ConfigError: the options give no length of a step, or two lengths, or no split.
        DataError: a file is damaged or has no notes on the 88 keys; there are too few files.
    """
    (folder,) = files.values()
    if ("step_seconds" in options) == ("step_beats" in options):
        raise ConfigError(
            "options: a folder of MIDI files needs either step_seconds or step_beats."
        )
    rolls, empty, beyond_keys = {}, [], 0
    for path in visible_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.suffix.lower() in (".mid", ".midi") and name not in options.get("left_out", []):
            notes = _midi_notes(path, options)
            kept = [note for note in notes if 0 <= note[2] - LOWEST_PITCH < KEYS]
            beyond_keys += len(notes) - len(kept)
            rolls[name] = _roll(kept, path) if kept else np.zeros((0, KEYS))
            empty += [] if kept else [name]
    if empty:
        raise DataError(
            f"{folder}: {len(empty)} files have no notes on a piano's keys: {', '.join(empty[:5])}"
            f"{', …' * (len(empty) > 5)}. Remove them, or name them under `left_out`."
        )
    if beyond_keys:
        print(
            f"{folder}: {beyond_keys} notes beyond a piano's 88 keys are left out", file=sys.stderr
        )
    chosen = _split_files(list(rolls), folder, options)
    return {
        part: NamedSequences(names, [rolls[n] for n in names].__getitem__) for part, names in chosen
    }


def _split_files(names: list[str], folder: Path, options: dict) -> list[tuple[str, list[str]]]:
    given = {part: [n for n in names if n.split("/")[0].lower() == part] for part in PARTS}
    if all(given.values()) and sum(map(len, given.values())) == len(names):
        return list(given.items())
    if not {"valid_fraction", "test_fraction", "split_seed"} <= set(options):
        raise ConfigError(
            f"options: {folder} has no folders train, valid and test with all its MIDI files; give "
            "valid_fraction, test_fraction and split_seed."
        )
    counts = [max(1, round(options[f"{part}_fraction"] * len(names))) for part in ("valid", "test")]
    if sum(counts) >= len(names):
        raise DataError(f"{folder} has {len(names)} MIDI files, too few for three parts.")
    order = np.random.default_rng(options["split_seed"]).permutation(len(names)).tolist()
    ends = (counts[1], sum(counts))
    chosen = {
        "test": order[: ends[0]],
        "valid": order[ends[0] : ends[1]],
        "train": order[ends[1] :],
    }
    return [(part, [names[i] for i in sorted(chosen[part])]) for part in PARTS]


def _midi_notes(path: Path, options: dict) -> list[tuple[float, float, int]]:
    """Return the notes of a file: begin and end in steps, and the MIDI pitch."""
    require("mido")
    from mido import MidiFile

    try:
        midi = MidiFile(path)
        if midi.type == 2 or midi.ticks_per_beat < 1 or midi.ticks_per_beat > 0x7FFF:
            raise ValueError("its tracks share no common time, or its clock is not in beats")
        messages = list(midi) if "step_seconds" in options else list(midi.merged_track)
    except Exception as error:  # mido raises many kinds for a damaged file
        raise DataError(
            f"{path} cannot be read as MIDI ({type(error).__name__}: {error})."
        ) from None
    unit = options.get("step_seconds") or options["step_beats"] * midi.ticks_per_beat
    now, notes = 0.0, []
    note_starts: dict[tuple[int, int], list[float]] = {}
    for message in messages:
        now += message.time / unit
        if message.type not in ("note_on", "note_off") or message.channel == DRUM_CHANNEL:
            continue
        sounding = note_starts.setdefault((message.channel, message.note), [])
        if message.type == "note_on" and message.velocity:
            sounding.append(now)
        elif sounding:
            notes.append((sounding.pop(0), now, message.note))
    for (_, pitch), starts in note_starts.items():  # never released: they sound to the end
        notes += [(start, now, pitch) for start in starts]
    return notes


def _roll(notes: list[tuple[float, float, int]], path: Path) -> np.ndarray:
    if max(end for _, end, _ in notes) > MAX_STEPS:
        raise DataError(f"{path} lasts longer than {MAX_STEPS} steps: a time in it is wrong.")
    # Halves are rounded up, so that a note and the next one meet without a gap.
    spans = [(math.floor(start + 0.5), math.floor(end + 0.5), key) for start, end, key in notes]
    roll = np.zeros((max(max(end, start + 1) for start, end, _ in spans), KEYS), dtype=np.uint8)
    for start, end, pitch in spans:
        roll[start : max(end, start + 1), pitch - LOWEST_PITCH] = 1
    return roll
