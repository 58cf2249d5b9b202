"""Tasks, and models from outside the package on them."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_cli import make_home

import repro
from repro.data import prepared
from repro.errors import ConfigError, DataError
from repro.tasks import task as tasks
from repro.tasks.task import of_file


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def linear(home, monkeypatch):
    """The task of ten short-lived sequences of the linear-Gaussian model."""
    monkeypatch.chdir(home)
    return repro.task("linear_gaussian")


def stored_parts(seed=0, columns=2):
    rng = np.random.default_rng(seed)
    return {
        part: [3.0 + 5.0 * rng.standard_normal((n, columns)) for n in (4, 2, 7)]
        for part in ("train", "valid", "test")
    }


def made(folder, parts, kind="real", normalise="per_dimension", units="original"):
    path = folder / "own" / "sequences.safetensors"
    prepared.save(parts, "own", {"kind": kind, "normalise": normalise}, path)
    return of_file(path, "none", units)


def test_importing_the_package_loads_no_torch():
    code = "import repro, sys; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'tsak'"):
        _ = repro.tsak


def test_parts_are_ragged_tensors_in_the_units_that_were_asked_for(tmp_path):
    parts = stored_parts()
    task = made(tmp_path, parts)
    values = np.concatenate(parts["train"])
    assert task.train.lengths == [4, 2, 7] and task.valid.lengths == [4, 2, 7]
    for ours, theirs in zip(task.train, parts["train"], strict=True):
        assert np.allclose(ours, theirs, atol=1e-5) and ours.dtype == torch.float32
    assert np.allclose(task.mean, values.mean(0)) and np.allclose(task.std, values.std(0))
    assert task.log_scale == pytest.approx(np.log(values.std(0)).sum())
    x, lengths = task.train.padded([2, 1])
    assert x.shape == (7, 2, 2) and lengths.tolist() == [7, 2] and x[2:, 1].abs().max() == 0
    normalised = of_file(task.file, "none", "normalised")
    assert np.allclose(
        normalised.train.values, (values - values.mean(0)) / values.std(0), atol=1e-5
    )
    assert normalised.log_scale == 0.0 and normalised.version == task.version
    again = task.normalised(x, lengths)
    assert torch.allclose(again, normalised.train.padded([2, 1])[0], atol=1e-6)


def test_a_task_has_no_test_part(linear):
    names = [name for name in dir(linear) if "test" in name.lower()]
    assert names == [] and linear.sequences["test"] == 10
    assert linear.licence == "none needed (generated)"


def test_the_version_changes_when_data_or_protocol_do(tmp_path, monkeypatch):
    versions = {made(tmp_path, stored_parts(seed)).version for seed in (0, 0, 1)}
    assert len(versions) == 2
    task = made(tmp_path, stored_parts())
    assert task.version in versions
    monkeypatch.setitem(tasks.PROTOCOL, "average", "mean over sequences")
    assert of_file(task.file, "none").version not in versions


@pytest.mark.fault
def test_a_task_whose_data_changed_is_refused(tmp_path):
    task = made(tmp_path, stored_parts())
    made(tmp_path, stored_parts(1))
    with pytest.raises(DataError, match="changed since this task was made"):
        _ = task.train


@pytest.mark.fault
def test_names_units_and_licences_are_asked_for(home, monkeypatch):
    monkeypatch.chdir(home)
    with pytest.raises(ConfigError, match="did you mean 'jsb_chorales'"):
        repro.task("jsb_choral")
    with pytest.raises(ConfigError, match="'raw' is not one of original, normalised"):
        repro.task("linear_gaussian", units="raw")
    with pytest.raises(DataError, match="needs a licence"):
        repro.task("timit")


def test_tasks_are_frozen(linear):
    with pytest.raises(dataclasses.FrozenInstanceError):
        linear.mean = 0
