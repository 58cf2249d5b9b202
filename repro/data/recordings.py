"""Reads sound files as waveforms, and checks that they are complete and in the expected format."""

import io
import math
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from repro.errors import DataError
from repro.runtime.extras import require
from repro.runtime.files import visible_files

FULL_SCALE = 32768.0  # of 16 bits, the units in which all waveforms are given
MAX_TIMES_FULL_SCALE = (
    16.0  # times full scale; a floating-point file that is louder is in other units
)
SUFFIXES = (".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp3", ".nist", ".oga", ".ogg",
            ".opus", ".rf64", ".snd", ".sph", ".w64", ".wav")  # fmt: skip
SPHERE_HEADER = 2**16  # bytes; real headers have 1024 or a few more
OPEN_ENDED = (-1, 0x7FFFF000, 0xFFFFFFFF)  # sizes written by programs that cannot seek back


def recordings_in(folder: Path) -> list[Path]:
    """Return the sound files anywhere below a folder, sorted, without hidden ones."""
    return [path for path in visible_files(folder) if path.suffix.lower() in SUFFIXES]


def check_recording(path: Path, options: dict) -> None:
    """Refuse a file by what its header says, before anything is decoded.

    Raises:
        DataError: it is not a sound file, is cut short, has another sample rate or several
            channels, or is shorter than a frame.
    """
    require("soundfile")
    import soundfile  # only preparing waveforms needs it

    try:
        missing = missing_bytes(path)
        with soundfile.SoundFile(path) as sound:
            _check_form(sound, options, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from None
    except (soundfile.SoundFileError, ValueError) as error:
        raise DataError(f"{path} cannot be read as audio ({error}).") from None
    if missing:
        raise DataError(
            f"{path} is cut short: {missing} of the bytes that its header announces are missing. "
            "Copy it again, or remove it."
        )


def frames_of(recording: Path | io.BytesIO, options: dict, name: str) -> np.ndarray:
    """Return the frames of a waveform, (T, options["frame"]), in 16-bit units, in float32.

    An incomplete frame at the end is left out: padding is not data.

    Args:
        name: what error messages call the recording.
    Raises:
        DataError: as `check_recording`; or the sound is constant, is not finite, or is louder than
            its format allows.
    """
    require("soundfile")
    import soundfile

    try:
        with soundfile.SoundFile(recording) as sound:
            _check_form(sound, options, name)
            samples = sound.read(sound.frames, dtype="float32")
            missing = sound.frames - len(samples)
    except (soundfile.SoundFileError, ValueError, OSError) as error:
        raise DataError(f"{name} cannot be read as audio ({error}).") from None
    if missing:
        raise DataError(f"{name} is cut short: its last {missing} samples are missing.")
    peak = np.abs(samples).max()
    if not peak <= MAX_TIMES_FULL_SCALE:
        raise DataError(
            f"{name} has samples up to {peak}, where a floating-point recording goes from -1 to 1: "
            "divide them by their full scale (32768 for 16 bits), or remove the file."
        )
    if samples.min() == samples.max():
        raise DataError(f"{name} is silent: all its samples are {samples[0]}. Remove it.")
    size = options["frame"]
    return samples[: len(samples) // size * size].reshape(-1, size) * np.float32(FULL_SCALE)


def _check_form(sound: Any, options: dict, name: str) -> None:
    if sound.channels != 1 or sound.samplerate != options["sample_rate_hz"]:
        raise DataError(
            f"{name} has {sound.samplerate} Hz and {sound.channels} channel(s); "
            f"expected {options['sample_rate_hz']} Hz, mono. Convert the corpus first."
        )
    if sound.frames < options["frame"]:
        raise DataError(f"{name} is shorter than one frame of {options['frame']} samples.")


def missing_bytes(path: Path) -> int:
    """Return how many of the sample bytes that a file's header announces are missing.

    NIST SPHERE, RIFF (WAV, RF64), AIFF, AU, CAF and Wave64 give the size in their headers; of a
    cut file libsndfile reads what is there and reports nothing. It refuses cut FLAC and Ogg files
    itself. Zero if the header leaves the size open.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        match file.read(16):
            case head if head.startswith(b"NIST_1A"):
                end = _sphere_end(head + file.read(SPHERE_HEADER))
            case head if head[:4] == b".snd" and len(head) == 16:
                begin, length = struct.unpack(">II", head[4:12])
                end = 0 if length in OPEN_ENDED else begin + length
            case head if head[:4] in _CHUNKS:
                end = _chunk_end(file, size, *_CHUNKS[head[:4]])
            case _:
                end = 0
    return max(0, end - size)


def _sphere_end(header: bytes) -> int:
    begin = re.match(rb"NIST_1A\s+(\d+)", header)
    found = dict(
        re.findall(rb"^(\w+) -i (\d+)\s*$", header.partition(b"end_head")[0], re.MULTILINE)
    )
    if begin is None or b"sample_count" not in found:
        return 0
    names = (b"sample_count", b"sample_n_bytes", b"channel_count")
    return int(begin[1]) + math.prod(int(found.get(name, 1)) for name in names)


# By a file's first bytes: where chunks begin, the format of a chunk's header, the name of the chunk
# with the samples, how many header bytes its size includes, and the multiple it is padded to.
_CHUNKS = {
    b"RIFF": (12, "<4sI", b"data", 0, 2),
    b"RIFX": (12, ">4sI", b"data", 0, 2),
    b"RF64": (12, "<4sI", b"data", 0, 2),
    b"FORM": (12, ">4sI", b"SSND", 0, 2),
    b"riff": (40, "<16sQ", b"data", 24, 8),
    b"caff": (8, ">4sq", b"data", 0, 1),
}


def _chunk_end(
    file: io.BufferedReader, size: int, at: int, form: str, wanted: bytes, counted: int, align: int
) -> int:
    long_size = 0  # of RF64, whose 32-bit size fields are too small for it
    while at < size:
        file.seek(at)
        head = file.read(struct.calcsize(form))
        if len(head) < struct.calcsize(form):
            return 0
        name, length = struct.unpack(form, head)
        if name == b"ds64":
            long_size = int.from_bytes(file.read(16)[8:], "little")
        if name[:4] == wanted:
            length = long_size if long_size and length == 0xFFFFFFFF else length
            open_ended = length in OPEN_ENDED and not long_size
            return 0 if open_ended else at + len(head) - counted + length
        at += max(len(head), len(head) - counted + length + -length % align)
    return 0
