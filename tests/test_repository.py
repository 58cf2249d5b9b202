"""The repository as it is committed: checked, typed, and rendered from its own results."""

import subprocess

import pytest
from conftest import ROOT
from test_workflow import ADDRESS, ENVIRONMENT, WORDS, tool

from repro.config.recipes import describe, load

pytestmark = pytest.mark.workflow


def test_linter_and_formatter_find_nothing():
    done = subprocess.run(
        [tool("snakemake"), "--lint"], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    subprocess.run([tool("snakefmt"), "--check", "Snakefile"], cwd=ROOT, check=True)
    for arguments in (["check"], ["format", "--check"]):
        subprocess.run([tool("ruff"), *arguments, "."], cwd=ROOT, check=True)


def test_type_checker_finds_nothing():
    done = subprocess.run([tool("mypy")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_an_entry_keeps_what_decides_its_bytes():
    """For every data set: entries that differ only in words and URLs have the same description."""
    for name, entry in load("starter")["datasets"].items():
        sources = [
            {**source, **({"url": [ADDRESS]} if "url" in source else {})}
            for source in entry["sources"]
        ]
        changed = {"datasets": {name: {**entry, **WORDS, "sources": sources}}}
        before = describe({"datasets": {name: entry}}, name)
        assert describe(changed, name) == before
        for key in ("reader", "kind", "normalise"):
            other = {"datasets": {name: {**entry, key: "another"}}}
            assert describe(other, name) != before
        for source in entry["sources"]:
            part = next(key for key in ("sha256", "content_sha256") if key in source)
            changed_source = [{**source, part: "0" * 64}, *entry["sources"][1:]]
            other = {"datasets": {name: {**entry, "sources": changed_source}}}
            assert describe(other, name) != before


def test_published_tables_render_to_the_committed_ones():
    done = subprocess.run(
        [tool("repro"), "paper-tables"], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) >= 9, done.stderr
    subprocess.run(
        ["git", "diff", "--exit-code", "paper_tables", "README.md"], cwd=ROOT, check=True
    )


@pytest.mark.parametrize(
    "preset",
    sorted(p.name for p in (ROOT / "results").iterdir() if p.is_dir() and p.name != "races"),
)
def test_stored_results_render_to_the_committed_tables(preset, tmp_path):
    """Byte for byte: nobody edits a table by hand, and a clone renders them without training."""
    command = [tool("repro"), "tables", "--preset", preset, "--source", "results"]
    subprocess.run([*command, "--out", tmp_path], cwd=ROOT, check=True, capture_output=True)
    # Figures are next to the tables; their bytes depend on the version of matplotlib.
    folder = ROOT / "paper_tables" / preset
    committed = sorted(path for path in folder.iterdir() if path.suffix != ".svg")
    assert sorted(p.name for p in tmp_path.iterdir()) == [p.name for p in committed]
    for path in committed:
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
