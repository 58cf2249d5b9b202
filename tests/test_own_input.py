"""Data that do not fit their entry: refused at `prepare`, by part, sequence and value."""

import re

import numpy as np
import pytest
from conftest import ROOT, count_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from repro.config.recipes import check, load, merge
from repro.data import checks, prepared
from repro.data.parts import PARTS
from repro.data.prepare import prepare
from repro.errors import ConfigError, DataError
from repro.runtime.files import sha256

pytestmark = pytest.mark.fault

GENERATED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
seeds = st.integers(0, 2**32 - 1)


def own(kind, normalise="none", **options):
    entry = {"reader": "arrays:read_npz", "local": ".", "kind": kind, "normalise": normalise}
    return {**entry, "options": options}


def written(folder, arrays):
    """A user's own folder: {part: list of arrays} as npz files."""
    folder.mkdir(exist_ok=True)
    for part, sequences_ in arrays.items():
        np.savez(folder / f"{part}.npz", *sequences_)
    return folder


def prepare_folder(arrays, entry, tmp_path):
    """The file that `repro prepare` writes for a folder of arrays."""
    count_input()
    path = tmp_path / "mine" / "sequences.safetensors"
    for left in (path, path.with_name("digests.json")):
        left.unlink(missing_ok=True)
    prepare("mine", entry, written(tmp_path / "own", arrays), path)
    return prepared.load(path, PARTS)


def refused(arrays, entry, tmp_path, words, error=DataError):
    """The one or two lines of the refusal; nothing is left behind."""
    with pytest.raises(error, match=words) as caught:
        prepare_folder(arrays, entry, tmp_path)
    assert len(str(caught.value).splitlines()) <= 2 and "learning_rate" not in str(caught.value)
    assert not list((tmp_path / "mine").glob("*")) and not list((tmp_path / "mine").glob(".*"))
    return str(caught.value)


def rolls(rng, lengths=(6, 4)):
    return [(rng.random((n, 5)) < 0.3).astype(float) for n in lengths]


def real(rng, lengths=(9, 7), dim=3):
    return [rng.normal(2.0, 3.0, (n, dim)) for n in lengths]


def strokes(rng, lengths=(9, 7)):
    return [np.column_stack([rng.random(n) < 0.3, rng.normal(0, 5, (n, 2))]) for n in lengths]


def parts_of(make, rng):
    return {part: make(rng) for part in PARTS}


OTHERS = st.one_of(
    st.integers(2, 127),  # velocities, pitches
    st.just(-1),
    st.floats(0.001, 0.999),  # probabilities
    st.floats(-1e6, -1e-6),
)


@GENERATED
@given(seed=seeds, value=OTHERS, part=st.sampled_from(PARTS))
def test_binary_data_are_zeros_and_ones(seed, value, part, tmp_path):
    rng = np.random.default_rng(seed)
    arrays = parts_of(rolls, rng)
    index, step, column = rng.integers(2), rng.integers(4), rng.integers(5)
    for later in range(index, 2):  # the first is named
        arrays[part][later][step if later == index else 3, column] = value
    words = rf"{part}, sequence {index} \(arr_{index}\), step {step}, column {column} is "
    message = refused(arrays, own("binary"), tmp_path, words)
    assert float(re.search(r" is (\S+);", message)[1]) == value and "x > 0" in message


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_zeros_and_ones_of_any_type_are_read_as_they_are(dtype, tmp_path):
    arrays = parts_of(rolls, np.random.default_rng(0))
    typed = {part: [a.astype(dtype) for a in found] for part, found in arrays.items()}
    _, read = prepare_folder(typed, own("binary"), tmp_path)
    for part in PARTS:
        for ours, original in zip(read[part], arrays[part], strict=True):
            np.testing.assert_array_equal(ours, original)


@GENERATED
@given(value=OTHERS.filter(lambda v: v != int(v) or v > 1) | st.just(127))
def test_rolls_in_a_mat_file_are_not_rounded_to_bits(value, tmp_path):
    roll = np.eye(4, 88)
    roll[2, 7] = value
    cells = {}
    for part in PARTS:
        cells[f"{part}data"] = np.empty((1, 1), dtype=object)
        cells[f"{part}data"][0, 0] = roll if part == "valid" else np.eye(4, 88)
    savemat(tmp_path / "r.mat", cells)
    count_input()
    source = {"file": "r.mat", "sha256": sha256(tmp_path / "r.mat")}
    entry = {**own("binary"), "reader": "pianoroll:read_mat", "sources": [source]}
    del entry["local"]
    with pytest.raises(DataError, match=r"valid, sequence 0, step 2, column 7 is .*; binary"):
        prepare("rolls", entry, tmp_path, tmp_path / "out" / "sequences.safetensors")


