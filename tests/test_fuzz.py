"""Hostile and damaged input: whatever the bytes, only the project's own errors are raised."""

import copy
import io
import json
import tarfile
import uuid
import warnings
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import ROOT, count_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat
from test_handwriting import LISTS, SQUARE, corpus, line_of
from test_results import result
from test_training import CPU, recipe

from repro.config import recipes as configuration
from repro.data import prepared
from repro.data.download import LARGEST_MEMBER, fetch
from repro.data.readers.handwriting import read_iam_ondb
from repro.data.readers.pianoroll import read_mat
from repro.data.readers.speech import read_timit
from repro.errors import CheckpointError, DataError, ReproError
from repro.reports.published import render_published
from repro.results.record import read, write
from repro.training.checkpoints import load_checkpoint, load_state, save_state
from repro.training.run import train

pytestmark = pytest.mark.fuzz

FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def damaged(draw, content):
    """Bytes cut, flipped, repeated or replaced."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if not data:
            break
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["cut", "flip", "insert", "remove"]))
        if kind == "cut":
            del data[at:]
        elif kind == "flip":
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=20))
        else:
            del data[at : at + draw(st.integers(1, 30))]
    return bytes(data)


def survives(function, *arguments):
    count_input()
    with suppress(ReproError):
        return function(*arguments)


@FUZZ
@given(content=damaged(line_of(SQUARE).encode()))
def test_stroke_files(content, tmp_path):
    corpus(tmp_path, {part: {"a01-000u": [SQUARE]} for part in LISTS})
    for path in tmp_path.rglob("*.xml"):
        path.write_bytes(content)
    parts = survives(read_iam_ondb, {"iam_ondb": tmp_path}, {"lists": LISTS})
    if parts:
        assert all(np.isfinite(line).all() for lines in parts.values() for line in lines)


@FUZZ
@given(content=damaged(b"a01-000u\na01-000x\n") | st.binary(max_size=60))
def test_lists_of_forms(content, tmp_path):
    corpus(tmp_path, {part: {"a01-000u": [SQUARE]} for part in LISTS})
    (tmp_path / "lists" / "trainset.txt").write_bytes(content)
    survives(read_iam_ondb, {"iam_ondb": tmp_path}, {"lists": LISTS})


def test_entities_are_not_expanded(tmp_path):
    corpus(tmp_path, {part: {"a01-000u": [SQUARE]} for part in LISTS})
    laughs = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    for path in tmp_path.rglob("*.xml"):
        path.write_text(laughs + line_of(SQUARE).partition("?>")[2])
    with pytest.raises(DataError, match="declares entities"):
        read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})


def test_a_form_cannot_name_a_file_outside_the_folder(tmp_path):
    corpus(tmp_path, {part: {"a01-000u": [SQUARE]} for part in LISTS})
    (tmp_path / "lists" / "trainset.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match="is not a list of forms"):
        read_iam_ondb({"iam_ondb": tmp_path}, {"lists": LISTS})


@pytest.fixture(scope="module")
def sphere(tmp_path_factory):
    path = tmp_path_factory.mktemp("sphere") / "a.wav"
    samples = np.random.default_rng(0).integers(-99, 99, 500).astype(np.int16)
    soundfile.write(path, samples, 16000, subtype="PCM_16", format="NIST")
    return path.read_bytes()


@FUZZ
@given(data=st.data())
def test_recordings(data, sphere, tmp_path):
    for part in ("TRAIN", "TEST"):
        for i in range(2):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / f"{i}.WAV").write_bytes(sphere)
    (tmp_path / "TRAIN" / "0.WAV").write_bytes(data.draw(damaged(sphere)))
    options = {"sample_rate_hz": 16000, "frame": 200, "valid_sequences": 1, "split_seed": 0}
    survives(read_timit, {"timit": tmp_path}, options)


@FUZZ
@given(data=st.data())
def test_prepared_data(data, tmp_path):
    path = tmp_path / "walk" / "sequences.safetensors"
    parts = {part: [np.ones((3, 2)), np.zeros((2, 2))] for part in prepared.PARTS}
    prepared.save(parts, "walk", {"kind": "binary", "normalise": "none"}, path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    survives(prepared.load, path, ("train", "test"))


@FUZZ
@given(data=st.data())
def test_results(data, tmp_path):
    write(result(), tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(data.draw(damaged((tmp_path / "r.json").read_bytes())))
    survives(read, tmp_path / "r.json")


@pytest.fixture(scope="module")
def rolls(tmp_path_factory):
    path = tmp_path_factory.mktemp("rolls") / "r.mat"
    cell = np.empty((1, 2), dtype=object)
    cell[0, :] = [np.eye(4, 88), np.eye(3, 88)]
    savemat(path, {f"{part}data": cell for part in prepared.PARTS}, do_compression=False)
    return path.read_bytes()


TABLES = ["srnn-2016-table-2", "vrnn-2015-table-1", "binarised-mnist"]


@FUZZ
@given(data=st.data(), name=st.sampled_from(["published.csv", "table.yaml"]))
@pytest.mark.parametrize("table", TABLES)
def test_published_tables(table, data, name, tmp_path):
    for file in ("published.csv", "table.yaml"):
        content = (ROOT / "paper_tables" / table / file).read_bytes()
        (tmp_path / file).write_bytes(data.draw(damaged(content)) if file == name else content)
    survives(render_published, tmp_path, tmp_path / "results")


@FUZZ
@given(data=st.data())
def test_piano_rolls(data, rolls, tmp_path):
    (tmp_path / "r.mat").write_bytes(data.draw(damaged(rolls)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        survives(read_mat, {"r.mat": tmp_path / "r.mat"}, {})


@pytest.fixture(scope="module")
def checkpoint(walk, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return train(recipe(max_epochs=1), walk, 0, folder, CPU, "disabled").read_bytes()


@FUZZ
@given(data=st.data())
def test_checkpoints(data, checkpoint, tmp_path):
    (tmp_path / "c.safetensors").write_bytes(data.draw(damaged(checkpoint)))
    survives(load_checkpoint, tmp_path / "c.safetensors")


def test_a_state_that_would_run_code_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "hacked",))

    save_state(tmp_path / "last.pt", {"fingerprint": "f", "model": Hostile()})
    with pytest.raises(CheckpointError, match="is damaged"):
        load_state(tmp_path / "last.pt", "f")
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("name", ["/etc/{}.wav", "../../{}.wav", "a/{}.wav"])
def test_archives_are_read_and_never_unpacked(name, tmp_path):
    path = tmp_path / "mirror" / "d.tar.gz"
    path.parent.mkdir()
    marker = f"repro-{uuid.uuid4().hex}"
    with tarfile.open(path, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo(name.format(marker)))
        link = tarfile.TarInfo("b.wav")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
        bomb = tarfile.TarInfo("c.wav")
        bomb.size = LARGEST_MEMBER + 1
        packed.addfile(bomb, io.BytesIO(bytes(bomb.size)))
    source = {"file": "d.tar.gz", "url": [], "content": ".wav", "content_sha256": "0" * 64}
    with pytest.raises(DataError, match="truncated or changed"):
        fetch("d", {"sources": [source]}, tmp_path / "raw", path.parent)
    assert not Path(f"/etc/{marker}.wav").exists()
    assert not list(tmp_path.parent.parent.rglob(f"{marker}*"))


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


MERGED: dict = {}
for name in ("datasets", "models", "smoke"):
    content = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    MERGED = configuration.merge(MERGED, content)


def positions(node, path=()):
    """Every path in nested dictionaries and lists."""
    keys = node if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    for key in keys:
        yield (*path, key)
        yield from positions(node[key], (*path, key))


@settings(FUZZ, max_examples=250)
@given(path=st.sampled_from(list(positions(MERGED))), value=ODD)
def test_configurations(path, value, monkeypatch):
    """A value anywhere in a preset replaced by anything."""
    monkeypatch.chdir(ROOT)
    config = copy.deepcopy(MERGED)
    *parents, last = path
    node = config
    for key in parents:
        node = node[key]
    node[last] = value
    survives(configuration.check, config)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", json.dumps({"schema": 1})])
def test_results_of_another_shape(text, tmp_path):
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(DataError):
        read(tmp_path / "r.json")
