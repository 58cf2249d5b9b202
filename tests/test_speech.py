"""Readers of waveforms, on small corpora that the tests write in the true formats."""

import io
import tarfile

import numpy as np
import pytest
import soundfile

from repro.data.speech import read_fsdd, read_recordings, read_timit
from repro.errors import DataError

TIMIT = {"sample_rate_hz": 16000, "frame": 200, "valid_sequences": 1, "split_seed": 0}
DRAWN = {
    "sample_rate_hz": 16000,
    "frame": 200,
    "valid_fraction": 0.2,
    "test_fraction": 0.4,
    "split_seed": 0,
}


def waveform(seed, length=450):
    return np.random.default_rng(seed).integers(-3000, 3000, length).astype(np.int16)


def frames(samples):
    return samples[: len(samples) // 200 * 200].reshape(-1, 200).astype(np.float32)


def write(path, samples, format="WAV", rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16", format=format)


@pytest.mark.parametrize("train", ["TRAIN", "train"])
def test_timit_is_read_from_nist_sphere_files(train, tmp_path):
    test = "TEST" if train.isupper() else "test"
    for i in range(3):
        write(tmp_path / train / "DR1" / "FCJF0" / f"SX{i}.WAV", waveform(i), "NIST")
    write(tmp_path / test / "DR2" / "MABC0" / "SA1.WAV", waveform(9), "NIST")
    assert (tmp_path / test / "DR2" / "MABC0" / "SA1.WAV").read_bytes().startswith(b"NIST_1A")
    parts = read_timit({"timit": tmp_path}, TIMIT)
    assert {part: len(values) for part, values in parts.items()} == {
        "train": 2,
        "valid": 1,
        "test": 1,
    }
    np.testing.assert_array_equal(parts["test"][0], frames(waveform(9)))
    found = sorted(s.sum() for s in parts["train"] + parts["valid"])
    assert found == sorted(frames(waveform(i)).sum() for i in range(3))


def test_a_timit_utterance_kept_in_two_formats_counts_once(tmp_path):
    for part in ("TRAIN", "TEST"):
        for i in range(2):
            write(tmp_path / part / f"SX{i}.WAV", waveform(i), "NIST")
            write(tmp_path / part / f"SX{i}.WAV.wav", waveform(i))
    parts = read_timit({"timit": tmp_path}, TIMIT)
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [1, 1, 2]


def test_a_folder_that_is_not_timit_is_named(tmp_path):
    write(tmp_path / "TRAIN" / "a.wav", waveform(0))
    with pytest.raises(DataError, match=r"timit: .* has no recordings in a folder called TEST"):
        read_timit({"timit": tmp_path}, TIMIT)


@pytest.mark.parametrize(
    ("rate", "shape", "words"),
    [
        (8000, (450,), "8000 Hz and 1 channel"),
        (16000, (450, 2), "2 channel"),
        (16000, (150,), "shorter than one frame"),
    ],
)
def test_recordings_of_another_kind_are_refused(rate, shape, words, tmp_path):
    for i in range(5):
        write(tmp_path / f"{i}.wav", np.zeros(shape, dtype=np.int16), rate=rate)
    with pytest.raises(DataError, match=words):
        read_recordings({"accent": tmp_path}, DRAWN)


def test_damaged_and_too_few_recordings_are_named(tmp_path):
    with pytest.raises(DataError, match="0 recordings"):
        read_recordings({"accent": tmp_path}, DRAWN)
    for i in range(3):
        (tmp_path / f"{i}.wav").write_bytes(b"RIFF but not really")
    with pytest.raises(DataError, match=r"\.wav cannot be read as audio"):
        read_recordings({"accent": tmp_path}, DRAWN)


def test_recordings_are_split_by_file_and_none_is_lost(tmp_path):
    for i in range(10):
        write(tmp_path / "book" / f"{i}.flac", waveform(i), "FLAC")
    parts = read_recordings({"blizzard": tmp_path}, DRAWN)
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [4, 2, 4]
    found = sorted(s.sum() for part in parts.values() for s in part)
    assert found == sorted(frames(waveform(i)).sum() for i in range(10))


def test_spoken_digits_keep_their_official_test_part(tmp_path):
    path = tmp_path / "fsdd.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for digit in range(2):
            for index in range(8):
                content = io.BytesIO()
                soundfile.write(
                    content, waveform(10 * digit + index), 8000, subtype="PCM_16", format="WAV"
                )
                entry = tarfile.TarInfo(f"fsdd/recordings/{digit}_theo_{index}.wav")
                entry.size = content.tell()
                content.seek(0)
                archive.addfile(entry, content)
    options = {**TIMIT, "sample_rate_hz": 8000, "test_recordings": 5, "valid_sequences": 2}
    parts = read_fsdd({"fsdd": path}, options)
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [4, 2, 10]
    expected = [
        frames(waveform(10 * digit + index)).sum() for digit in (0, 1) for index in range(5)
    ]
    assert sorted(s.sum() for s in parts["test"]) == sorted(expected)
