"""MIDI files, read back by playing them, and WAV files, read back by another library."""

import mido
import numpy as np
import pytest
import soundfile
from scipy.io import wavfile

from repro.errors import DataError
from repro.evaluation.audio import PLAYED_HZ, as_mp3, play, write_all, write_wav
from repro.evaluation.midi import write_midi


def played(path, steps):
    """The roll that is heard: which keys are down at each step, and how often each was struck."""
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


@pytest.mark.parametrize(("key", "frequency"), [(48, 440.0), (39, 261.63), (51, 523.25)])
def test_a_played_roll_has_the_pitch_of_its_key(key, frequency):
    """A4, C4 and C5 by the peak of the spectrum."""
    roll = np.zeros((10, 88))
    roll[:, key] = 1.0
    wave = play(roll)
    spectrum = np.abs(np.fft.rfft(wave))
    peak = np.fft.rfftfreq(len(wave), 1 / PLAYED_HZ)[spectrum.argmax()]
    assert peak == pytest.approx(frequency, rel=0.015) and len(wave) == 10 * 0.3 * PLAYED_HZ


def test_a_page_gets_sound_if_there_is_any(tmp_path):
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).reshape(1, 40, 200) * 2**15
    np.savez(tmp_path / "wave.npz", data=wave, samples=wave, sample_rate_hz=8000)
    content = as_mp3(tmp_path / "wave.npz", "data")
    (tmp_path / "page.mp3").write_bytes(content)  # libsndfile 1.2.2 cannot always read from memory
    decoded, rate = soundfile.read(tmp_path / "page.mp3")
    spectrum = np.abs(np.fft.rfft(decoded))
    peak = np.fft.rfftfreq(len(decoded), 1 / rate)[spectrum.argmax()]
    assert peak == pytest.approx(440, rel=0.01)
    np.savez(tmp_path / "curve.npz", data=np.zeros((2, 9, 3)), sample_rate_hz=0)
    assert as_mp3(tmp_path / "curve.npz", "data") == b""


def test_other_arrays_are_refused(tmp_path):
    with pytest.raises(DataError, match="only 88-key rolls"):
        write_midi(np.zeros((3, 12)), tmp_path / "a.mid")
