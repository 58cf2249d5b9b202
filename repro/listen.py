"""What `repro sample` drew, as files that one can play."""

from pathlib import Path

import numpy as np

from repro.errors import DataError
from repro.files import replacing
from repro.midi import write_midi


def write_wav(samples: np.ndarray, path: Path, sample_rate_hz: int) -> None:
    """Write a waveform (N,) in 16-bit units; what lies outside of them is clipped."""
    import soundfile  # only this and preparing waveforms need it

    limits = np.iinfo(np.int16)
    clipped = np.clip(np.rint(samples), limits.min, limits.max).astype(np.int16)
    with replacing(path) as partial:
        soundfile.write(partial, clipped, sample_rate_hz, subtype="PCM_16", format="WAV")


def write_all(samples: Path, folder: Path) -> list[Path]:
    """Write every sequence of a samples.npz, rolls as MIDI and waveforms as WAV; return the paths.

    Raises:
        DataError: the file is missing, or its data set makes no sound.
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
