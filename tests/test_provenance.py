"""What a Result records about the code that made it."""

import subprocess
from pathlib import Path

import pytest

import repro
from repro.runtime import provenance


def git(folder, *arguments):
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path):
    """A committed package with a module in a subfolder."""
    (tmp_path / "package" / "room").mkdir(parents=True)
    (tmp_path / "package" / "room" / "module.py").write_text("a = 1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "first")
    return tmp_path / "package"


def test_a_change_anywhere_in_the_package_is_seen(package):
    expected = {"commit": git(package, "rev-parse", "HEAD"), "clean": True}
    assert provenance.commit_of(package) == expected
    (package.parent / "notes.txt").write_text("outside")
    assert provenance.commit_of(package)["clean"]
    (package / "room" / "module.py").write_text("a = 2\n")
    assert provenance.commit_of(package) == {**expected, "clean": False}


def test_the_package_that_is_asked_is_the_whole_one(monkeypatch):
    asked = []
    monkeypatch.setattr(provenance, "commit_of", lambda folder: asked.append(folder) or {})
    provenance.environment("cpu", 1)
    assert asked == [Path(repro.__file__).parent]


def test_without_a_history_the_commit_is_unknown(tmp_path):
    assert provenance.commit_of(tmp_path) == {"commit": "unknown", "clean": None}


def test_a_package_inside_another_repository_does_not_take_its_commit(package):
    installed = package.parent / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "module.py").write_text("a = 1\n")
    assert provenance.commit_of(installed) == {"commit": "unknown", "clean": None}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"commit": "abc", "clean": True}, "repro 1.2.3 (commit abc)"),
        ({"commit": "abc", "clean": False}, "repro 1.2.3 (commit abc, changed since)"),
        ({"commit": "unknown", "clean": None}, "repro 1.2.3"),
    ],
)
def test_the_version_is_printed_in_one_line(monkeypatch, found, text):
    monkeypatch.setattr(repro, "__version__", "1.2.3")
    monkeypatch.setattr(provenance, "commit_of", lambda folder: found)
    assert provenance.version() == text
