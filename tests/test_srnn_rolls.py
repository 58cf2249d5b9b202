"""The arrays published with the code of Fraccaro et al. (2016): made-up ones, and the real ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from repro.config import recipes as configuration
from repro.data.readers.pianoroll import read_mat, read_srnn
from repro.errors import ConfigError, DataError

SEGMENTS = {"train": "segments"}
STEPS = 5  # of a segment here


def line(rng, segments):
    """Frames end to end: one more than 16 streams of `segments` segments have."""
    return (rng.random((16 * segments * STEPS + 1, 88)) < 0.1).astype(np.float32)


def cut(frames, segments):
    """u and x as the authors have them: batches of the next segment of each of 16 streams."""
    u, x = [], []
    for segment in range(segments):
        for stream in range(16):
            first = (stream * segments + segment) * STEPS
            u.append(frames[first : first + STEPS])
            x.append(frames[first + 1 : first + STEPS + 1])
    return np.stack(u), np.stack(x)


def made_up(seed=0):
    """The seven arrays, and what they were made of."""
    rng = np.random.default_rng(seed)
    lines = {"train": line(rng, 3), "valid": line(rng, 2)}
    arrays = {}
    for part, segments in (("train", 3), ("valid", 2)):
        arrays[f"u_{part}"], arrays[f"x_{part}"] = cut(lines[part], segments)
    songs = [(rng.random((n, 88)) < 0.1).astype(np.float32) for n in rng.integers(2, 9, size=4)]
    longest = max(map(len, songs)) - 1
    arrays["u_test"] = np.full((4, longest, 88), np.nan, np.float32)
    arrays["x_test"] = np.zeros((4, longest, 88), np.float32)
    arrays["mask_test"] = np.zeros((4, longest), np.float32)
    for i, song in enumerate(songs):
        arrays["u_test"][i, : len(song) - 1] = song[:-1]
        arrays["x_test"][i, : len(song) - 1] = song[1:]
        arrays["mask_test"][i, : len(song) - 1] = 1
    return arrays, lines, songs


def read(tmp_path, arrays, options=SEGMENTS):
    np.savez_compressed(tmp_path / "a.npz", **arrays)
    return read_srnn({"a.npz": tmp_path / "a.npz"}, options)


@pytest.mark.parametrize("seed", range(5))
def test_segments_are_the_authors_and_test_songs_are_whole(seed, tmp_path):
    arrays, _, songs = made_up(seed)
    parts = read(tmp_path, arrays)
    for part in ("train", "valid"):
        assert np.array_equal(np.stack(parts[part]), arrays[f"x_{part}"])
    assert len(parts["test"]) == len(songs)
    for ours, song in zip(parts["test"], songs, strict=True):
        assert ours.dtype == np.uint8 and np.array_equal(ours, song)


@pytest.mark.parametrize("seed", range(5))
def test_streams_end_to_end_are_the_line_without_its_first_frame(seed, tmp_path):
    arrays, lines, _ = made_up(seed)
    parts = read(tmp_path, arrays, {"train": "streams"})
    assert [len(stream) for stream in parts["train"]] == [3 * STEPS] * 16
    assert np.array_equal(np.concatenate(parts["train"]), lines["train"][1:])
    assert np.array_equal(np.stack(parts["valid"]), arrays["x_valid"])  # segments, as validated


def test_an_unknown_option_for_the_training_part_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'songs' is neither 'segments' nor 'streams'"):
        read(tmp_path, made_up()[0], {"train": "songs"})


def _one_note(arrays, name, value):
    arrays[name][0, 0, 3] = value


DAMAGE = {
    "an array is missing": lambda a: a.pop("mask_test"),
    "other keys": lambda a: a.update(x_valid=a["x_valid"][:, :, :40]),
    "no rolls": lambda a: _one_note(a, "x_train", 0.5),
    "a note of u changed": lambda a: _one_note(a, "u_valid", 2),
    "no sixteen streams": lambda a: a.update(x_train=a["x_train"][1:], u_train=a["u_train"][1:]),
    "segments in another order": lambda a: a.update(
        x_train=a["x_train"][::-1], u_train=a["u_train"][::-1]
    ),
    "nothing to train on": lambda a: a.update(x_train=a["x_train"][:0], u_train=a["u_train"][:0]),
    "a hole in the mask": lambda a: a["mask_test"].__setitem__((slice(None), 0), 0),
    "a mask of no steps": lambda a: a.update(mask_test=0 * a["mask_test"]),
    "a mask beyond the song": lambda a: a.update(mask_test=1 + 0 * a["mask_test"]),
    "fewer masks": lambda a: a.update(mask_test=a["mask_test"][1:]),
    "u is not x before": lambda a: a.update(u_test=a["u_test"][::-1]),
}


@pytest.mark.fault
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_arrays_are_named(damage, tmp_path):
    arrays, _, _ = made_up()
    DAMAGE[damage](arrays)
    with pytest.raises(DataError, match=r"a\.npz"):
        read(tmp_path, arrays)


@pytest.mark.fault
@pytest.mark.parametrize("content", [b"", b"PK and nothing", b"\x93NUMPY"])
def test_a_file_that_is_not_an_archive_is_named(content, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz"):
        read_srnn({"a.npz": path}, SEGMENTS)


def real(dataset, datasets):
    """The raw file of a data set: in the folder REPRO_MIRROR names, or in one next to the clone."""
    mirror = Path(os.environ.get("REPRO_MIRROR", ROOT.parent / "shared" / "data"))
    path = mirror / datasets[dataset]["sources"][0]["file"]
    if not path.exists():
        pytest.skip(f"{path} is not here (REPRO_MIRROR names the folder of raw files)")
    return {path.name: path}


def test_every_second_frame_of_the_srnns_chorales_is_the_canonical_roll(datasets):
    canonical = read_mat(real("jsb_chorales", datasets), {})["test"]
    srnn = read_srnn(real("jsb_chorales_srnn", datasets), SEGMENTS)["test"]
    # The same 77 chorales, in another order.
    assert sorted(s[1::2].tobytes() for s in srnn) == sorted(s.tobytes() for s in canonical)
    assert sum(map(len, canonical)) == 4725 and sum(map(len, srnn)) == 9473
    # The frames in between mostly repeat the chord: 81 % of the pairs.
    twice = sum(np.array_equal(a, b) for s in srnn for a, b in zip(s[::2], s[1::2], strict=False))
    assert twice == 3823


@pytest.mark.parametrize("name", ["jsb_chorales", "nottingham", "piano_midi", "musedata"])
@pytest.mark.parametrize("train", ["segments", "streams"])
def test_real_arrays_have_the_expected_counts_both_ways(name, train, datasets):
    entry = datasets[f"{name}_srnn"]
    parts = read_srnn(real(f"{name}_srnn", datasets), {"train": train})
    expected = entry["expected"]
    assert {part: sum(map(len, songs)) for part, songs in parts.items()} == expected["steps"]
    sequences = expected["sequences"] | ({"train": 16} if train == "streams" else {})
    assert {part: len(songs) for part, songs in parts.items()} == sequences


@pytest.mark.parametrize("model", ["srnn", "vrnn"])
@pytest.mark.parametrize("name", ["jsb_chorales", "nottingham", "piano_midi", "musedata"])
def test_the_preset_anneals_over_twenty_epochs_of_the_authors_batches(name, model, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.load("srnn-rolls")
    recipe = configuration.resolve(config, f"{name}_srnn", model)
    segments = config["datasets"][f"{name}_srnn"]["expected"]["sequences"]["train"]
    assert recipe["model"]["training"]["kl_updates"] == 20 * segments // 16
    assert recipe["model"]["training"]["batch_size"] == 16