KINDS = {"binary": rolls, "real": real, "strokes": strokes}


@pytest.mark.parametrize("normalise", ["none", "global", "per_dimension", "offsets", "robust"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_normalised_only_as_it_can_be(kind, normalise, tmp_path, monkeypatch):
    fits = {
        "binary": {"none"},
        "real": {"none", "global", "per_dimension"},
        "strokes": {"none", "offsets"},
    }
    arrays = parts_of(KINDS[kind], np.random.default_rng(0))
    if normalise in fits[kind]:
        prepare_folder(arrays, own(kind, normalise), tmp_path)
        return
    words = f"{kind} data cannot have `normalise: {normalise}`"
    refused(arrays, own(kind, normalise), tmp_path, words, ConfigError)
    if normalise != "robust":  # which the schema refuses
        monkeypatch.chdir(ROOT)
        described = load("smoke")["datasets"]["linear_gaussian"]
        changed = {"datasets": {"x": {**described, "kind": kind, "normalise": normalise}}}
        with pytest.raises(ConfigError, match=rf"datasets\.x: {words}"):
            check(merge(load("smoke"), changed))


@GENERATED
@given(
    seed=seeds,
    value=st.floats(-1e6, 1e6),
    normalise=st.sampled_from(["none", "global", "per_dimension"]),
)
def test_a_constant_column_is_named(seed, value, normalise, tmp_path):
    rng = np.random.default_rng(seed)
    column = rng.integers(3)
    arrays = parts_of(real, rng)
    for array in arrays["train"]:
        array[:, column] = value
    words = rf"column {column} of the training part is .* everywhere"
    refused(arrays, own("real", normalise), tmp_path, words)


@GENERATED
@given(
    seed=seeds,
    power=st.integers(160, 300) | st.integers(-300, -180),
    normalise=st.sampled_from(["none", "global", "per_dimension"]),
)
def test_values_beyond_floating_point_are_named(seed, power, normalise, tmp_path):
    rng = np.random.default_rng(seed)
    column = rng.integers(3)
    arrays = parts_of(real, rng)
    for array in arrays["train"]:
        array[:, column] *= 10.0**power
    words = r"column \d of the training part goes from .* does not fit into float32"
    refused(arrays, own("real", normalise), tmp_path, words)


@GENERATED
@given(seed=seeds, offset=st.floats(1e8, 1e15))
def test_differences_that_rounding_would_remove_are_named(seed, offset, tmp_path):
    rng = np.random.default_rng(seed)
    arrays = {part: [a + np.array([0, offset, 0]) for a in real(rng)] for part in PARTS}
    refused(arrays, own("real"), tmp_path, "column 1 .* rounded away")
    spec, read = prepare_folder(arrays, own("real", "per_dimension"), tmp_path)
    for raw, ours in zip(arrays["test"], read["test"], strict=True):
        expected = (raw - spec.mean) / spec.std
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("normalise", ["none", "global", "per_dimension"])
def test_a_value_beyond_float32_in_another_part_is_named(part, normalise, tmp_path):
    arrays = parts_of(real, np.random.default_rng(0))
    arrays[part][1][3, 2] = 1e300
    words = rf"{part}, sequence 1 \(arr_1\), step 3, column 2 is 1e\+300.* beyond float32"
    refused(arrays, own("real", normalise), tmp_path, words)


BAD = {
    "complex": (lambda a: a.astype(complex), "complex128: give real and imaginary parts"),
    "dates": (lambda a: a.astype("datetime64[D]"), r"datetime64\[D\]: give dates as numbers"),
    "durations": (lambda a: a.astype("timedelta64[s]"), r"timedelta64\[s\]: give durations"),
    "text": (lambda a: a.astype(str), "convert them to numbers"),
    "records": (lambda a: np.zeros((4, 2), dtype=[("x", float)]), "convert them to numbers"),
    "one axis": (lambda a: a[:, 0], r"has the shape \(\d+,\)"),
    "three axes": (lambda a: a[None], r"has the shape \(1, \d+, 3\)"),
    "no axis": (lambda a: np.array(1.0), r"has the shape \(\)"),
    "no columns": (lambda a: a[:, :0], r"has no columns"),
    "no steps": (lambda a: a[:0], r"has no steps"),
    "other columns": (lambda a: a[:, :2], r"has 2 columns, but the first sequence of train has 3"),
    "nan": (lambda a: a * np.nan, "step 0, column 0 is nan; values must be finite"),
    "infinite": (lambda a: a * np.inf, "step 0, column 0 is -?inf; values must be finite"),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("what", BAD)
def test_what_is_not_a_sequence_of_real_numbers_is_named(what, part, tmp_path):
    change, words = BAD[what]
    arrays = parts_of(real, np.random.default_rng(0))
    arrays[part][1] = change(arrays[part][1])
    refused(arrays, own("real"), tmp_path, rf"{part}, sequence 1 \(arr_1\).*{words}")


@pytest.mark.parametrize("part", PARTS)
def test_an_object_array_says_how_to_save_the_file(part, tmp_path):
    arrays = parts_of(real, np.random.default_rng(0))
    ragged = np.empty(2, dtype=object)
    ragged[:] = arrays[part]
    folder = written(tmp_path / "own", arrays)
    np.savez(folder / f"{part}.npz", ragged)
    path = tmp_path / "mine" / "sequences.safetensors"
    with pytest.raises(DataError, match=rf"{part}\.npz.*`np\.savez\(path, \*list_of_arrays\)`"):
        prepare("mine", own("real"), folder, path)


def test_a_part_without_sequences_is_named(tmp_path):
    arrays = parts_of(real, np.random.default_rng(0))
    arrays["valid"] = []
    refused(arrays, own("real"), tmp_path, "valid has no sequences")


ORDERS = {
    "Δx, Δy, pen": lambda a: a[:, [1, 2, 0]],
    "Δx, pen, Δy": lambda a: a[:, [1, 0, 2]],
    "five columns": lambda a: np.column_stack([a[:, 1:], a[:, :1], 1 - a[:, :1], 0 * a[:, :1]]),
    "two columns": lambda a: a[:, 1:],
    "Δx always 0 or 1": lambda a: np.column_stack([a[:, 1] > 0, a[:, 2], a[:, 0]]),
    "pen -1 and 1": lambda a: np.column_stack([2 * a[:, 0] - 1, a[:, 1:]]),
}


@GENERATED
@given(seed=seeds, order=st.sampled_from(sorted(ORDERS)))
def test_strokes_in_another_order_are_refused_with_the_right_order(seed, order, tmp_path):
    rng = np.random.default_rng(seed)
    arrays = parts_of(lambda r: [ORDERS[order](a) for a in strokes(r, (30, 20))], rng)
    message = refused(arrays, own("strokes", "offsets"), tmp_path, r"Δx, Δy\)")
    assert checks.STROKES in message


def test_moments_in_chunks_are_those_of_the_whole(monkeypatch):
    rng = np.random.default_rng(0)
    data = [rng.normal(1e3, [1.0, 50.0, 1e-3], (n, 3)) for n in rng.integers(1, 40, 60)]
    whole = np.concatenate(data)
    monkeypatch.setattr(checks, "CHUNK", 100)
    for how, frames in (("per_dimension", whole), ("global", whole.reshape(-1, 1))):
        columns = checks.ColumnStatistics(3, how)
        for frame in checks.chunks(data):
            columns.add(frame)
        mean, std = columns.normalisation()
        np.testing.assert_allclose(mean, np.broadcast_to(frames.mean(0), 3), rtol=1e-13)
        np.testing.assert_allclose(std, np.broadcast_to(frames.std(0), 3), rtol=1e-9)


@GENERATED
@given(seed=seeds, counts=st.tuples(*[st.integers(0, 3)] * 3))
def test_sequences_that_parts_share_are_counted(seed, counts, tmp_path, capsys):
    rng = np.random.default_rng(seed)
    arrays = {part: real(rng, lengths=rng.integers(2, 9, 9)) for part in PARTS}
    pairs = (("train", "valid"), ("train", "test"), ("valid", "test"))
    expected = []
    for index, ((first, second), count) in enumerate(zip(pairs, counts, strict=True)):
        for i in range(3 * index, 3 * index + count):  # indices that no other pair uses
            arrays[second][i] = arrays[first][i].copy()
        if count:
            expected.append(f"{count} of 9 sequences of {second} are also in {first}")
    spec, _ = prepare_folder(arrays, own("real", "global"), tmp_path)
    assert spec.notes == expected
    assert capsys.readouterr().err.splitlines() == [f"mine: {note}" for note in expected]
