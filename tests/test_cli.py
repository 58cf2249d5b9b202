"""The command line: what users see when something is wrong, and wandb offline."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import run
from conftest import ROOT

import repro
from repro.cli import app
from repro.cli.arguments import without_results
from repro.cli.data import configure
from repro.cli.run import train
from repro.config import recipes as configuration
from repro.kernels import dispatch
from repro.results.record import read, write

COMMANDS = sorted(
    command.name or command.callback.__name__.replace("_", "-")
    for command in app.registered_commands
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A copy of the configuration to run in, with linear_gaussian prepared and much smaller."""
    return make_home(tmp_path_factory.mktemp("a folder with spaces"))


def make_home(folder):
    (folder / "config").mkdir()
    for path in (ROOT / "config").glob("*.yaml"):
        (folder / "config" / path.name).write_text(path.read_text())
    path = folder / "config" / "datasets.yaml"
    datasets = yaml.safe_load(path.read_text())
    sequences = {"train": 40, "valid": 10, "test": 10}
    datasets["datasets"]["linear_gaussian"]["options"]["sequences"] = sequences
    path.write_text(yaml.safe_dump(datasets))
    for command in ("fetch", "prepare"):
        assert run(folder, command, "--dataset", "linear_gaussian").returncode == 0
    return folder


def cell(command, model="dmm", dataset="linear_gaussian", seed="0", preset="smoke"):
    flags = ["--model", model, "--dataset", dataset, "--seed", seed, "--preset", preset]
    return [command, *flags]


