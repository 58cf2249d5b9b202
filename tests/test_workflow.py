"""The Snakefile, run: dry, linted, whole, killed and resumed, and again with nothing to do."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from repro.config import presets

pytestmark = pytest.mark.workflow
TINY = {
    "preset": "smoke",
    "experiments": [
        {
            "datasets": ["linear_gaussian"],
            "models": ["dmm"],
            "sizes": {"latent": 2, "transition": 4, "emission": 4, "embedding": 4,
                      "inference_hidden": 4},
            "training": {"max_epochs": 12, "validate_every": 1, "batch_size": 4},
        },
        {"datasets": ["linear_gaussian"], "models": ["exact"]},
    ],
    "datasets": {
        "linear_gaussian": {"options": {"sequences": {"train": 200, "valid": 8, "test": 8}}}
    },
}  # fmt: skip


def tool(name):
    """A program of the environment that runs these tests, whatever PATH says."""
    return str(Path(sys.executable).parent / name)


ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


@pytest.fixture
def home(tmp_path):
    """A copy of the workflow in a path with a space."""
    folder = tmp_path / "my copy"
    folder.mkdir()
    for name in ("config", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return folder


def snakemake(folder, *arguments):
    command = [tool("snakemake"), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)


@pytest.mark.parametrize("preset", presets() or ["starter"])
def test_every_preset_can_be_planned(preset, home):
    done = snakemake(home, "all", "--dry-run", "--config", f"preset={preset}")
    assert done.returncode == 0, done.stderr
    assert "evaluate" in done.stdout + done.stderr


def test_linter_and_formatter_have_nothing_to_say():
    done = subprocess.run(
        [tool("snakemake"), "--lint"], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    subprocess.run([tool("snakefmt"), "--check", "Snakefile"], cwd=ROOT, check=True)
    for arguments in (["check"], ["format", "--check"]):
        subprocess.run([tool("ruff"), *arguments, "."], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("preset=nothing", "no preset 'nothing' in config/"),
        ("colour=red", "'colour' was unexpected"),
        ("seeds=3", "seeds: 3 is not of type 'array'"),
        ("mirror=/nowhere", "mirror: /nowhere is no folder"),
    ],
)
def test_a_wrong_setting_is_one_line_without_a_traceback(setting, words, home):
    done = snakemake(home, "all", "--dry-run", "--config", setting)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ConfigError")]
    assert words in line


def test_workflow_survives_a_kill_and_then_has_nothing_to_do(home):
    """SIGKILL of the training in mid-run; a second call resumes to the bits of an unbroken run."""
    arguments = ["all", "--configfile", "tiny.yaml"]
    checkpoint = home / "runs/smoke/linear_gaussian/dmm/seed0/checkpoint.safetensors"
    process = subprocess.Popen(
        [tool("snakemake"), "--cores", "2", *arguments],
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    state = checkpoint.parent / "state" / "last.pt"
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # snakemake and its jobs, as a power cut would
    process.wait()
    assert state.exists() and not checkpoint.exists()

    subprocess.run([tool("snakemake"), "--unlock"], cwd=home, capture_output=True, env=ENVIRONMENT)
    done = snakemake(home, *arguments)
    assert done.returncode == 0, done.stderr
    assert "resumes after epoch" in (checkpoint.parent / "train.log").read_text()
    report = (home / "runs/smoke/report.html").read_text()
    assert "Kalman (exact)" in report and "linear_gaussian" in report

    again = snakemake(home, *arguments)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr + again.stdout

    resumed = _weights(checkpoint)
    shutil.rmtree(checkpoint.parent)
    assert snakemake(home, *arguments).returncode == 0
    unbroken = _weights(checkpoint)
    assert all(unbroken[name].equal(resumed[name]) for name in unbroken)


def _weights(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_only_what_a_setting_touches_is_run_again(home):
    settings = TINY | {"seeds": [0, 1]}
    (home / "tiny.yaml").write_text(yaml.safe_dump(settings))
    assert snakemake(home, "all", "--configfile", "tiny.yaml").returncode == 0
    settings["experiments"][0]["training"] |= {"learning_rate": 0.01}
    (home / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = snakemake(home, "all", "--configfile", "tiny.yaml", "--dry-run")
    planned = [line for line in done.stdout.splitlines() if line.strip().startswith("output:")]
    trained = [line for line in planned if "checkpoint.safetensors" in line]
    assert len(trained) == 2 and all("/dmm/" in line for line in trained)
    settings["evaluation"] = {"num_samples": 7}
    settings["experiments"][0]["training"].pop("learning_rate")
    (home / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = snakemake(home, "all", "--configfile", "tiny.yaml", "--dry-run")
    assert "checkpoint.safetensors" not in "".join(
        line for line in done.stdout.splitlines() if line.strip().startswith("output:")
    )


def test_stored_results_render_to_the_committed_tables(tmp_path):
    """Byte for byte: nobody edits a table by hand, and a clone renders them without training."""
    stored = sorted((ROOT / "results").glob("*/"))
    assert stored
    for folder in stored:
        preset = folder.name
        done = subprocess.run(
            [tool("repro"), "tables", "--preset", preset, "--source", "results", "--out", tmp_path],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        committed = ROOT / "paper_tables" / preset
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted(
            p.name for p in committed.iterdir()
        )
        for path in tmp_path.iterdir():
            assert path.read_bytes() == (committed / path.name).read_bytes(), path.name
