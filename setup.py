"""Adds to a wheel what the package reads outside a clone; all else is in pyproject.toml."""

import json
import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("config/*.yaml", "results/**/*.json", "paper_tables/*/table.yaml", "weights/**/*")


class BuildWithResults(build_py):
    """Copies registers, presets and stored results to repro/shipped, but if it is editable."""

    def run(self) -> None:
        """Build the package."""
        super().run()
        if self.editable_mode:
            return
        shipped = Path(self.build_lib) / "repro" / "shipped"
        shutil.rmtree(shipped, ignore_errors=True)
        for path in (p for pattern in CARRIED for p in Path().glob(pattern) if p.is_file()):
            (shipped / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, shipped / path)
        (shipped / "commit.json").write_text(json.dumps(commit()))


def commit() -> dict:
    """Return the commit that is built and whether the package is as committed."""
    try:
        name, changed = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "repro"])
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "clean": None}
    return {"commit": name.strip(), "clean": not changed}


setup(cmdclass={"build_py": BuildWithResults})
