"""Run the commands that README and docs show: python tests/documented.py, as .ci/run does.

A command is a line of a block between ``` and ```, or inline `code` that begins with a
program's name. Every command is run, in a copy of the repository whose preset `starter` trains for
one epoch on few sequences, unless a comment directly before its block, or directly after its inline
code, says why it cannot be:

    <!-- not run: hours -->

Those are checked with --dry-run or --help, in another copy; so is a subcommand's name in a
sentence. Two lines are run by .ci/run itself.
"""

import filecmp
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
PROGRAMS = ("repro", "snakemake", "pytest", "pip", "sphinx-build", "python", "pre-commit")
REASONS = (
    "minutes",
    "hours",
    "network",
    "GPU",
    "Slurm",
    "licensed data",
    "your shell",
    "stored data",
)
MARK = re.compile(r"<!-- not run: (.+?) -->")
RUN_BY_CI = (r"python3 -m venv .*&& pytest", r"snakemake --cores 8 all --config preset=smoke")
# What is never run here unless a page says why not: it would change the environment, or take long.
NEVER = ("pip install", "pre-commit", "conda", "pytest", "sphinx-build", "python3", ". ")
LONGEST = 600  # seconds of one command
FEW_SEQUENCES = """\
datasets:
  linear_gaussian: {options: {sequences: {train: 200, valid: 50, test: 50}}}
"""


class Command(NamedTuple):
    """A command of a page: its line, whether it is in a block, and why it is not run."""

    line: str
    whole: bool
    reason: str | None

    @property
    def parts(self) -> list[str]:
        """The commands of the line, one after the other."""
        return self.line.split(" && ")

    @property
    def is_name(self) -> bool:
        """Whether a sentence only names a program or a subcommand."""
        return not self.whole and bool(re.fullmatch(r"[\w-]+|repro [a-z-]+", self.line))

    @property
    def is_run_by_ci(self) -> bool:
        """Whether .ci/run takes this line from README."""
        return any(re.fullmatch(pattern, self.line) for pattern in RUN_BY_CI)

    @property
    def is_run(self) -> bool:
        """Whether it is run as it is written."""
        return not (self.reason or self.is_run_by_ci or self.is_name)


def commands(text: str) -> Iterator[Command]:
    """Yield the commands of a page."""
    reason = None  # of the block that follows
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "html_block":
            reason = reason_in(token.content)
        elif token.type == "fence":
            if token.info in ("", "bash"):
                yield from (Command(line, True, reason) for line in token.content.splitlines())
            reason = None
        elif token.type == "inline":
            children = [c for c in token.children or [] if c.content.strip() or c.type != "text"]
            for child, after in pairwise([*children, None]):
                if child.type == "code_inline" and child.content.split(" ")[0] in PROGRAMS:
                    mark = reason_in(after.content) if after else None
                    yield Command(child.content, False, mark)
            reason = reason_in(children[-1].content) if children else None
        elif not token.type.endswith("_close"):
            reason = None


def reason_in(text: str) -> str | None:
    """Return the reason that a comment gives, if it is one."""
    found = MARK.search(text)
    return found[1] if found else None


def check_of(line: str) -> str:
    """Return the command that checks one that is not run."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "snakemake" and arguments:
        needs_plugin = "--profile" in arguments and not find_spec("snakemake_executor_plugin_slurm")
        if needs_plugin or "--report" in arguments:
            return "snakemake --help"
        return f"{line.replace('/path/to/', 'brought/')} --dry-run"
    if program in ("repro", "pip") and arguments and not arguments[0].startswith("-"):
        return f"{program} {arguments[0]} --help"
    if program in ("python3", "."):  # a virtual environment is made, and entered
        return "python3 -m venv --help"
    return f"{program} --help"


def copy_of_the_repository(folder: Path) -> Path:
    """Return a copy of the files that git knows, as they are now, with the prepared data."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def copy_to_run_in(folder: Path) -> Path:
    """Return a copy with the prepared data of the smoke run, and a much shorter starter."""
    copy_of_the_repository(folder)
    starter = folder / "config" / "starter.yaml"
    text = re.sub(r"max_epochs: \d+", "max_epochs: 1", starter.read_text())
    starter.write_text(f"{text}\n{FEW_SEQUENCES}")
    if (ROOT / "runs" / "data").is_dir():
        shutil.copytree(ROOT / "runs" / "data", folder / "runs" / "data", symlinks=True)
    return folder


def copy_to_check_in(folder: Path) -> Path:
    """Return a copy with the files that a reader makes or brings."""
    copy_of_the_repository(folder)
    for name in ("own.yaml", "own_model.py"):
        shutil.copy(folder / "config" / "templates" / name, folder / "config" / name)
    (folder / "mine.yaml").write_text("wandb: disabled\n")
    for name in ("own_data", "brought/folder", "brought/corpora"):
        (folder / name).mkdir(parents=True)
    return folder


def failure_of(line: str, folder: Path) -> str:
    """Return what a command prints if it fails, else ""."""
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
    )
    print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)
    return f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}" if done.returncode else ""


def changed(folder: Path) -> list[str]:
    """Return the rendered files that the commands wrote differently from those in this clone."""
    pages = [path.relative_to(ROOT) for path in PAGES]
    tables = [
        p.relative_to(ROOT) for p in (ROOT / "paper_tables").rglob("*.*") if p.suffix != ".svg"
    ]
    return [
        f"{path}: a command of the pages writes other bytes"
        for path in [*pages, *tables]
        if not filecmp.cmp(ROOT / path, folder / path, shallow=False)
    ]


def main() -> int:
    """Return 0 if every command of every page ran, or could be run."""
    found = [command for page in sorted(PAGES, key=order) for command in commands(page.read_text())]
    run = dict.fromkeys(part for c in found if c.is_run for part in c.parts)
    rest = [c for c in found if not c.is_run and not c.is_run_by_ci]
    checks = dict.fromkeys(check_of(part) for c in rest for part in c.parts)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ours, theirs = copy_to_run_in(Path(one)), copy_to_check_in(Path(other))
        missing = [line for line in checks if not shutil.which(line.split(" ")[0])]
        installed = [line for line in checks if line not in missing]
        with ThreadPoolExecutor(2) as pool:
            in_turn = pool.submit(lambda: [failure_of(line, ours) for line in run])
            checked = pool.map(lambda line: failure_of(line, theirs), installed)
            said = [*in_turn.result(), *checked, *changed(ours)]
    failures = [failure for failure in said if failure]
    print(f"{len(run)} commands run, {len(installed)} checked, {len(failures)} failed")
    print(f"not checked, for they are not installed here: {', '.join(missing) or 'none'}")
    print("\n\n".join(failures), file=sys.stderr)
    return int(bool(failures))


def order(page: Path) -> bool:
    """Return False for the page that begins with data and trainings, which the others need."""
    return page.name != "quickstart.md"


if __name__ == "__main__":
    sys.exit(main())
