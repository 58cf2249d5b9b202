"""Writes the sequences that `repro sample` drew as audio files."""

import io
from pathlib import Path

import numpy as np

from repro.errors import DataError
from repro.evaluation.midi import LOWEST_PITCH, write_midi
from repro.runtime.extras import require
from repro.runtime.files import replacing

KEYS, PLAYED_HZ, STEP_SECONDS = 88, 16000, 0.3


def write_wav(samples: np.ndarray, path: Path, sample_rate_hz: int) -> None:
    """Write a waveform (N,) in 16-bit units; values outside their range are clipped."""
    require("soundfile")
    import soundfile  # only this and preparing waveforms need it

    limits = np.iinfo(np.int16)
    clipped = np.clip(np.rint(samples), limits.min, limits.max).astype(np.int16)
    with replacing(path) as partial:
        soundfile.write(partial, clipped, sample_rate_hz, subtype="PCM_16", format="WAV")


def as_mp3(samples: Path, kind: str) -> bytes:
    """Return the first sequence of a samples.npz as MP3, for a page; empty if it is not a sound.

    Rolls are played with decaying sines, `STEP_SECONDS` per step.

    Args:
        samples: what `repro sample` wrote. kind: "data" or "samples".
    """
    require("soundfile")
    import soundfile

    with np.load(samples) as drawn:
        sequence, rate = drawn[kind][0], int(drawn["sample_rate_hz"])
    if rate:
        wave = sequence.ravel() / max(1.0, np.abs(sequence).max())
    elif sequence.shape[1] == KEYS:
        rate, wave = PLAYED_HZ, play(sequence)
    else:
        return b""
    buffer = io.BytesIO()
    soundfile.write(buffer, wave, rate, format="MP3")
    return buffer.getvalue()


def play(roll: np.ndarray) -> np.ndarray:
    """Return the waveform of a roll (T, 88) at PLAYED_HZ; a held note sounds again at each step."""
    when = np.arange(int(STEP_SECONDS * PLAYED_HZ)) / PLAYED_HZ
    pitches = 440.0 * 2.0 ** ((np.arange(KEYS) + LOWEST_PITCH - 69) / 12.0)  # equal temperament
    tones = np.sin(2 * np.pi * pitches[:, None] * when) * np.exp(-4.0 * when)  # (88, N)
    wave = (roll @ tones).ravel()
    return 0.8 * wave / max(1.0, np.abs(wave).max())


def write_all(samples: Path, folder: Path) -> list[Path]:
    """Write every sequence of a samples.npz, rolls as MIDI and waveforms as WAV; return the paths.

    Raises:
        DataError: the file is missing, or its data are not sound.
    """
    if not samples.exists():
        raise DataError(f"{samples} is missing: run `repro sample` first.")
    paths = []
    with np.load(samples) as drawn:
        rate = int(drawn["sample_rate_hz"])
        for kind in ("data", "samples"):
            for i, sequence in enumerate(drawn[kind]):
                paths.append(folder / f"{kind}-{i}.{'wav' if rate else 'mid'}")
                if rate:
                    write_wav(sequence.ravel(), paths[-1], rate)
                else:
                    write_midi(sequence, paths[-1])
    return paths
