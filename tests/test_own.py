"""A user's own model and data set, from the templates, without touching the package."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import ROOT, spec
from test_workflow import copy_workflow, snakemake

from repro.config.plugins import load_object
from repro.config.recipes import load
from repro.data.download import fetch
from repro.data.readers.arrays import read_npz
from repro.errors import ConfigError, DataError
from repro.models import build

TEMPLATES = ROOT / "config" / "templates"


def write_parts(folder, rng, counts=(30, 8, 8)):
    """Autoregressive sequences: x_t = 0.9 x_{t-1} + noise."""
    folder.mkdir(exist_ok=True)
    for part, count in zip(("train", "valid", "test"), counts, strict=True):
        sequences = []
        for length in rng.integers(10, 20, count):
            x = np.zeros((length, 1))
            for t in range(1, length):
                x[t] = 0.9 * x[t - 1] + 0.3 * rng.standard_normal()
            sequences.append(x)
        np.savez(folder / f"{part}.npz", *sequences)


@pytest.fixture
def home(tmp_path):
    """A copy of the workflow with the templates in place, made small."""
    folder = tmp_path / "home"
    copy_workflow(folder)
    shutil.copy(TEMPLATES / "own_model.py", folder / "config")
    preset = yaml.safe_load((TEMPLATES / "own.yaml").read_text())
    preset["seeds"] = [0]
    preset["experiments"] = [
        {"datasets": ["own_data"], "models": ["own_model", "marginal"], "training": {}}
    ]
    preset["models"]["own_model"]["training"]["max_epochs"] = 5
    (folder / "config" / "own.yaml").write_text(yaml.safe_dump(preset))
    write_parts(folder / "own_data", np.random.default_rng(0))
    return folder


@pytest.mark.workflow
def test_own_model_and_data_appear_in_the_tables(home):
    target = ["runs/own/tables/own_data.csv", "--config", "preset=own"]
    done = snakemake(home, *target)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(home / "runs/own/tables/own_data.csv").set_index("title")
    assert table["is_per_step"]["Gated RNN"] > table["is_per_step"]["Marginal"]
    assert "Nothing to be done" in snakemake(home, *target).stderr
    with (home / "config" / "own_model.py").open("a") as file:
        file.write("# changed\n")
    changed = snakemake(home, *target, "--dry-run")
    trained = [line for line in changed.stdout.splitlines() if line.startswith("train ")]
    assert trained and trained[0].split()[1] == "1"  # the user's own model, not the other
    write_parts(home / "own_data", np.random.default_rng(1))
    changed = snakemake(home, *target, "--dry-run")
    trained = [line for line in changed.stdout.splitlines() if line.startswith("train ")]
    assert trained[0].split()[1] == "2"


def test_the_template_is_a_valid_preset_and_sees_no_future(tmp_path, monkeypatch, ragged):
    copy_workflow(tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    for name in ("own.yaml", "own_model.py"):
        shutil.copy(TEMPLATES / name, "config")
    assert load("own")["models"]["own_model"]["title"] == "Gated RNN"
    model = build(spec("own", hidden=4)._replace(family="config/own_model.py:build")).double()
    x, lengths, noise = ragged(samples=1, latent=0)
    before = model(x, lengths, noise).log_likelihood
    changed = x.clone()
    changed[3:] += 1.0
    after = model(changed, lengths, noise).log_likelihood
    torch.testing.assert_close(before[:3], after[:3], rtol=0, atol=0)
    assert not before[3:].equal(after[3:])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config/absent.py:build", "No such file"),
        ("../outside.py:build", "from the repository's root"),
        ("/etc/outside.py:build", "from the repository's root"),
        ("no_such_package.module:build", "No module named"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_named(name, words):
    with pytest.raises(ConfigError, match=words):
        load_object(name, "family of model 'own'")


def test_a_folder_of_arrays_says_what_is_wrong_with_it(tmp_path):
    entry, folder = {"local": str(tmp_path / "mine"), "sources": []}, tmp_path / "raw"
    with pytest.raises(DataError, match="is not a directory; correct `local`"):
        fetch("mine", entry, folder, None)
    write_parts(tmp_path / "mine", np.random.default_rng(0))
    parts = read_npz(fetch("mine", entry, folder, None), {})
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [30, 8, 8]
    (tmp_path / "mine" / "valid.npz").unlink()
    with pytest.raises(DataError, match=r"valid\.npz is missing"):
        read_npz({"mine": folder}, {})
    np.savez(tmp_path / "mine" / "valid.npz", np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="holds Python objects"):
        read_npz({"mine": folder}, {})


@pytest.mark.fault
@pytest.mark.workflow
def test_missing_data_are_reported_in_one_line_without_a_traceback(home):
    shutil.rmtree(home / "own_data")
    done = snakemake(home, "all", "--dry-run", "--config", "preset=own")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ConfigError")]
    assert "datasets.own_data.local: own_data is not a directory" in line
