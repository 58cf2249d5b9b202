"""Use the wheel in an empty environment and an empty folder: python tests/installed.py.

The core is installed without its extras. What an extra adds is asked for in one sentence.
"""

import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXTRAS = ("matplotlib", "mido", "music21", "seaborn", "snakemake", "soundfile")
CELL = "--model dmm --dataset linear_gaussian"
SCRIPT = """\
import torch

import repro
from repro import api

task = repro.task("linear_gaussian")
density = torch.distributions.Normal(task.train.values.mean(0), task.train.values.std(0))
model = lambda x, lengths: density.log_prob(x).sum(-1)
repro.audit(model, task)
print(repro.evaluate(model, task).compare())
checkpoint = api.train("dmm", "linear_gaussian", preset="smoke", seed=1)
print(api.evaluate(checkpoint, num_samples=10).per_step("is"))
print(repro.stored_results(task="linear_gaussian", model="dmm"))
"""
WITHOUT_EXTRAS = (
    ("figures", "repro-sequential[figures]"),
    ("fetch --dataset bach_chorales", ""),
    ("prepare --dataset bach_chorales", "repro-sequential[music]"),
)


def main() -> None:
    """Build, install, use; the first failure ends it."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        environment, empty = Path(folder) / "venv", Path(folder) / "empty"
        empty.mkdir()
        wheel = build(Path(folder) / "dist")
        program = install(wheel, environment)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, installed without extras")
        used = time.monotonic()
        use(program, empty)
        left = sorted(path.name for path in empty.iterdir())
        assert left == ["mine"], f"files outside the runs folder: {left}"
    now = time.monotonic()
    print(f"the wheel works in an empty folder: {now - used:.0f} s, {now - started:.0f} s in all")


def build(folder: Path) -> Path:
    """Return the wheel of the working tree."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Return the programs' folder of a new environment with the wheel and what it depends on."""
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if sys.platform == "win32" else "bin")
    lock = ROOT / "envs" / "requirements.lock"
    command = [str(programs / "python"), "-m", "pip", "install", "-q", "-c", str(lock), str(wheel)]
    subprocess.run(command, check=True)
    for library in EXTRAS:
        found = subprocess.run(
            [programs / "python", "-c", f"import {library}"], capture_output=True
        )
        assert found.returncode != 0, f"{library} came with the core"
    return programs


def use(programs: Path, folder: Path) -> None:
    """Run what a newcomer runs, in an empty folder."""

    def repro(line: str, expected: str = "") -> None:
        command = [programs / "repro", "--runs", "mine", *line.split()]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        output = done.stdout + done.stderr
        print(f"$ repro {line}\n{output}")
        assert (done.returncode == 2) == bool(expected), line
        assert expected in output and "Traceback" not in output, line

    repro("--version")
    repro("list models")
    repro("show dmm linear_gaussian --preset smoke")
    repro(f"train {CELL} --preset smoke")
    repro(f"evaluate {CELL} --seed 0 --preset smoke")
    repro("tables --preset smoke")
    repro("verify dmm linear_gaussian")
    repro("leaderboard --task linear_gaussian")
    for line, expected in WITHOUT_EXTRAS:
        repro(line, expected)
    command = [programs / "python", "-c", SCRIPT]
    subprocess.run(command, cwd=folder, check=True, env={"REPRO_RUNS": "mine"})


if __name__ == "__main__":
    main()
