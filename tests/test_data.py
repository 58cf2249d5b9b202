"""Readers, prepared files and batches."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from music21 import note, stream
from scipy.io import savemat

from repro.data import batches, prepared
from repro.data.prepare import prepare
from repro.data.readers.pianoroll import read_bach_chorales, read_mat
from repro.data.readers.speech import read_japanese_vowels
from repro.data.readers.synthetic import generate_linear_gaussian, generate_two_parameters
from repro.errors import ConfigError, DataError

REAL = {"kind": "real", "normalise": "per_dimension"}


def parts(seed=0, lengths=(3, 5, 2), dim=2):
    rng = np.random.default_rng(seed)
    return {
        part: [5.0 + 3.0 * rng.standard_normal((n, dim)) for n in lengths]
        for part in prepared.PARTS
    }


def test_prepared_file_gives_back_the_sequences(tmp_path):
    original, path = parts(), tmp_path / "d" / "sequences.safetensors"
    spec = prepared.save(original, "d", REAL, path)
    loaded_spec, loaded = prepared.load(path, prepared.PARTS)
    assert loaded_spec == spec and spec.steps == {"train": 10, "valid": 10, "test": 10}
    frames = np.concatenate(original["train"])
    for part in prepared.PARTS:
        for raw, found in zip(original[part], loaded[part], strict=True):
            expected = (raw - frames.mean(0)) / frames.std(0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_global_normalisation_is_one_mean_and_deviation(tmp_path):
    original = parts()
    entry = {"kind": "real", "normalise": "global"}
    spec = prepared.save(original, "d", entry, tmp_path / "d.safetensors")
    frames = np.concatenate(original["train"])
    assert spec.mean == pytest.approx([frames.mean()] * 2)
    assert spec.std == pytest.approx([frames.std()] * 2)


def test_counts_that_differ_from_the_expected_are_refused(tmp_path):
    entry = {**REAL, "expected": {"sequences": {"train": 4, "valid": 3, "test": 3}}}
    with pytest.raises(DataError, match="3 sequences in train, expected 4"):
        prepared.save(parts(), "d", entry, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_values_that_are_not_finite_are_refused(tmp_path):
    broken = parts()
    broken["test"][1][0, 0] = np.nan
    with pytest.raises(
        DataError, match=r"test, sequence 1, step 0, column 0 is nan; values must be finite"
    ):
        prepared.save(broken, "d", REAL, tmp_path / "d.safetensors")


@pytest.mark.fault
def test_missing_and_damaged_prepared_files_say_what_to_run(tmp_path):
    path = tmp_path / "vowels" / "sequences.safetensors"
    with pytest.raises(DataError, match="repro prepare --dataset vowels"):
        prepared.load(path, ("train",))
    prepared.save(parts(), "vowels", REAL, path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"is damaged .* remove it"):
        prepared.load(path, ("train",))


def test_mat_rolls_are_read_as_they_are(tmp_path):
    rng = np.random.default_rng(0)
    rolls = {
        p: [(rng.random((t, 88)) < 0.1).astype(np.uint8) for t in (4, 7)] for p in prepared.PARTS
    }
    cells = {}
    for part, arrays in rolls.items():
        cell = np.empty((1, 2), dtype=object)
        cell[0, :] = arrays
        cells[f"{part}data"] = cell
    savemat(tmp_path / "r.mat", cells)
    read = read_mat({"r.mat": tmp_path / "r.mat"}, {})
    for part in prepared.PARTS:
        for ours, original in zip(read[part], rolls[part], strict=True):
            np.testing.assert_array_equal(ours, original)


def score(voices):
    """A score from one list of (midi or None, quarter lengths) per voice."""
    whole = stream.Score()
    for voice in voices:
        part = stream.Part()
        for midi, length in voice:
            part.append(
                note.Rest(quarterLength=length)
                if midi is None
                else note.Note(midi, quarterLength=length)
            )
        whole.insert(0, part)
    return whole


def mxl(whole, tmp_path):
    xml = whole.write("musicxml", fp=tmp_path / "s.musicxml").read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("META-INF/container.xml", "<container/>")
        archive.writestr("s.xml", xml)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_chorales_are_what_sounds_at_each_quarter_note(tmp_path):
    four = [
        [(60, 1.0), (62, 0.5), (64, 0.5), (65, 2.0)],
        [(57, 2.0), (None, 1.0), (55, 1.0)],
        [(52, 0.5), (53, 1.5), (52, 2.0)],
        [(45, 4.0)],
    ]
    duet = four[:2]
    wheel = tmp_path / "music21.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for i, voices in enumerate((four, duet, four, [*four[:3], [(43, 4.0)]])):
            archive.writestr(f"music21/corpus/bach/bwv{i}.mxl", mxl(score(voices), tmp_path))
    options = {"split_seed": 0, "valid_fraction": 0.0, "test_fraction": 0.5}
    read = read_bach_chorales({"w": wheel}, options)
    rolls = [roll for part in read.values() for roll in part]
    assert len(rolls) == 2  # the duet has no four parts, the third repeats the first
    upper = [[60, 57, 52], [62, 57, 53], [65, 52], [65, 55, 52]]
    expected = [[sorted([*chord, bass]) for chord in upper] for bass in (43, 45)]
    found = [[(np.flatnonzero(step) + 21).tolist() for step in roll] for roll in rolls]
    assert sorted(found) == sorted(expected)


def test_vowels_are_cut_at_colons_and_keep_the_official_test_part(tmp_path):
    wheel = tmp_path / "aeon.whl"
    case = "1.0,2.0:3.0,4.0:{}\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for part, labels in (("TRAIN", "123"), ("TEST", "45")):
            text = "# comment\n@problemName x\n@data\n" + "".join(case.format(k) for k in labels)
            name = f"aeon/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts"
            archive.writestr(name, text)
    read = read_japanese_vowels({"w": wheel}, {"split_seed": 0, "valid_sequences": 1})
    assert {part: len(values) for part, values in read.items()} == {
        "train": 2,
        "valid": 1,
        "test": 2,
    }
    np.testing.assert_array_equal(read["test"][0], [[1.0, 3.0], [2.0, 4.0]])


def test_generated_data_have_the_moments_of_their_model(datasets):
    options = {**datasets["linear_gaussian"]["options"]}
    options["sequences"] = {"train": 20_000, "valid": 1, "test": 1}
    last = np.array([s[-1, 0] for s in generate_linear_gaussian({}, options)["train"]])
    # z_25 ~ N(25 · 0.05, 250), x = z / 2 + N(0, 20).
    mean, variance = 0.625, 62.5 + 20.0
    assert abs(last.mean() - mean) < 6 * np.sqrt(variance / 20_000)
    assert abs(last.var() - variance) < 6 * variance * np.sqrt(2 / 20_000)


def test_nonlinear_data_follow_their_equations_step_by_step(datasets):
    options = {**datasets["two_parameters"]["options"]}
    options["sequences"] = {"train": 2000, "valid": 1, "test": 1}
    parts = generate_two_parameters({}, options)
    x, z = np.stack(parts["train"]), np.stack(parts["train.latents"])
    old, new = z[:, :-1], z[:, 1:]
    alpha, beta = 0.5, -0.1  # as printed
    expected = 0.2 * old
    expected[..., 0] += np.tanh(alpha * old[..., 1])
    expected[..., 1] += np.sin(beta * old[..., 0])
    for residual, variance in ((new - expected, 1.0), (x - z / 2, 0.1), (z[:, 0], 1.0)):
        count = residual[..., 0].size
        mean, spread = residual.reshape(-1, 2).mean(0), residual.reshape(-1, 2).var(0)
        assert (abs(mean) < 6 * np.sqrt(variance / count)).all()
        assert (abs(spread - variance) < 6 * variance * np.sqrt(2 / count)).all()


def test_unknown_reader_is_a_config_error(tmp_path):
    entry = {"reader": "pianoroll:read_nothing", "sources": [], "options": {}, **REAL}
    with pytest.raises(ConfigError, match="reader of data set 'x'"):
        prepare("x", entry, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("order", ["shuffled", "similar_lengths"])
def test_an_epoch_visits_every_sequence_once_and_pads_with_zeros(order):
    rng = np.random.default_rng(0)
    original = [rng.standard_normal((n, 2)) for n in rng.integers(1, 9, size=23)]
    tensors = batches.to_tensors(original, torch.device("cpu"))
    seen = []
    for ids in batches.groups(tensors, 5, order, torch.Generator().manual_seed(0)):
        batch = batches.collate(tensors, ids)
        seen += batch.ids
        for b, (i, length) in enumerate(zip(batch.ids, batch.lengths.tolist(), strict=True)):
            torch.testing.assert_close(batch.x[:length, b], tensors[i], rtol=0, atol=0)
            assert (batch.x[length:, b] == 0).all()
    assert sorted(seen) == list(range(23))


def test_similar_lengths_pad_less():
    lengths = np.random.default_rng(0).permutation(40) + 1
    tensors = [torch.zeros(n, 1) for n in lengths.tolist()]
    padded = {}
    for order in ("shuffled", "similar_lengths"):
        g = torch.Generator().manual_seed(0)
        groups = batches.groups(tensors, 5, order, g)
        padded[order] = sum(max(len(tensors[i]) for i in ids) * len(ids) for ids in groups)
    assert lengths.sum() <= padded["similar_lengths"] < padded["shuffled"]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    steps=st.integers(1, 12),
    count=st.integers(1, 6),
    seed=st.integers(0, 2**32),
)
def test_random_segments_hold_every_step_once_in_as_many_batches_as_asked_for(
    lengths, steps, count, seed
):
    g = torch.Generator().manual_seed(seed)
    whole = [torch.arange(float(n)).unsqueeze(1) + 100 * i for i, n in enumerate(lengths)]
    cut = batches.random_segments(whole, steps, g)
    cut_sequences = [cut[i] for i in range(len(cut))]
    assert torch.equal(torch.cat(cut_sequences), torch.cat(whole))
    assert [len(x) for x in cut_sequences] == cut.lengths
    assert all(1 <= length <= steps for length in cut.lengths)
    assert len(cut) <= sum(1 if n <= steps else n / steps + 2 for n in lengths)
    groups = batches.groups(cut, 3, "similar_lengths", g, count)
    assert sorted(i for ids in groups for i in ids) == list(range(len(cut)))
    assert len(groups) == min(count, len(cut))
    sizes = [len(ids) for ids in groups]
    assert max(sizes) - min(sizes) <= 1


def test_segments_begin_at_every_offset_equally_often():
    g, starts = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        starts.append(len(batches.random_segments([torch.zeros(50, 1)], 5, g)[0]))
    counts = np.bincount(starts, minlength=6)[1:]
    assert (abs(counts - 400) < 6 * np.sqrt(400 * 0.8)).all()


@pytest.mark.parametrize("steps", [None, 1, 3, 20])
def test_segments_hold_every_step_once_in_order(steps):
    lengths = [7, 2, 5]
    sequences_ = [torch.arange(1.0, n + 1).unsqueeze(1) + 10 * i for i, n in enumerate(lengths)]
    batch = batches.collate(sequences_, [0, 1, 2])
    seen = {i: [] for i in range(3)}
    before = [0, 1, 2]
    for part, kept in batches.segments(batch, steps):
        assert [before[i] for i in kept.tolist()] == part.ids
        before = part.ids
        for b, (i, length) in enumerate(zip(part.ids, part.lengths.tolist(), strict=True)):
            assert length >= 1 and len(part.x) <= (steps or 7)
            seen[i] += part.x[:length, b, 0].tolist()
    for i, sequence in enumerate(sequences_):
        assert seen[i] == sequence[:, 0].tolist()
