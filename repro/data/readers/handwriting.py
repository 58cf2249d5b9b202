"""Pen trajectories: a step is (pen lifts after it, Δx, Δy)."""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from repro.data.parts import NamedSequences, Part
from repro.errors import DataError
from repro.runtime.files import is_hidden, visible_files

FORM = r"[a-z]\d\d-\d+[a-z]?"  # a form's name in IAM-OnDB's lists, such as a01-000u
LATTICE_SPACING = 0.785454  # of the coordinates in Omniglot's drawings (a screen pixel)


def read_omniglot(files: dict[str, Path], options: dict) -> dict[str, list[np.ndarray]]:
    """Return Omniglot's drawings, (T, 3) each, split by alphabet.

    The two archives share some alphabets; a drawing that is in both is taken once. Each stroke is
    resampled at equal intervals of about `options["interval_ms"]` (a browser reports the mouse at
    irregular times; IAM-OnDB's pen is sampled at regular ones). Coordinates lie on a lattice, on
    which a density has no upper limit, so uniform noise as wide as the lattice's spacing is added
    to each (`options["noise_seed"]`).
    """
    drawings: dict[str, str] = {}
    for path in files.values():
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(".txt") and not is_hidden(name):
                    drawings[name.partition("/")[2]] = archive.read(name).decode()
    rng = np.random.default_rng(options["noise_seed"])
    parts: dict[str, list[np.ndarray]] = {part: [] for part in ("train", "valid", "test")}
    part_of = {name: part for part, names in options["alphabets"].items() for name in names}
    for name, text in sorted(drawings.items()):
        alphabet = name.partition("/")[0]
        if alphabet not in part_of:
            raise DataError(
                f"omniglot_strokes: no part in the options lists the alphabet {alphabet}."
            )
        strokes = [
            _at_equal_times(stroke, options["interval_ms"]) for stroke in _parse_omniglot(text)
        ]
        noise = rng.uniform(-LATTICE_SPACING / 2, LATTICE_SPACING / 2, (sum(map(len, strokes)), 2))
        parts[part_of[alphabet]].append(steps_of(strokes, noise))
    return parts


def read_iam_ondb(files: dict[str, Path], options: dict) -> dict[str, Part]:
    """Return the lines of IAM-OnDB, (T, 3) each, split by the lists of its first task.

    The folder holds lineStrokes/ and, anywhere below it, the lists that `options["lists"]` names
    for each part: one form per line, whose lines of writing are
    lineStrokes/a01/a01-000/a01-000u-01.xml and so on. Forms and lines of writing that
    `options["left_out"]` names (a01-000u, a01-000u-01) are left out.

    Raises:
        DataError: a list or a form's strokes are missing; a list is empty; a form is in two lists;
            a file has a stroke without points.
    """
    (folder,) = files.values()
    left_out = set(options.get("left_out", []))
    part_of: dict[str, str] = {}
    named: set[str] = set()
    parts: dict[str, Part] = {}
    for part, name in options["lists"].items():
        lines: list[Path] = []
        for form in _forms(folder, name):
            if form in part_of:
                raise DataError(
                    f"iam_ondb: {form} is listed twice, in {part_of[form]} and in {name}: a form "
                    "belongs to one part. Remove it from one list."
                )
            part_of[form] = name
            written = _stroke_files(folder, form, name)
            named |= {form, *(path.stem for path in written)}
            if form not in left_out:
                lines += [path for path in written if path.stem not in left_out]
        parts[part] = _lines(lines)
    if left_out - named:
        raise DataError(f"iam_ondb: `left_out` names {min(left_out - named)}, which is in no list.")
    return parts


def _forms(folder: Path, name: str) -> list[str]:
    found = [path for path in visible_files(folder) if path.name == name]
    if not found:
        raise DataError(f"iam_ondb: there is no {name} below {folder}.")
    if len(found) > 1:
        raise DataError(f"iam_ondb: there are {len(found)} files {name}: {found[0]}, {found[1]}.")
    forms = found[0].read_text(errors="replace").split()
    if not forms:
        raise DataError(f"iam_ondb: {found[0]} is empty; it lists one form per line.")
    for form in forms:
        if not re.fullmatch(FORM, form):
            raise DataError(f"iam_ondb: {found[0]} is not a list of forms: it has {form[:40]!r}.")
    return forms


def _stroke_files(folder: Path, form: str, name: str) -> list[Path]:
    below = folder / "lineStrokes" / form[:3] / re.sub(r"\D+$", "", form)
    written = sorted(below.glob(f"{form}-*.xml"))
    if not written:
        raise DataError(f"iam_ondb: {name} lists {form}, but {below} has no strokes of it.")
    return written


def _lines(paths: list[Path]) -> NamedSequences:
    lines = [steps_of(_parse_iam(path)) for path in paths]
    return NamedSequences([path.stem for path in paths], lines.__getitem__)


def steps_of(strokes: list[np.ndarray], noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the steps (T, 3) from each point of a drawing to the next.

    The pen-up bit is 1 where the stroke ends at the step's point; the first point only says where
    the drawing begins, and is not a step.
    """
    points = np.concatenate(strokes) + noise
    lifts = np.zeros(len(points))
    lifts[np.cumsum([len(stroke) for stroke in strokes]) - 1] = 1.0
    return np.column_stack([lifts[1:], np.diff(points, axis=0)])


def _parse_omniglot(text: str) -> list[np.ndarray]:
    strokes: list[list[list[float]]] = [[]]
    for line in text.split():
        if line == "BREAK":
            strokes.append([])
        elif line != "START":
            strokes[-1].append([float(value) for value in line.split(",")])
    return [np.array(stroke) for stroke in strokes if stroke]


def _at_equal_times(stroke: np.ndarray, interval: float) -> np.ndarray:
    x, y, time = stroke.T
    time = np.maximum.accumulate(time)  # in a handful of drawings the clock steps back
    count = int((time[-1] - time[0]) // interval) + 1
    times = np.linspace(time[0], time[-1], max(count, 2)) if time[-1] > time[0] else time[:1]
    return np.column_stack([np.interp(times, time, x), np.interp(times, time, y)])


def _parse_iam(path: Path) -> list[np.ndarray]:
    try:
        text = path.read_bytes()
        if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
            raise ValueError("it declares entities, as no stroke file does")
        root = ElementTree.fromstring(text)
        strokes = [
            [[float(point.attrib["x"]), float(point.attrib["y"])] for point in stroke.iter("Point")]
            for stroke in root.iter("Stroke")
        ]
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise DataError(f"iam_ondb: {path} is damaged ({error}).") from None
    except OSError as error:
        raise DataError(f"iam_ondb: {path} cannot be read ({error.strerror}).") from None
    remedy = f"Correct it, or leave it out: `left_out: [{path.stem}]` in the options."
    empty = [i for i, stroke in enumerate(strokes, start=1) if not stroke]
    if empty:
        raise DataError(f"iam_ondb: stroke {empty[0]} of {path} has no points. {remedy}")
    if sum(map(len, strokes)) < 2 or not np.isfinite(np.concatenate(strokes)).all():
        raise DataError(
            f"iam_ondb: {path} has fewer than two points, or one that is not a number. {remedy}"
        )
    return [np.array(stroke) for stroke in strokes]
