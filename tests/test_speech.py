"""Readers of waveforms, on small corpora that the tests write in the true formats."""

import io
import tarfile
import tempfile
import tracemalloc
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import count_input

from repro.data import batches, checks, prepared
from repro.data.prepare import prepare
from repro.data.readers.speech import read_fsdd, read_recordings, read_timit
from repro.data.recordings import check_recording, frames_of, missing_bytes
from repro.errors import DataError

CPU = torch.device("cpu")
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
    found = sorted(s.sum() for s in [*parts["train"], *parts["valid"]])
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


def tone(rate=16000, seconds=0.25):
    """A waveform in [-1, 1] that every codec keeps almost unchanged."""
    when = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(0, 0.01, len(when))
    return 0.4 * np.sin(2 * np.pi * 220 * when) + noise


def readable_formats(folder):
    """Every format and subtype that soundfile can write and read back by itself."""
    path = folder / "sound"
    for format in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(format):
            try:
                soundfile.write(path, tone(), 16000, subtype=subtype, format=format)
                _, rate = soundfile.read(path)
            except (soundfile.SoundFileError, TypeError, ValueError):
                continue  # RAW has no header; some are only written, or need a second file
            # Some formats allow few rates; libsndfile loses the last block of SDS (of samplers).
            if rate == 16000 and format != "SDS":
                yield format, subtype


with tempfile.TemporaryDirectory() as directory:
    FORMATS = sorted(readable_formats(Path(directory)))
EXACT = {"PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAC_16", "ALAC_20", "ALAC_24",
         "ALAC_32"}  # fmt: skip


