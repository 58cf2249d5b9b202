"""Readers of pen trajectories, on small corpora that the tests write in the true formats."""

import zipfile

import numpy as np
import pytest

from repro.data import prepared
from repro.data.prepare import prepare
from repro.data.readers.handwriting import LATTICE_SPACING, read_iam_ondb, read_omniglot, steps_of
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
            directory = folder / "lineStrokes" / form[:3] / form.rstrip("uvwxyz")
            directory.mkdir(parents=True, exist_ok=True)
            for i, strokes in enumerate(written, start=1):
                (directory / f"{form}-{i:02d}.xml").write_text(line_of(strokes))


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


def test_files_missing_from_iam_are_named(tmp_path):
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
    # Along x at one unit per millisecond, reported at irregular times; then a second stroke.
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
    assert (abs(steps[:, 1:] - np.array(expected)[:, 1:]) <= LATTICE_SPACING).all()
    assert len(np.unique(steps[:, 1])) == len(steps)  # dequantised
    with pytest.raises(DataError, match="no part in the options lists the alphabet Latin"):
        read_omniglot(files, {**options, "alphabets": {"train": ["Greek"], "test": ["Korean"]}})


def test_offsets_are_normalised_together_and_the_bit_is_kept(tmp_path):
    rng = np.random.default_rng(0)
    raw = [
        np.column_stack([rng.integers(0, 2, 30), rng.normal(3, [2, 5], (30, 2))]) for _ in range(9)
    ]
    entry = {"kind": "strokes", "normalise": "offsets"}
    path = tmp_path / "strokes" / "sequences.safetensors"
    spec = prepared.save(
        {"train": raw[:5], "valid": raw[5:7], "test": raw[7:]}, "strokes", entry, path
    )
    _, parts = prepared.load(path, ("train",))
    steps = np.concatenate(parts["train"])
    np.testing.assert_array_equal(steps[:, 0], np.concatenate(raw[:5])[:, 0])
    assert abs(steps[:, 1:].mean()) < 1e-6 and abs(steps[:, 1:].std() - 1) < 1e-6
    assert spec.std[1] == spec.std[2] and spec.std[0] == 1.0


def iam(tmp_path, lines=None, **options):
    """The prepared file of a small IAM-OnDB: {part: {form: [strokes of a line, …]}}."""
    corpus(tmp_path / "raw", lines) if lines else None
    entry = {"reader": "handwriting:read_iam_ondb", "local": ".", "kind": "strokes",
             "normalise": "offsets", "options": {"lists": LISTS, **options}}  # fmt: skip
    path = tmp_path / "iam_ondb" / "sequences.safetensors"
    spec = prepare("iam_ondb", entry, tmp_path / "raw", path)
    return spec, prepared.load(path, prepared.PARTS)[1]


FORMS = ("a01-000u", "b02-013z", "c03-100")


def written(rng, count=6):
    """A line of writing: strokes of small steps, and larger ones between them."""
    return [
        (rng.normal(0, 3, (n, 2)).cumsum(0) + 40 * i).tolist()
        for i, n in enumerate(rng.integers(4, 30, count))
    ]


def three_forms(seed, lines=3):
    rng = np.random.default_rng(seed)
    return {
        part: {form: [written(rng) for _ in range(lines)]}
        for part, form in zip(LISTS, FORMS, strict=True)
    }


@pytest.mark.fault
@pytest.mark.parametrize("part", LISTS)
@pytest.mark.parametrize("seed", range(4))
def test_an_empty_stroke_is_named_and_can_be_left_out(part, seed, tmp_path):
    lines = three_forms(seed)
    (form,) = lines[part]
    rng = np.random.default_rng(seed)
    line, position = rng.integers(3), rng.integers(7)
    lines[part][form][line].insert(position, [])
    name = f"{form}-{line + 1:02d}"
    words = rf"stroke {position + 1} of .*{name}\.xml has no points.*`left_out: \[{name}\]`"
    with pytest.raises(DataError, match=words):
        iam(tmp_path, lines)
    spec, _ = iam(tmp_path, left_out=[name])
    assert spec.sequences[part] == 2
    with pytest.raises(DataError, match="`left_out` names z99-999, which is in no list"):
        iam(tmp_path, left_out=[name, "z99-999"])


@pytest.mark.fault
@pytest.mark.parametrize("strokes", [[], [[]], [[(1, 2)]], [[(1, 2), (float("nan"), 3)]]])
def test_a_line_without_steps_is_named(strokes, tmp_path):
    lines = three_forms(0)
    lines["valid"]["b02-013z"][1] = strokes
    with pytest.raises(DataError, match=r"b02-013z-02\.xml has .* `left_out: \[b02-013z-02\]`"):
        iam(tmp_path, lines)


@pytest.mark.fault
@pytest.mark.parametrize("part", LISTS)
@pytest.mark.parametrize("content", ["", "\n", " \n\t\n"])
def test_an_empty_list_is_named(part, content, tmp_path):
    corpus(tmp_path / "raw", three_forms(0))
    (tmp_path / "raw" / "lists" / LISTS[part]).write_text(content)
    with pytest.raises(DataError, match=rf"{LISTS[part]} is empty"):
        iam(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("first", LISTS)
@pytest.mark.parametrize("second", LISTS)
def test_a_form_in_two_lists_is_named(first, second, tmp_path):
    corpus(tmp_path / "raw", three_forms(0))
    form = FORMS[list(LISTS).index(first)]
    with (tmp_path / "raw" / "lists" / LISTS[second]).open("a") as file:
        file.write(f"{form}\n")
    with pytest.raises(DataError, match=rf"{form} is listed twice"):
        iam(tmp_path)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(12))
def test_a_stray_point_is_named_or_accepted_by_name(seed, tmp_path):
    rng = np.random.default_rng(seed)
    lines = three_forms(seed, lines=rng.integers(2, 9))
    clean, _ = iam(tmp_path, lines)
    line = rng.integers(len(lines["train"]["a01-000u"]))
    points = lines["train"]["a01-000u"][line][2]
    far = 10.0 ** rng.uniform(4, 8)
    points[rng.integers(1, len(points))] = (far, -far if seed % 2 else 0.0)
    name = f"a01-000u-{line + 1:02d}"
    with pytest.raises(DataError, match=rf"train, .*{name}\), step \d+ moves the pen by"):
        iam(tmp_path, lines)
    kept, _ = iam(tmp_path, left_out=[name])
    assert kept.std[1] < 3 * clean.std[1]
    accepted, _ = iam(tmp_path, largest_offset=1e9)
    assert accepted.std[1] > 10 * clean.std[1]
    assert any(f"{name}), step" in note for note in accepted.notes)
    with pytest.raises(DataError, match=r"more than the option `largest_offset: 1000`"):
        iam(tmp_path, largest_offset=1000)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(10))
def test_the_movement_between_strokes_is_not_a_stray_point(seed, tmp_path):
    rng = np.random.default_rng(seed)
    lines = three_forms(seed)
    for line in lines["train"]["a01-000u"]:  # words far apart
        for i, stroke in enumerate(line):
            line[i] = [(x + 300 * i, y + rng.normal(0, 50)) for x, y in stroke]
    spec, _ = iam(tmp_path, lines)
    assert any(note.startswith("the largest offset is") for note in spec.notes)
