"""MIDI files, read back by playing them."""

import mido
import numpy as np
import pytest

from repro.errors import DataError
from repro.midi import write_all, write_midi


def played(path, steps):
    """The roll one hears: which keys are down at each step, and how often each was struck."""
    roll, down, strikes = np.zeros((steps, 88), dtype=int), set(), 0
    file, clock = mido.MidiFile(path), 0
    for message in file.tracks[0]:
        before, clock = clock, clock + message.time
        for step in range(before // file.ticks_per_beat, clock // file.ticks_per_beat):
            roll[step, sorted(down)] = 1
        if message.type == "note_on":
            assert message.note - 21 not in down
            down.add(message.note - 21)
            strikes += 1
        elif message.type == "note_off":
            down.remove(message.note - 21)
    assert not down
    return roll, strikes


def test_a_midi_file_plays_the_roll(tmp_path):
    roll = (np.random.default_rng(0).random((30, 88)) < 0.1).astype(int)
    roll[:5, 3] = 1
    write_midi(roll, tmp_path / "a.mid")
    heard, strikes = played(tmp_path / "a.mid", 30)
    np.testing.assert_array_equal(heard, roll)
    assert strikes == roll[0].sum() + ((roll[1:] - roll[:-1]) > 0).sum()


def test_all_samples_of_a_run_are_written(tmp_path):
    rolls = {"data": np.ones((1, 2, 88)), "samples": np.zeros((2, 2, 88))}
    np.savez(tmp_path / "samples.npz", **rolls)
    names = [path.name for path in write_all(tmp_path / "samples.npz", tmp_path / "midi")]
    assert names == ["data-0.mid", "samples-0.mid", "samples-1.mid"]
    with pytest.raises(DataError, match="run `repro sample` first"):
        write_all(tmp_path / "nothing.npz", tmp_path)


def test_other_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="only 88-key rolls"):
        write_midi(np.zeros((3, 12)), tmp_path / "a.mid")
