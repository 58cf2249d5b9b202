"""MIDI files, read back by playing them, and WAV files, read back by another library."""

import mido
import numpy as np
import pytest
from scipy.io import wavfile

from repro.errors import DataError
from repro.listen import write_all, write_wav
from repro.midi import write_midi


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


def test_a_wav_file_holds_the_samples_and_clips_the_rest(tmp_path):
    write_wav(np.array([0.4, -7.6, 40_000.0, -40_000.0]), tmp_path / "a.wav", 8000)
    rate, heard = wavfile.read(tmp_path / "a.wav")
    assert rate == 8000 and heard.tolist() == [0, -8, 32767, -32768]


@pytest.mark.parametrize(("rate", "suffix"), [(0, "mid"), (8000, "wav")])
def test_all_samples_of_a_run_are_written(rate, suffix, tmp_path):
    drawn = {"data": np.ones((1, 2, 88)), "samples": np.zeros((2, 2, 88)), "kl": np.zeros((1, 2))}
    np.savez(tmp_path / "samples.npz", sample_rate_hz=rate, **drawn)
    names = [path.name for path in write_all(tmp_path / "samples.npz", tmp_path / "listen")]
    assert names == [f"{name}.{suffix}" for name in ("data-0", "samples-0", "samples-1")]
    with pytest.raises(DataError, match="run `repro sample` first"):
        write_all(tmp_path / "nothing.npz", tmp_path)


def test_other_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="only 88-key rolls"):
        write_midi(np.zeros((3, 12)), tmp_path / "a.mid")
