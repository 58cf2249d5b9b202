"""Weights kept with stored results: the same model, and nothing else, comes back."""

import shutil

import pytest
import torch
from commands import run
from test_api import python_blocks
from test_cli import ROOT, cell, fails, make_home

import repro
from repro.errors import CheckpointError, DataError
from repro.evaluation.stored_weights import stored, write_weights
from repro.results.record import read, write
from repro.training.checkpoints import load_checkpoint, weights_digest

RUN = "smoke/linear_gaussian/dmm/seed0"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A clone whose preset smoke has one stored result with its weights."""
    home = tmp_path_factory.mktemp("kept")
    make_home(home)
    for command in ("train", "evaluate"):
        assert run(home, *cell(command)).returncode == 0
    assert run(home, "accept", "--preset", "smoke").returncode == 0
    done = run(home, "weights", "--preset", "smoke")
    assert "smoke/linear_gaussian/dmm, seed 0: " in done.stdout, done.stderr
    return home


@pytest.fixture
def home(kept, tmp_path, monkeypatch):
    """A copy of it, as the working directory."""
    shutil.copytree(kept, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.oracle
def test_loaded_weights_are_those_of_the_training(home):
    trained, _ = load_checkpoint(home / f"runs/{RUN}/checkpoint.safetensors")
    shutil.rmtree(home / "runs" / "smoke")
    loaded = repro.load("dmm", "linear_gaussian")
    assert not loaded.training
    for name, tensor in trained.state_dict().items():
        assert loaded.state_dict()[name].equal(tensor)


def test_one_command_finds_the_stored_number_again(home):
    shutil.rmtree(home / "runs")
    done = run(home, "verify", "dmm", "linear_gaussian")
    assert done.returncode == 0 and "the same within 1e-05" in done.stdout, done.stderr


@pytest.mark.fault
def test_another_number_is_said_and_fails(home):
    path = home / f"results/{RUN}.json"
    result = read(path)
    moved = [value + 0.1 for value in result.per_sequence["is"]]
    result.per_sequence["is"][:] = moved
    write(result, path)
    done = run(home, "verify", "dmm", "linear_gaussian")
    assert done.returncode == 1 and "NOT the same" in done.stdout


def test_the_card_has_number_recipe_and_digests(home):
    text = (home / f"weights/{RUN}.md").read_text()
    result = read(home / f"results/{RUN}.json")
    assert f"{result.per_step('is'):.4f}" in text and "max_epochs: 1" in text
    assert result.training["weights_sha256"] in text and result.data["sha256"] in text


@pytest.mark.fault
def test_weights_of_another_training_are_refused(home):
    assert run(home, *cell("train", seed="1")).returncode == 0
    other = home / f"runs/{RUN[:-1]}1/checkpoint.safetensors"
    shutil.copy(other, home / f"weights/{RUN}.safetensors")
    with pytest.raises(CheckpointError, match="seed 1, not 0"):
        repro.load("dmm", "linear_gaussian")


@pytest.mark.fault
def test_changed_weights_are_refused(home):
    path = home / f"results/{RUN}.json"
    result = read(path)
    result.training["weights_sha256"] = "0" * 64
    write(result, path)
    with pytest.raises(CheckpointError, match="restore it from git"):
        repro.load("dmm", "linear_gaussian")
    with pytest.raises(DataError, match="run the preset and `repro accept` it"):
        write_weights("smoke", 0)


@pytest.mark.fault
def test_unknown_and_ambiguous_weights_are_named(home):
    assert stored() == [("smoke", "linear_gaussian", "dmm", 0)]
    assert "`repro weights` lists" in fails(home, "verify", "dmm", "linear_gaussian", "--seed", "7")
    with pytest.raises(DataError, match="of preset starter are stored"):
        repro.load("dmm", "linear_gaussian", preset="starter")
    shutil.copytree(home / "weights" / "smoke", home / "weights" / "starter")
    with pytest.raises(DataError, match="smoke and starter: name the preset"):
        repro.load("dmm", "linear_gaussian")


def test_the_quick_starts_lines_run(tmp_path, monkeypatch, capsys):
    """In an empty folder, by the weights of the repository."""
    monkeypatch.chdir(tmp_path)
    exec(python_blocks("docs/quickstart.md")[1], {})
    stored = read(ROOT / "results/starter/linear_gaussian/dmm/seed0.json")
    assert float(capsys.readouterr().out.split()[-1]) == pytest.approx(
        stored.per_step("is"), abs=0.02
    )


@pytest.mark.oracle
def test_the_digest_knows_names_shapes_and_values_but_not_their_order():
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}
    digest = weights_digest(weights)
    assert digest == weights_digest(dict(reversed(weights.items())))
    assert digest != weights_digest({"a": weights["a"].reshape(3, 2), "b": weights["b"]})
    assert digest != weights_digest({"a": weights["a"], "c": weights["b"]})
    assert digest != weights_digest({"a": weights["a"] + 1e-6, "b": weights["b"]})
    assert digest != weights_digest({"a": weights["a"], "b": weights["b"].double()})
