"""Piano rolls as MIDI files."""

from pathlib import Path

import numpy as np

from repro.errors import DataError
from repro.runtime.extras import require
from repro.runtime.files import replacing

LOWEST_PITCH = 21  # MIDI pitch of column 0
TICKS_PER_STEP = 480  # a step is a quarter note in the chorales
VELOCITY = 80


def write_midi(roll: np.ndarray, path: Path, steps_per_minute: float = 100.0) -> None:
    """Write a roll (T, 88) of 0 and 1 for a piano; a note held over several steps sounds once.

    Raises:
        DataError: the array is not a roll of 88 keys.
    """
    require("mido")
    from mido import Message, MetaMessage, MidiFile, MidiTrack, bpm2tempo

    if roll.ndim != 2 or roll.shape[1] != 88:
        raise DataError(
            f"{path}: only 88-key rolls can be written as MIDI, not the shape {roll.shape}."
        )
    track = MidiTrack([MetaMessage("set_tempo", tempo=bpm2tempo(steps_per_minute))])
    silence = np.zeros((1, 88), dtype=int)
    changes = np.diff(np.concatenate([silence, roll.astype(int), silence]), axis=0)  # (T + 1, 88)
    last = 0
    for step, change in enumerate(changes):
        # Ends before beginnings, so that no key is pressed twice.
        for key in sorted(np.flatnonzero(change), key=lambda k: change[k]):
            kind = "note_on" if change[key] > 0 else "note_off"
            delay, last = (step - last) * TICKS_PER_STEP, step
            track.append(Message(kind, note=int(key) + LOWEST_PITCH, velocity=VELOCITY, time=delay))
    with replacing(path) as partial:
        MidiFile(tracks=[track], ticks_per_beat=TICKS_PER_STEP).save(partial)
