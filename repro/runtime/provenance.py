"""Where a number came from: date, code version, libraries, hardware."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import repro
from repro.runtime.hardware import processor


def environment(device: str, threads: int) -> dict:
    """Return date, code version, library versions and hardware, for a checkpoint or a Result."""
    import numpy
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "repro": repro.__version__,
        **commit_of(Path(repro.__file__).parent),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu(),
        "threads": threads,
    }


def version() -> str:
    """Return the version, and in a clone its commit and whether the package was changed since."""
    found = commit_of(Path(repro.__file__).parent)
    if found["commit"] == "unknown":
        return f"repro {repro.__version__}"
    changed = "" if found["clean"] else ", changed since"
    return f"repro {repro.__version__} (commit {found['commit']}{changed})"


def peak_memory_mb() -> int:
    """Return the most main memory that this process has held so far, in MB."""
    if sys.platform == "win32":
        import psutil

        return round(psutil.Process().memory_info().peak_wset / 2**20)
    import resource  # only Unix has it; psutil does not report the peak there

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))  # macOS: bytes; others: KB


def commit_of(package: Path) -> dict:
    """Return the commit that a package's folder is at, and whether its files are as committed.

    A copy without its git history is not an error, and a package that is installed inside another
    repository does not count as part of it.
    """

    # git refuses another user's clone, which is read here and not run, unless told that it is safe.
    def git(*arguments: str) -> str | None:
        command = [
            "git",
            "-c",
            "safe.directory=*",
            "-c",
            "core.fsmonitor=false",
            "-C",
            str(package),
        ]
        command += arguments
        try:
            run = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return None
        return run.stdout.strip() if run.returncode == 0 else None

    built = package / "shipped" / "commit.json"  # a wheel's
    if built.is_file():
        return json.loads(built.read_text())
    if not git("ls-files", "--", "."):
        return {"commit": "unknown", "clean": None}
    commit = git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--", ".")
    return {"commit": commit or "unknown", "clean": None if changed is None else changed == ""}


def _cpu() -> str:
    # On a virtual machine one name may cover several generations, one twice as fast as another.
    name = processor("model name") or "unknown CPU"
    family, model = processor("cpu family"), processor("model")
    numbers = f" (family {family}, model {model})" if (family + model).isdigit() else ""
    return name + numbers