@pytest.mark.fault
def test_formats_of_every_sort_are_compared():
    assert len(FORMATS) > 60
    assert {("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("AIFF", "FLOAT")} <= set(FORMATS)
    assert {("FLAC", "PCM_24"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS")} <= set(FORMATS)


@pytest.mark.fault
@pytest.mark.parametrize(("format", "subtype"), FORMATS)
def test_every_format_is_read_as_its_copy_in_16_bits(format, subtype, tmp_path):
    path, copy = tmp_path / "a.wav", tmp_path / "copy.wav"
    soundfile.write(path, tone(), 16000, subtype=subtype, format=format)
    soundfile.write(copy, tone(), 16000, subtype="PCM_16", format="WAV")
    options = {"sample_rate_hz": 16000, "frame": 200}
    check_recording(path, options)
    found, expected = (frames_of(p, options, str(p)).ravel() for p in (path, copy))
    size = min(len(found), len(expected))
    assert size >= len(tone()) - 200
    found, expected = found[:size], expected[:size]
    if subtype in EXACT:
        assert abs(found - expected).max() <= 1.0  # of 32768: how 16 bits round
    assert np.corrcoef(found, expected)[0, 1] > 0.9
    assert found.std() == pytest.approx(expected.std(), rel=0.1)


SILENT = {
    "zeros": lambda x: 0 * x,
    "an offset": lambda x: 0 * x + 0.25,
    "not a number": lambda x: x * np.nan,
    "infinite": lambda x: np.where(x > 0.3, np.inf, x),
    "16-bit units": lambda x: 32768 * x,
}


@pytest.mark.fault
@pytest.mark.parametrize("what", SILENT)
@pytest.mark.parametrize("index", range(6))
def test_a_recording_that_is_not_a_sound_is_named(what, index, tmp_path):
    for i in range(6):
        sound = SILENT[what](tone()) if i == index else tone()
        soundfile.write(tmp_path / f"s{i}.wav", sound, 16000, subtype="FLOAT")
    parts = read_recordings({"accent": tmp_path}, DRAWN)
    with pytest.raises(DataError, match=rf"s{index}\.wav (is silent|has samples up to)"):
        for part in parts.values():
            list(part)


HEADED = [
    (format, subtype)
    for format, subtype in FORMATS
    if format in ("WAV", "WAVEX", "RF64", "AIFF", "AU", "NIST", "FLAC", "CAF", "OGG", "W64", "MP3")
]


@pytest.mark.fault
@pytest.mark.parametrize(("format", "subtype"), HEADED)
def test_a_cut_recording_is_named_however_it_is_cut(format, subtype, tmp_path):
    corpus = {f"TRAIN/{name}": tone() for name in "ab"} | {"TEST/c": tone()}
    for name, samples in corpus.items():
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, 16000, subtype=subtype, format=format)
    list(read_timit({"timit": tmp_path}, TIMIT)["test"])  # whole, it is read
    path = tmp_path / "TEST" / "c.wav"
    content = path.read_bytes()
    cuts = np.random.default_rng(0).integers(len(content) // 4, len(content) - 8, 10)
    for cut in [len(content) // 2, *cuts.tolist()]:
        path.write_bytes(content[:cut])
        count_input()
        with pytest.raises(
            DataError, match=r"TEST/c\.wav (is cut short|cannot be read|is shorter)"
        ):
            list(read_timit({"timit": tmp_path}, TIMIT)["test"])


@pytest.mark.fault
@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_a_size_that_a_program_left_open_is_not_a_cut(size, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = size.to_bytes(4, "little")
    path.write_bytes(content)
    check_recording(path, {"sample_rate_hz": 16000, "frame": 200})


HIDDEN = ["._SX0.WAV", ".SX9.WAV", "__MACOSX/TRAIN/SX0.WAV", "__MACOSX/TEST/._SX0.WAV",
          ".Trash/TEST/SX7.WAV", "TRAIN/._SX1.WAV", "TRAIN/.hidden/SX2.WAV"]  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("content", ["junk", "sound"])
def test_hidden_files_are_not_recordings(content, tmp_path):
    for part in ("TRAIN", "TEST"):
        for i in range(3):
            write(tmp_path / part / f"SX{i}.WAV", waveform(i), "NIST")
    for name in HIDDEN:
        write(tmp_path / name, waveform(50), "NIST")
        if content == "junk":
            (tmp_path / name).write_bytes(b"\0\5\x16\7 AppleDouble")
    for reader, options in ((read_timit, TIMIT), (read_recordings, DRAWN)):
        found = [s.sum() for part in reader({"d": tmp_path}, options).values() for s in part]
        assert sorted(found) == sorted(frames(waveform(i)).sum() for i in [0, 1, 2] * 2)


@pytest.mark.parametrize("copies", [2, 8])
def test_memory_does_not_grow_with_the_corpus(copies, tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "CHUNK", 100_000)
    monkeypatch.setattr(batches, "MAX_BYTES_ON_DEVICE", 100_000)
    for i in range(40 * copies):
        write(tmp_path / "raw" / f"{i}.wav", waveform(i, 16_000))
    path = tmp_path / "accent" / "sequences.safetensors"
    entry = {"reader": "speech:read_recordings", "local": ".", "kind": "real",
             "normalise": "global", "options": DRAWN}  # fmt: skip
    import_module("repro.data.readers.speech")  # not part of what is counted
    tracemalloc.start()
    try:
        prepare("accent", entry, tmp_path / "raw", path)
        train = batches.to_tensors(prepared.load(path, ("train",))[1]["train"], CPU)
        for ids in batches.groups(train, 4, "similar_lengths", torch.Generator()):
            assert batches.collate(train, ids).x.shape == (80, 4, 200)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 2_400_000 * copies
    assert peak < 4_000_000  # bytes: less than the smaller corpus


def test_tensors_of_a_large_file_are_those_of_a_small_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    parts = {part: [rng.normal(size=(n, 3)) for n in (5, 2, 9)] for part in prepared.PARTS}
    path = tmp_path / "d" / "sequences.safetensors"
    prepared.save(parts, "d", {"kind": "real", "normalise": "global"}, path)
    held = batches.to_tensors(prepared.load(path, ("train",))[1]["train"], CPU)
    monkeypatch.setattr(batches, "MAX_BYTES_ON_DEVICE", 0)
    asked_for = batches.to_tensors(prepared.load(path, ("train",))[1]["train"], CPU)
    assert isinstance(held, list) and isinstance(asked_for, batches.Tensors)
    assert batches.lengths_of(held) == batches.lengths_of(asked_for) == [5, 2, 9]
    for order in ("shuffled", "similar_lengths"):
        both = [
            batches.groups(these, 2, order, torch.Generator().manual_seed(1))
            for these in (held, asked_for)
        ]
        assert both[0] == both[1]
        for ids in both[0]:
            assert batches.collate(held, ids).x.equal(batches.collate(asked_for, ids).x)


def sphere(samples, fields, size=1024, pad=b" "):
    """A SPHERE file like those on the discs, with its header padded after end_head."""
    lines = [b"NIST_1A", b"%7d" % size, *fields, b"end_head", b""]
    return b"\n".join(lines).ljust(size, pad) + samples.astype("<i2").tobytes()


@pytest.mark.fault
@pytest.mark.parametrize("pad", [b" ", b"\n", b"\0"])
@pytest.mark.parametrize("size", [1024, 2048])
@pytest.mark.parametrize("order", [1, -1])
def test_headers_of_the_discs_are_read(order, size, pad, tmp_path):
    fields = [
        b"database_id -s5 TIMIT", b"database_version -s3 1.0", b"utterance_id -s8 cjf0_sa1",
        b"channel_count -i 1", b"sample_count -i 4000", b"sample_rate -i 16000",
        b"sample_min -i -2191", b"sample_max -i 2790", b"sample_n_bytes -i 2",
        b"sample_byte_format -s2 01", b"sample_sig_bits -i 16", b"",
    ][::order]  # fmt: skip
    path, samples = tmp_path / "SA1.WAV", waveform(0, 4000)
    path.write_bytes(sphere(samples, fields, size, pad))
    options = {"sample_rate_hz": 16000, "frame": 200}
    assert missing_bytes(path) == 0
    if size == 1024:  # libsndfile reads no other header
        check_recording(path, options)
        np.testing.assert_array_equal(frames_of(path, options, "a"), frames(samples))
    for cut in (1, 2, 801, 4000):
        path.write_bytes(sphere(samples, fields, size, pad)[:-cut])
        assert missing_bytes(path) == cut
