"""The rooms of the package and who may enter which: imports, read from the source."""

import ast
import sys

import pytest
from conftest import ROOT

# A file may import from the package only what stands here; a folder stands for all its files.
ALLOWED = {
    "errors": set(),
    "families": set(),
    "files": {"errors"},
    "loading": {"errors"},
    "locks": {"files"},
    "paths": set(),
    "seeding": set(),
    "devices": {"errors"},
    "hardware": set(),
    "provenance": {"hardware"},
    "config": {"errors", "families", "files", "schema"},
    "schema": {"errors"},
    "data": {"data", "errors", "files", "loading"},
    "nn": {"nn", "hardware"},
    "models": {"families", "models", "nn", "loading"},
    "bounds": {"models"},
    "diagnostics": set(),
    "objectives": {"models", "bounds", "particles"},
    "particles": {"models", "bounds", "nn"},
    "checkpoints": {"files", "errors", "data", "models"},
    "monitors": {"errors", "files"},
    "validation": {"data", "models", "bounds", "objectives", "seeding"},
    "training": {"data", "models", "objectives", "validation", "checkpoints", "monitors", "errors",
                 "files", "provenance", "seeding"},
    "graphs": set(),
    "together": {"training", "data", "nn", "bounds", "graphs", "errors"},
    "train": {"training", "together", "checkpoints", "monitors", "errors", "families", "files"},
    "evaluate": {"data", "families", "models", "bounds", "diagnostics", "particles", "checkpoints",
                 "results", "errors",
                 "provenance", "seeding"},
    "predict": {"data", "models", "evaluate", "checkpoints", "files"},
    "plan": {"config", "families", "results", "tables"},
    "sampling": {"data", "models", "checkpoints", "files", "seeding"},
    "midi": {"errors", "files"},
    "missing": {"config", "data", "errors", "paths", "results"},
    "listen": {"errors", "files", "midi"},
    "results": {"errors", "files"},
    "reliability": {"families", "results"},
    "tables": {"results", "reliability", "files"},
    "published": {"results", "reliability", "tables", "files", "errors"},
    "pictures": {"results", "tables", "files"},
    "figures": {"results", "reliability", "tables", "pictures"},
    "comparison": {"results"},
    "check": {"families", "results", "tables", "comparison"},
    "oracles": {"models", "bounds", "particles", "seeding"},
    "calibration": {"comparison"},
    "trust": {"oracles", "calibration", "comparison", "files", "pictures"},
    "report": {"errors", "files", "listen", "results", "tables"},
    "api": {"config", "checkpoints", "data", "devices", "errors", "evaluate", "paths", "results",
            "train"},
    "bench": {"bench", "data", "devices", "models", "nn", "objectives", "evaluate", "errors",
              "files", "pictures", "provenance"},
}  # fmt: skip
WITHOUT_TORCH = {
    "errors",
    "families",
    "files",
    "schema",
    "config",
    "results",
    "reliability",
    "tables",
    "published",
    "pictures",
    "figures",
    "comparison",
    "plan",
    "check",
    "report",
}
FILES = sorted((ROOT / "repro").rglob("*.py"))
# What a bare GPU machine has beside the standard library.
BARE = {"torch", "numpy", "scipy", "pandas", "safetensors", "yaml", "rich", "typer", "filelock"}


def room(path):
    parts = path.relative_to(ROOT / "repro").with_suffix("").parts
    return parts[0]


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            if node.module == "repro":
                yield from (f"repro.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_stay_within_the_allowed_rooms(path):
    if room(path) in ("cli", "__init__", "__main__"):
        return
    own = {name.split(".")[1] for name in imports(path) if name.startswith("repro.")}
    assert own <= ALLOWED[room(path)], own - ALLOWED[room(path)]
    if room(path) in WITHOUT_TORCH:
        assert "torch" not in {name.split(".")[0] for name in imports(path)}


def test_training_and_evaluation_need_only_what_a_bare_gpu_machine_has():
    rooms = {"train", "evaluate", "cli"}
    while True:
        needed = rooms | {
            name.split(".")[1]
            for path in FILES
            if room(path) in rooms
            for name in imports(path, top_level_only=True)
            if name.startswith("repro.")
        }
        if needed == rooms:
            break
        rooms = needed
    readers = {"pianoroll", "speech", "synthetic", "sources", "prepare"}  # run before, elsewhere
    for path in FILES:
        if room(path) in rooms and path.stem not in readers:
            others = {name.split(".")[0] for name in imports(path, top_level_only=True)}
            assert others <= BARE | sys.stdlib_module_names | {"repro"}, (path, others)


def test_files_stay_small_enough_to_read_at_one_sitting():
    long = {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 330}
    assert not long
