"""Readers of pen trajectories, on small corpora that the tests write in the true formats."""

import zipfile

import numpy as np
import pytest

from repro.data import sequences
from repro.data.handwriting import LATTICE, read_iam_ondb, read_omniglot, steps_of
from repro.errors import DataError

XML = """<?xml version="1.0" encoding="ISO-8859-1"?>
<WhiteboardCaptureSession>
  <WhiteboardDescription><SensorLocation corner="top_left"/></WhiteboardDescription>
  <StrokeSet>{}</StrokeSet>
</WhiteboardCaptureSession>
"""
LISTS = {"train": "trainset.txt", "valid": "testset_v.txt", "test": "testset_f.txt"}


def line_of(strokes):
    points = '<Point x="{}" y="{}" time="1.0"/>'
    return XML.format(
        "".join(
            f'<Stroke colour="black">{"".join(points.format(*p) for p in stroke)}</Stroke>'
            for stroke in strokes
        )
    )


def corpus(folder, lines):
    """Write IAM-OnDB's layout: {part: {form: [strokes of a line, …]}}."""
    for part, forms in lines.items():
        (folder / "lists").mkdir(parents=True, exist_ok=True)
        (folder / "lists" / LISTS[part]).write_text("".join(f"{form}\n" for form in forms))
        for form, written in forms.items():
            place = folder / "lineStrokes" / form[:3] / form.rstrip("uvwxyz")
            place.mkdir(parents=True, exist_ok=True)
            for i, strokes in enumerate(written, start=1):
                (place / f"{form}-{i:02d}.xml").write_text(line_of(strokes))


SQUARE = [[(0, 0), (3, 0), (3, 4)], [(10, 4), (10, 0)]]
SQUARE_STEPS = [[0, 3, 0], [1, 0, 4], [0, 7, 0], [1, 0, -4]]


def test_a_step_is_an_offset_and_whether_the_pen_lifts_after_it():
    strokes = [np.array(stroke, dtype=float) for stroke in SQUARE]
    np.testing.assert_array_equal(steps_of(strokes), SQUARE_STEPS)


def test_iam_lines_follow_the_lists(tmp_path):
    corpus(
        tmp_path,
        {
            "train": {"a01-000u": [SQUARE, SQUARE[:1]], "a01-000x": [SQUARE]},
            "valid": {"b02-013z": [SQUARE]},
            "test": {"c03-100": [SQUARE[::-1]]},
        },
    )
    parts = read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})
    assert {part: len(lines) for part, lines in parts.items()} == {
        "train": 3,
        "valid": 1,
        "test": 1,
    }
    np.testing.assert_array_equal(parts["train"][0], SQUARE_STEPS)
    np.testing.assert_array_equal(parts["train"][1], SQUARE_STEPS[:2])


def test_what_iam_lacks_is_named(tmp_path):
    with pytest.raises(DataError, match=r"iam_ondb: there is no trainset.txt below"):
        read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})
    forms = {part: {"a01-000u": [SQUARE]} for part in LISTS}
    corpus(tmp_path, forms)
    (xml,) = tmp_path.rglob("*.xml")
    xml.write_text(line_of(SQUARE)[:-40])
    with pytest.raises(DataError, match=r"a01-000u-01.xml is damaged"):
        read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})
    xml.unlink()
    with pytest.raises(DataError, match=r"trainset.txt lists a01-000u, but"):
        read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})


def omniglot(path, drawings):
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in drawings.items():
            archive.writestr(f"strokes_background_small1/{name}", text)
            archive.writestr(f"__MACOSX/strokes_background_small1/._{name}", "junk")


def test_drawings_are_resampled_in_time_and_split_by_alphabet(tmp_path):
    # Along x at one unit a millisecond, reported at irregular times; then a second stroke.
    moves = "\n".join(f"{t},0,{t}" for t in (0, 7, 8, 90, 100, 200))
    drawing = f"START\n{moves}\nBREAK\n300,50,900\n300,90,950\nBREAK\n"
    for i, alphabets in enumerate((["Greek", "Latin"], ["Latin", "Korean"])):
        omniglot(
            tmp_path / f"{i}.zip",
            {f"{name}/character01/0001_01.txt": drawing for name in alphabets},
        )
    files = {str(i): tmp_path / f"{i}.zip" for i in range(2)}
    options = {
        "interval_ms": 50,
        "noise_seed": 0,
        "alphabets": {"train": ["Greek"], "valid": ["Latin"], "test": ["Korean"]},
    }
    parts = read_omniglot(files, options)
    assert [len(parts[part]) for part in ("train", "valid", "test")] == [1, 1, 1]
    steps = parts["train"][0]
    expected = [[0, 50, 0]] * 3 + [[1, 50, 0], [0, 100, 50], [1, 0, 40]]
    np.testing.assert_array_equal(steps[:, 0], np.array(expected)[:, 0])
    assert (abs(steps[:, 1:] - np.array(expected)[:, 1:]) <= LATTICE).all()
    assert len(np.unique(steps[:, 1])) == len(steps)  # dequantised
    with pytest.raises(DataError, match="alphabet Latin is in no part"):
        read_omniglot(files, {**options, "alphabets": {"train": ["Greek"], "test": ["Korean"]}})


def test_offsets_are_normalised_together_and_the_bit_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    raw = [
        np.column_stack([rng.integers(0, 2, 30), rng.normal(3, [2, 5], (30, 2))]) for _ in range(9)
    ]
    entry = {"kind": "strokes", "normalise": "offsets"}
    path = tmp_path / "strokes" / "sequences.safetensors"
    spec = sequences.save(
        {"train": raw[:5], "valid": raw[5:7], "test": raw[7:]}, "strokes", entry, path
    )
    _, parts = sequences.load(path, ("train",))
    steps = np.concatenate(parts["train"])
    np.testing.assert_array_equal(steps[:, 0], np.concatenate(raw[:5])[:, 0])
    assert abs(steps[:, 1:].mean()) < 1e-6 and abs(steps[:, 1:].std() - 1) < 1e-6
    assert spec.std[1] == spec.std[2] and spec.std[0] == 1.0
