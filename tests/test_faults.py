"""Injected faults: every one ends in completion or a clear error, and a later run repairs it."""

import ctypes
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import kill_at_update, kill_at_write, run
from safetensors.torch import load_file
from test_cli import cell, make_home
from test_results import result
from test_training import CPU, recipe
from test_workflow import ENVIRONMENT, copy_workflow, tool

import repro.training.trainer as training
from repro.data import prepared
from repro.data.download import fetch
from repro.errors import ReproError
from repro.results.record import read, read_cell, result_path, write
from repro.runtime.files import sha256, write_text
from repro.training.checkpoints import load_checkpoint, load_state, save_state
from repro.training.run import train

pytestmark = pytest.mark.fault


def broken_off(folder, *arguments, before):
    """Run `repro` with a fault, which a signal must end."""
    done = run(folder, *arguments, before=before)
    assert done.returncode < 0, done.stderr


def weights_of(folder, seed):
    return load_file(cell_folder(folder, seed) / "checkpoint.safetensors")


def cell_folder(folder, seed):
    return folder / "runs" / "smoke" / "linear_gaussian" / "dmm" / f"seed{seed}"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a small data set, and a preset of 4 epochs of 5 updates on it."""
    folder = make_home(tmp_path_factory.mktemp("faults"))
    path = folder / "config" / "smoke.yaml"
    preset = yaml.safe_load(path.read_text())
    training = {"max_epochs": 4, "validate_every": 1, "batch_size": 8, "patience": None}
    preset["experiments"] = [
        {"datasets": ["linear_gaussian"], "models": ["dmm"], "training": training}
    ]
    path.write_text(yaml.safe_dump(preset))
    return folder


@pytest.fixture(scope="module")
def unbroken(home):
    """Weights of whole trainings of seed 0, by CPU threads."""
    found = {}
    for threads in (1, 2):
        assert run(home, *cell("train"), "--threads", str(threads)).returncode == 0
        found[threads] = weights_of(home, 0)
        shutil.rmtree(cell_folder(home, 0))
    return found


@pytest.mark.parametrize(("threads", "number"), [(1, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_signal_at_any_update_changes_no_bit(number, threads, unbroken, home):
    update = random.Random(f"{number} {threads}").randrange(1, 20)
    arguments = [*cell("train"), "--threads", threads]
    broken_off(home, *arguments, before=partial(kill_at_update, update, number))
    assert not (cell_folder(home, 0) / "checkpoint.safetensors").exists()
    assert run(home, *map(str, arguments)).returncode == 0
    resumed = weights_of(home, 0)
    assert all(resumed[name].equal(unbroken[threads][name]) for name in resumed)
    shutil.rmtree(cell_folder(home, 0))


def offline_records(path):
    """The steps of the history and the keys of the summary in a .wandb file.

    Its format is that of LevelDB's logs: blocks of 32 KiB; a record's parts have a header of
    checksum, length and kind (1: whole, 2 to 4: first, middle, last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, whole, steps, summary = path.read_bytes(), 7, b"", [], set()
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        whole = (b"" if kind in (1, 2) else whole) + content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = Record.FromString(whole)
            if record.HasField("history"):
                steps.append(record.history.step.num)
            summary |= {item.key or ".".join(item.nested_key) for item in record.summary.update}
    return steps, summary


@pytest.mark.parametrize("update", [12])
def test_one_offline_run_holds_training_resumption_and_evaluation(update, home):
    pytest.importorskip("wandb")
    arguments = [*cell("train", seed="8"), "--wandb", "offline"]
    broken_off(home, *arguments, before=partial(kill_at_update, update, signal.SIGKILL))
    for command in (arguments, [*cell("evaluate", seed="8"), "--wandb", "offline"]):
        done = run(home, *command)
        assert done.returncode == 0, done.stderr
        (file,) = cell_folder(home, 8).rglob("*.wandb")
        steps, summary = offline_records(file)
        assert steps == [0, 1, 2, 3, 4]
    assert {"test_is", "test_bound", "best_valid_bound", "best_epoch"} <= summary
    shutil.rmtree(cell_folder(home, 8))


def as_another_user():
    """Called in a new process: from here on even root obeys the permissions of files."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP; refused where there is none to drop


@pytest.fixture
def foreign(tmp_path):
    """Run a command in a copy of the workflow, some of whose folders cannot be written."""
    home = tmp_path / "clone"
    copy_workflow(home)

    def tried(folders, *command):
        modes = {home / name: (home / name).stat().st_mode for name in folders}
        for folder in modes:
            folder.chmod(0o555)
        done = subprocess.run(
            [tool(command[0]), *command[1:]],
            cwd=home,
            capture_output=True,
            text=True,
            preexec_fn=as_another_user,
            env=ENVIRONMENT,
        )
        for folder, mode in modes.items():
            folder.chmod(mode)
        return done

    (home / ".snakemake").mkdir()
    (home / "runs" / "data" / "linear_gaussian").mkdir(parents=True)
    (home / "runs" / "smoke" / "linear_gaussian").mkdir(parents=True)
    return tried


CELL = ["--dataset", "linear_gaussian", "--model", "exact", "--preset", "smoke"]
DATA = "runs/data/linear_gaussian"


@pytest.mark.parametrize(
    ("folders", "command"),
    [
        ([".snakemake"], ["snakemake", "--cores", "1", "all", "--config", "preset=smoke"]),
        (["runs"], ["snakemake", "--cores", "1", "all", "--config", "preset=smoke"]),
        ([DATA], ["snakemake", "--cores", "1", "all", "--config", "preset=smoke"]),
        ([DATA], ["repro", "fetch", "--dataset", "linear_gaussian"]),
        (["runs/smoke", "runs/smoke/linear_gaussian"], ["repro", "configure", *CELL]),
        (["runs/smoke", "runs/smoke/linear_gaussian"], ["repro", "train", *CELL, "--seed", "0"]),
    ],
)
def test_another_users_folder_is_named(folders, command, foreign):
    done = foreign(folders, *command)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("ReproError: cannot write ") and folders[0] in line
    assert line.endswith("Permission denied. Work in your own clone.")


@pytest.mark.parametrize("name", ["last.pt", "history.jsonl", "checkpoint.safetensors"])
def test_a_kill_while_a_training_writes(name, unbroken, home):
    broken_off(home, *cell("train"), before=partial(kill_at_write, name))
    assert not (cell_folder(home, 0) / name).exists()
    assert run(home, *cell("train")).returncode == 0
    resumed = weights_of(home, 0)
    assert all(resumed[key].equal(unbroken[1][key]) for key in resumed)
    assert not list(cell_folder(home, 0).rglob("*.partial"))
    shutil.rmtree(cell_folder(home, 0))


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("sequences.safetensors", ["prepare", "--dataset", "linear_gaussian"]),
        ("raw.json", ["fetch", "--dataset", "linear_gaussian"]),
        ("seed3.json", cell("evaluate", seed="3")),
        ("samples.npz", cell("sample", seed="3")),
    ],
)
def test_a_kill_while_anything_else_is_written(name, command, home):
    assert run(home, *cell("train", seed="3")).returncode == 0
    before = {p: p.read_bytes() for p in (home / "runs").rglob(name)}
    broken_off(home, *command, before=partial(kill_at_write, name))
    assert {p: p.read_bytes() for p in (home / "runs").rglob(name)} == before
    assert run(home, *command).returncode == 0
    assert list((home / "runs").rglob(name)) and not list((home / "runs").rglob("*.partial"))


def test_a_file_size_limit_ends_in_one_line_and_a_later_run_completes(unbroken, home):
    limited = subprocess.run(
        [sys.executable, "-m", "repro", *cell("train")],
        cwd=home,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
    )
    assert limited.returncode == 2 and "cannot write" in limited.stderr, limited.stderr
    assert "Traceback" not in limited.stderr
    assert not list((home / "runs").rglob("*.partial"))
    assert run(home, *cell("train")).returncode == 0
    assert all(value.equal(unbroken[1][key]) for key, value in weights_of(home, 0).items())
    shutil.rmtree(cell_folder(home, 0))


def test_two_trainings_of_one_run_give_one_checkpoint(unbroken, home):
    command = [sys.executable, "-m", "repro", *cell("train")]
    both = [
        subprocess.Popen(command, cwd=home, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=200)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert all(value.equal(unbroken[1][key]) for key, value in weights_of(home, 0).items())
    shutil.rmtree(cell_folder(home, 0))


@pytest.fixture(scope="module")
def written(walk, tmp_path_factory):
    """One file of every kind that holds numbers, and how each is read."""
    folder = tmp_path_factory.mktemp("written")
    train(recipe(max_epochs=1), walk, 0, folder, CPU, "disabled")
    save_state(folder / "last.pt", {"fingerprint": "f", "model": {"w": np.pi}})
    write(result(), folder / "seed0.json")
    shutil.copytree(walk.parent, folder / "walk")
    return {
        folder / "checkpoint.safetensors": load_checkpoint,
        folder / "last.pt": lambda path: load_state(path, "f"),
        folder / "seed0.json": read,
        folder / "walk" / "sequences.safetensors": lambda path: prepared.load(path, prepared.PARTS),
    }


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("fault", ["flip", "cut", "empty"])
def test_damage_is_never_read_as_a_number(position, fault, written, tmp_path):
    original, reader = list(written.items())[position]
    content, rng = original.read_bytes(), random.Random(position)
    copy = tmp_path / original.parent.name / original.name
    copy.parent.mkdir()
    for _ in range({"flip": 300, "cut": 10, "empty": 1}[fault]):
        damaged = bytearray(content)
        if fault == "flip":
            damaged[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(content)) if fault == "cut" else 0 :]
        copy.write_bytes(damaged)
        with pytest.raises(ReproError, match=r"damaged|not a Result|changed|schema"):
            reader(copy)


def test_a_result_in_the_wrong_place_is_named(tmp_path):
    write(result(seed=1), result_path(tmp_path, "test", "walk", "dmm", 0))
    with pytest.raises(
        ReproError, match=r"seed0.json holds the Result that belongs at .*seed1.json"
    ):
        read_cell(tmp_path, "test", "walk", "dmm")


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o027])
def test_every_file_has_the_mode_of_the_umask(mask, walk, tmp_path):
    before = os.umask(mask)
    try:
        train(recipe(max_epochs=1), walk, 0, tmp_path / "run", CPU, "disabled")
        parts = {part: [np.arange(6.0).reshape(3, 2) ** 2] for part in prepared.PARTS}
        path = tmp_path / "walk" / "sequences.safetensors"
        prepared.save(parts, "walk", {"kind": "real", "normalise": "none"}, path)
        write(result(), tmp_path / "seed0.json")
    finally:
        os.umask(before)
    written = [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".lock"]
    assert len(written) == 4
    assert {p.name: oct(p.stat().st_mode & 0o777) for p in written} == {
        p.name: oct(0o666 & ~mask) for p in written
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
@pytest.mark.parametrize("closed", ["file", "folder"])
@pytest.mark.parametrize("position", range(4))
def test_a_file_that_may_not_be_read_is_not_missing(position, closed, written, tmp_path):
    original, reader = list(written.items())[position]
    folder = tmp_path / original.parent.name
    folder.mkdir()
    copy = folder / original.name
    shutil.copy(original, copy)
    (copy if closed == "file" else folder).chmod(0)
    for above in (tmp_path, *tmp_path.parents[:2]):
        above.chmod(0o755)
    os.seteuid(65534)  # nobody
    try:
        with pytest.raises(ReproError, match="cannot be read") as caught:
            reader(copy)
    finally:
        os.seteuid(0)
    assert "missing" not in str(caught.value) and "damaged" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir(mode=0o755)
    os.seteuid(65534)  # nobody
    try:
        with pytest.raises(ReproError, match="cannot write"):
            write_text(folder / "seed0.json", "{}")
    finally:
        os.seteuid(0)
    assert not list(folder.iterdir())


def test_a_clock_that_runs_backwards_changes_nothing(walk, tmp_path, monkeypatch):
    expected = load_file(train(recipe(), walk, 0, tmp_path / "a", CPU, "disabled"))
    now = iter(range(2_000_000_000, 0, -1000))

    def clock():
        return float(next(now))

    backwards = types.SimpleNamespace(perf_counter=clock, process_time=clock)
    monkeypatch.setattr(training, "time", backwards)
    found = load_file(train(recipe(), walk, 0, tmp_path / "b", CPU, "disabled"))
    assert next(now) < 2_000_000_000 - 1000  # it was asked
    assert all(found[name].equal(expected[name]) for name in expected)


def test_leftovers_of_running_processes_are_not_touched(tmp_path):
    path = tmp_path / "seed0.json"
    mine, dead = (path.with_name(f".seed0.json.{n}.partial") for n in (os.getppid(), 2**22 + 1))
    for leftover in (mine, dead):
        leftover.write_text("half")
    write_text(path, "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([mine.name, path.name])


def test_a_kill_while_a_raw_file_is_fetched(tmp_path):
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "rolls.mat").write_bytes(b"notes" * 1000)
    entry = {"sources": [{"file": "rolls.mat", "sha256": sha256(mirror / "rolls.mat"), "url": []}]}
    fetching = (
        "from pathlib import Path\nfrom commands import kill_at_write\n"
        "from repro.data.download import fetch\nkill_at_write('rolls.mat')\n"
        f"fetch('d', {entry!r}, Path('raw'), Path('mirror'))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", fetching],
        cwd=tmp_path,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "raw" / "rolls.mat").exists()
    assert list((tmp_path / "raw").glob(".rolls.mat.*.partial"))
    files = fetch("d", entry, tmp_path / "raw", mirror)
    assert files["rolls.mat"].read_bytes() == b"notes" * 1000
    assert [path.name for path in (tmp_path / "raw").iterdir()] == ["rolls.mat"]
