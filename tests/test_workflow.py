"""The Snakefile: dry runs, lint, whole runs, killed and resumed, and with nothing left to do."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT
from safetensors.torch import load_file

from repro.config.recipes import load, merge

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
FASTER = {"datasets": ["linear_gaussian"], "models": ["dmm"], "training": {"learning_rate": 0.01}}
SMOKE = ["--config", "preset=smoke"]
WHOLE = ["all", "--configfile", "tiny.yaml"]


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
    copy_workflow(tmp_path / "my copy")
    return tmp_path / "my copy"


def copy_workflow(folder):
    for name in ("config", "profiles", "envs", "repro/reports/templates"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "Snakefile", folder)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))


def snakemake(folder, *arguments):
    command = [tool("snakemake"), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)


def test_licensed_data_are_planned_if_present_and_left_out_otherwise(home):
    arguments = ["all", "--dry-run", "--config", "preset=paper-speech", "seeds=[0]"]
    without = snakemake(home, *arguments)
    assert without.returncode == 0 and "dataset=timit" not in without.stdout + without.stderr
    (home / "corpora" / "timit").mkdir(parents=True)
    given = snakemake(home, *arguments, "corpora=corpora")
    assert given.returncode == 0 and "dataset=timit" in given.stdout + given.stderr
    assert "dataset=blizzard" not in given.stdout + given.stderr


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A copy whose training was ended by SIGKILL in mid-run, and whose second call finished."""
    folder = tmp_path_factory.mktemp("killed") / "my copy"
    copy_workflow(folder)
    state = folder / "runs/smoke/linear_gaussian/dmm/seed0/state/last.pt"
    process = subprocess.Popen(
        [tool("snakemake"), "--cores", "2", *WHOLE],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=ENVIRONMENT,
    )
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # snakemake and its jobs, as a power cut would
    process.wait()
    assert state.exists() and not (state.parent.parent / "checkpoint.safetensors").exists()
    done = snakemake(folder, *WHOLE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.fault
def test_a_second_snakemake_is_refused_and_a_killed_one_needs_no_unlocking(home):
    """The training outlives its snakemake, and the next call waits for it."""
    state = home / "runs/smoke/linear_gaussian/dmm/seed0/state/last.pt"
    command = [tool("snakemake"), "--cores", "2", *WHOLE]
    first = subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = snakemake(home, *WHOLE)
    assert second.returncode != 0 and "cannot be locked" in second.stderr + second.stdout
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert list((home / ".snakemake/locks").glob("*.lock"))
    again = snakemake(home, "runs/smoke/linear_gaussian/dmm/seed0.json", *WHOLE[1:])
    assert again.returncode == 0, again.stderr


@pytest.mark.fault
def test_file_times_that_jump_train_nothing_again(killed_and_resumed):
    data = killed_and_resumed / "runs/data/linear_gaussian"
    for path, hours in ((data / "sequences.safetensors", 5), (data / "raw.json", -5)):
        os.utime(path, (time.time() + 3600 * hours,) * 2)
    again = snakemake(killed_and_resumed, *WHOLE)
    assert again.returncode == 0 and "rule train" not in again.stderr + again.stdout


@pytest.mark.fuzz
def test_a_mirror_of_any_name_stays_a_word(home):
    mirror = home / "a '$(touch hacked)' \"mirror\"; touch hacked"
    mirror.mkdir()
    target = "runs/data/linear_gaussian/raw.json"
    done = snakemake(home, target, "--configfile", "tiny.yaml", "--config", f"mirror={mirror}")
    assert done.returncode == 0, done.stderr
    assert not (home / "hacked").exists()


@pytest.mark.fault
def test_a_killed_training_resumes_to_the_bits_of_an_unbroken_one(killed_and_resumed, tmp_path):
    cell = killed_and_resumed / "runs/smoke/linear_gaussian/dmm"
    assert "resumes after epoch" in (cell / "seed0" / "train.log").read_text()
    data = killed_and_resumed / "runs/data"
    shutil.copytree(data, tmp_path / "runs/data")
    command = [tool("repro"), "train", "--preset", "smoke", "--dataset", "linear_gaussian"]
    command += ["--model", "dmm", "--seed", "0", "--config", cell / "config.yaml"]
    command += ["--device", "auto", "--threads", "1", "--wandb", "disabled"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    name = "seed0/checkpoint.safetensors"
    resumed = load_file(cell / name)
    unbroken = load_file(tmp_path / "runs/smoke/linear_gaussian/dmm" / name)
    assert all(unbroken[key].equal(resumed[key]) for key in unbroken)


@pytest.mark.fault
def test_what_fails_costs_nothing_else_and_is_named_last(home):
    """A data set that cannot be read and a model that cannot be built, next to working ones."""
    (home / "bad").mkdir()
    (home / "bad" / "train.npz").write_bytes(b"not an archive")
    (home / "config" / "broken.py").write_text(
        "def build(spec):\n    raise RuntimeError('no glue')\n"
    )
    models, datasets = load("starter")["models"], load("starter")["datasets"]
    local = {"local": "bad", "reader": "arrays:read_npz", "sources": [], "options": {}}
    bad = {key: value for key, value in datasets["linear_gaussian"].items() if key != "expected"}
    settings = {
        "preset": "smoke",
        "models": {"broken": models["exact"] | {"family": "config/broken.py:build"}},
        "datasets": merge(TINY["datasets"], {"bad": bad | local}),
        "experiments": [
            {"datasets": ["linear_gaussian"], "models": ["exact", "broken"]},
            {"datasets": ["bad"], "models": ["marginal"], "training": {"max_epochs": 1}},
        ],
    }
    (home / "tiny.yaml").write_text(yaml.safe_dump(settings))
    done = snakemake(home, *WHOLE)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-3:]
    assert "linear_gaussian/broken, seed 0: train failed: RuntimeError: no glue (runs/" in last[0]
    assert last[1].startswith("bad: prepare failed: DataError: ") and "train.npz" in last[1]
    assert last[2] == "the other 1 of 3 results: runs/smoke/partial/report.html"
    partial = home / "runs/smoke/partial"
    assert "Kalman (exact)" in (partial / "tables/linear_gaussian.md").read_text()
    assert "no glue" in (partial / "report.html").read_text()
    # What was repaired is run, and nothing of the partial report stays.
    settings["experiments"] = settings["experiments"][1:]
    (home / "tiny.yaml").write_text(yaml.safe_dump(settings))
    walks = [np.random.default_rng(n).standard_normal((9, 2)).cumsum(0) for n in range(8)]
    for part in ("train", "valid", "test"):
        np.savez(home / "bad" / f"{part}.npz", *walks)
    again = snakemake(home, *WHOLE)
    assert again.returncode == 0, again.stderr
    assert "bad" in (home / "runs/smoke/report.html").read_text() and not partial.exists()


def test_seeds_that_train_together_are_one_job_whose_results_serve_single_seeds_too(home):
    settings = ["--config", "seeds=[0,1]"]
    cells = [
        "runs/smoke/linear_gaussian/dmm/seed0.json",
        "runs/smoke/linear_gaussian/dmm/seed1.json",
    ]
    done = snakemake(home, *cells, "--configfile", "tiny.yaml", *settings, "stack_seeds=true")
    assert done.returncode == 0, done.stderr
    log = (home / "runs/smoke/linear_gaussian/dmm/stacked/train.log").read_text()
    assert "dmm linear_gaussian seed 0  epoch 12" in log and "seed 1  epoch 12" in log
    apart = snakemake(home, *cells, "--configfile", "tiny.yaml", *settings)
    assert apart.returncode == 0 and "Nothing to be done" in apart.stderr + apart.stdout


def test_a_finished_workflow_has_a_report_and_nothing_to_do(killed_and_resumed):
    report = (killed_and_resumed / "runs/smoke/report.html").read_text()
    assert "Kalman (exact)" in report and "linear_gaussian" in report
    again = snakemake(killed_and_resumed, *WHOLE)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr + again.stdout
    own = snakemake(killed_and_resumed, *WHOLE, "--report", "snakemake.html")
    assert own.returncode == 0, own.stderr
    page = (killed_and_resumed / "snakemake.html").read_text()
    assert all(f'"{name}"' in page for name in ("Tables", "Figures", "Check", "Report"))
    assert "nats per step, higher is better" in page


@pytest.mark.parametrize(
    ("changes", "trained"),
    [
        ({}, []),
        ({"evaluation": {"num_samples": 7}}, []),
        ({"wandb": "offline", "device": "cpu"}, []),
        ({"experiments": [*TINY["experiments"], FASTER]}, ["dmm"]),
        ({"seeds": [0, 1]}, ["dmm", "exact"]),
    ],
)
def test_only_what_a_setting_touches_is_trained_again(changes, trained, killed_and_resumed):
    settings = killed_and_resumed / "changed.yaml"
    settings.write_text(yaml.safe_dump(TINY | changes))
    done = snakemake(killed_and_resumed, "all", "--configfile", settings.name, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    outputs = [line for line in lines if line.strip().startswith("output:")]
    planned = [line for line in outputs if "checkpoint.safetensors" in line]
    assert sorted(line.split("/")[3] for line in planned) == trained


ADDRESS = "https://example.org/another.whl"
WORDS = {key: "another" for key in ("title", "description", "licence")}
CHANGES_NO_BYTE = {
    "words": (
        {"datasets": {"linear_gaussian": WORDS}, "models": {"dmm": {"citation": "another"}}},
        ["mirror=config/", "corpora=config"],
        set(),
    ),
    "model's title": (
        {"models": {"dmm": {"title": "another"}}},
        [],
        {"all", "tables", "figures", "report"},
    ),
}


@pytest.mark.fault
@pytest.mark.parametrize("change", CHANGES_NO_BYTE)
def test_what_changes_no_byte_runs_nothing_again(change, killed_and_resumed):
    changes, settings, expected = CHANGES_NO_BYTE[change]
    (killed_and_resumed / "changed.yaml").write_text(yaml.safe_dump(merge(TINY, changes)))
    settings = ["--config", *settings] if settings else []
    arguments = ["all", "--configfile", "changed.yaml", "--dry-run", *settings]
    assert planned_rules(snakemake(killed_and_resumed, *arguments)) == expected


@pytest.mark.fault
@pytest.mark.parametrize("how", ["by force", "for another reason"])
def test_data_prepared_again_to_the_same_bytes_train_nothing(how, killed_and_resumed):
    counts = {"sequences": {"train": 200, "valid": 8, "test": 8}}
    settings = merge(TINY, {"datasets": {"linear_gaussian": {"expected": counts}}})
    (killed_and_resumed / "changed.yaml").write_text(yaml.safe_dump(settings))
    arguments = ["--forcerun", "prepare"] if how == "by force" else ["--configfile", "changed.yaml"]
    checkpoint = "runs/smoke/linear_gaussian/dmm/seed0/checkpoint.safetensors"
    before = (killed_and_resumed / checkpoint).stat().st_mtime_ns
    done = snakemake(killed_and_resumed, *WHOLE, *arguments)
    assert done.returncode == 0, done.stderr
    assert "checkpoint prepare:" in done.stderr + done.stdout
    assert (killed_and_resumed / checkpoint).stat().st_mtime_ns == before


def test_data_that_did_change_are_trained_on_again(killed_and_resumed):
    other = merge(TINY, {"datasets": {"linear_gaussian": {"normalise": "none"}}})
    (killed_and_resumed / "changed.yaml").write_text(yaml.safe_dump(other))
    done = snakemake(killed_and_resumed, "all", "--configfile", "changed.yaml", "--dry-run")
    assert {"prepare", "train", "evaluate"} <= planned_rules(done)


def planned_rules(done):
    """The rules that a dry run would run."""
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    rules = [
        line.split()[-1].rstrip(":")
        for line in lines
        if re.match("(local)?(rule|checkpoint) ", line)
    ]
    if not rules:
        assert any("Nothing to be done" in line for line in lines)
    return set(rules)
