"""The package imports and type-checks as on Windows, which lacks Unix's own modules."""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import ROOT

from repro.runtime import files, provenance

UNIX_ONLY = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog")
# The libraries have their own branches for Windows: only what repro itself imports is refused.
WITHOUT = f"""
import builtins, pkgutil, sys
from importlib import import_module

real = builtins.__import__
def refuse(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {{}}).get("__name__", "")
    if name in {UNIX_ONLY} and importer.startswith(("repro", "__main__")):
        raise ImportError(f"no module named {{name}} on Windows")
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = refuse
"""
EVERY_MODULE = """
import repro
names = [found.name for found in pkgutil.walk_packages(repro.__path__, "repro.")]
for name in names:
    if name != "repro.__main__" and name not in sys.argv:
        import_module(name)
print(len(names))
"""


def python(code, *arguments):
    command = [sys.executable, "-c", WITHOUT + code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_module_imports_without_the_modules_of_unix():
    peers = [] if find_spec("pyro") else ["repro.bench.pyro_dmm"]  # needs the extra `bench`
    done = python(EVERY_MODULE, *peers)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list((ROOT / "repro").rglob("*.py"))) - 1  # repro/__init__.py


@pytest.mark.parametrize("name", UNIX_ONLY)
def test_the_refusal_refuses(name):
    assert f"no module named {name}" in python(f"import {name}").stderr


def test_nothing_is_called_that_windows_lacks():
    # The stubs of the standard library know what each system has; other libraries' types,
    # which take a minute, do not matter here.
    command = [shutil.which("mypy"), "--platform=win32", "--follow-imports=skip", "--cache-dir"]
    done = subprocess.run([*command, os.devnull], cwd=ROOT, capture_output=True, text=True)
    assert "source files" in done.stdout, done.stderr
    lacking = [line for line in done.stdout.splitlines() if line.endswith("[attr-defined]")]
    assert lacking == []


@pytest.fixture
def windows(monkeypatch):
    """Windows' names for what psutil reports about a process that has held 3 MB."""
    memory = SimpleNamespace(peak_wset=3 * 2**20)
    psutil = SimpleNamespace(
        Process=lambda: SimpleNamespace(memory_info=lambda: memory),
        pid_exists=lambda process: process == 7,
    )
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "kill", None)


def test_peak_memory_is_known_on_windows(windows):
    assert provenance.peak_memory_mb() == 3


def test_peak_memory_is_known_here():
    held = bytearray(200 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    assert 200 < provenance.peak_memory_mb() < 2**16


def test_only_leftovers_of_dead_writers_are_removed_on_windows(windows, tmp_path: Path):
    for name in (".a.json.7.partial", ".a.json.8.partial", ".a.json.x.partial"):
        (tmp_path / name).write_text("half")
    files.write_text(tmp_path / "a.json", "{}")
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".a.json.7.partial", ".a.json.x.partial", "a.json"]