def fails(folder, *arguments):
    """The one or two lines that a failing command prints."""
    done = run(folder, *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    return done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_subcommand_shows_an_example(command, home):
    done = run(home, command, "--help")
    assert done.returncode == 0 and f"Example: repro {command}" in done.stdout


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")
def test_the_version_names_the_commit_of_the_clone(home):
    git = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    done = run(home, "--version")
    assert done.returncode == 0 and done.stdout.startswith(f"repro {repro.__version__} (commit ")
    assert commit in done.stdout


def test_every_step_runs_by_hand(home):
    assert "checkpoint.safetensors" in run(home, *cell("train")).stdout
    assert "IS-20" in run(home, *cell("evaluate")).stdout
    assert run(home, *cell("sample")).returncode == 0
    assert "predictions.csv" in run(home, *cell("predict")).stdout
    for command in ("tables", "figures", "report"):
        done = run(home, command, "--preset", "smoke")
        assert done.returncode == 0, done.stderr
    page = (home / "runs" / "smoke" / "report.html").read_text()
    assert page.count("<svg") == 6 and "<table" in page
    # Self-contained: nothing is loaded from other files.
    assert "src=" not in page and "<link" not in page and "@import" not in page


def test_accepted_results_pass_the_check_and_better_stored_ones_fail_it(home):
    run(home, *cell("train"))
    run(home, *cell("evaluate"))
    assert run(home, "check", "--preset", "smoke").returncode == 0  # nothing stored: new
    assert run(home, "accept", "--preset", "smoke").returncode == 0
    done = run(home, "check", "--preset", "smoke")
    assert done.returncode == 0 and "2 ok" in done.stderr
    (path,) = (home / "results").rglob("seed0.json")
    stored = read(path)
    stored.per_sequence["is"] = [value + 50.0 for value in stored.per_sequence["is"]]
    write(stored, path)
    done = run(home, "check", "--preset", "smoke")
    assert done.returncode == 1 and "WORSE: linear_gaussian/dmm (is " in done.stderr
    assert run(home, "check", "--preset", "smoke", "--always-succeed").returncode == 0


def test_models_and_data_sets_can_be_listed_and_shown(home):
    everything = run(home, "list")
    assert everything.returncode == 0
    assert "dmm-aug" in everything.stdout and "jsb_chorales" in everything.stdout
    assert "smoke" in run(home, "list", "presets").stdout
    shown = run(home, "show", "dmm", "linear_gaussian", "--preset", "smoke").stdout
    # Z = 4 and widths of 16 in this preset; the transition's mean is linear in z.
    assert "latent: 4" in shown and "transition.linear_mean.weight" in shown and "4×4" in shown
    assert "known once the data are prepared" in run(home, "show", "dmm", "jsb_chorales").stdout


def test_an_option_that_is_not_given_is_the_presets(home, monkeypatch):
    monkeypatch.chdir(home)
    preset = yaml.safe_load(Path("config/smoke.yaml").read_text())
    changes = {"preset": "plain", "kernels": "plain", "precision": "tf32"}
    evaluation = {**preset["evaluation"], "validation_samples": 3}
    own = {**preset, **changes, "evaluation": evaluation}
    Path("config/plain.yaml").write_text(yaml.safe_dump(own))
    configure("linear_gaussian", "dmm", "plain")
    frozen = Path("runs/plain/linear_gaussian/dmm/config.yaml")
    seen = {}

    def record(*arguments, graphs):
        seen.update(kernels=dispatch.current().kernels, samples=arguments[-1])
        return []

    monkeypatch.setattr("repro.training.run.train_seeds", record)
    monkeypatch.setattr(
        "repro.runtime.devices.prepare_device",
        lambda *wanted: seen.update(precision=wanted[2]) or torch.device("cpu"),
    )
    options = {"device": "cpu", "threads": 1, "wandb": "disabled"}
    train("linear_gaussian", "dmm", None, "plain", frozen, **options)
    assert seen == {"kernels": "plain", "samples": 3, "precision": "tf32"}


def test_licensed_data_that_are_there_are_not_called_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = configuration.load("paper-speech")
    there, *missing = configuration.not_supplied(config)
    (tmp_path / there).mkdir()
    changed = {**config, "corpora": str(tmp_path)}
    monkeypatch.setattr(configuration, "load", lambda preset: changed)
    lines = without_results("paper-speech", [])
    for name in (there, *missing):
        (line,) = [line for line in lines if line.startswith(name)]
        assert ("not supplied" in line) == (name in missing)


def test_an_unknown_name_suggests_the_nearest(home):
    assert "did you mean 'dmm'" in fails(home, *cell("train", model="dm"))
    assert "did you mean 'linear_gaussian'" in fails(home, *cell("train", dataset="linear_gausian"))
    assert "did you mean 'smoke'" in fails(home, *cell("train", preset="smok"))
    assert "no data set 'x'" in fails(home, "fetch", "--dataset", "x")


def test_missing_steps_are_named(home):
    assert "run `repro fetch --dataset japanese_vowels`" in fails(
        home, "prepare", "--dataset", "japanese_vowels"
    )
    assert "train it first" in fails(home, *cell("evaluate", seed="7"))
    assert "no results under runs/starter" in fails(home, "tables")


def test_checkpoint_of_another_model_is_refused(home):
    run(home, *cell("train", model="exact"))
    other = "runs/smoke/linear_gaussian/exact/seed0/checkpoint.safetensors"
    error = fails(home, *cell("evaluate"), "--checkpoint", other)
    assert "is a checkpoint of model exact, not dmm" in error


def test_a_wrong_device_is_explained(home):
    assert "torch sees no GPU" in fails(home, *cell("train"), "--device", "cuda")


@pytest.mark.fault
def test_own_data_are_fetched_and_prepared_by_hand(home):
    """Every message that tells users to run `repro fetch` or `repro prepare` can be followed."""
    preset = yaml.safe_load((ROOT / "config/templates/own.yaml").read_text())
    preset["models"] = {}
    preset["experiments"] = [{"datasets": ["own_data"], "models": ["marginal"]}]
    (home / "config" / "own.yaml").write_text(yaml.safe_dump(preset))
    (home / "own_data").mkdir()
    walks = [np.random.default_rng(n).standard_normal((9, 2)).cumsum(0) for n in range(8)]
    for part in ("train", "valid", "test"):
        np.savez(home / "own_data" / f"{part}.npz", *walks)
    named = ["--dataset", "own_data", "--preset", "own"]
    for command in ("fetch", "prepare"):
        assert "add --preset own" in fails(home, command, "--dataset", "own_data")
        done = run(home, command, *named)
        assert done.returncode == 0, done.stderr
    (home / "config" / "own.yaml").unlink()


@pytest.mark.fault
def test_full_disk_leaves_nothing_half_written(home):
    """/dev/full refuses every byte: here it is the temporary file of a result."""
    script = (
        "import os, pathlib, repro.runtime.files as f\n"
        "from repro.errors import ReproError\n"
        "path = pathlib.Path('out.json')\n"
        "os.symlink('/dev/full', f'.out.json.{os.getpid()}.partial')\n"
        "try:\n    f.write_text(path, 'x' * 100000)\n"
        "except ReproError as e:\n    print(e, path.exists(), os.listdir('.'))\n"
    )
    folder = home / "disk"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert "cannot write out.json: No space left on device" in done.stdout
    assert done.stdout.strip().endswith("False []")


def test_wandb_works_offline_without_an_account(home):
    pytest.importorskip("wandb")
    done = run(home, *cell("train", seed="5"), "--wandb", "offline")
    assert done.returncode == 0, done.stderr
    runs = list((home / "runs" / "smoke" / "linear_gaussian" / "dmm").rglob("*.wandb"))
    assert len(runs) == 1 and runs[0].stat().st_size > 0
    # Another training and the evaluation write into the same run.
    run(home, *cell("train", seed="5"), "--wandb", "offline")
    done = run(home, *cell("evaluate", seed="5"), "--wandb", "offline")
    assert done.returncode == 0, done.stderr
    (path,) = (home / "runs" / "smoke" / "linear_gaussian" / "dmm").rglob("*.wandb")
    assert b"test_is" in path.read_bytes()


def test_wandb_without_an_account_does_not_stop_a_training(home):
    pytest.importorskip("wandb")
    command = [sys.executable, "-m", "repro", *cell("train", seed="6"), "--wandb", "online"]
    environment = {**os.environ, "WANDB_API_KEY": "", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    environment |= {"HOME": str(home), "WANDB_INIT_TIMEOUT": "5"}
    done = subprocess.run(
        command, cwd=home, capture_output=True, text=True, timeout=300, env=environment
    )
    assert done.returncode == 0 and "continues without wandb" in done.stderr, done.stderr
