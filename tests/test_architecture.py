"""The rooms of the package: each imports only rooms below it. Read from the source."""

import ast
import sys

import pytest
from conftest import ROOT

# From the top floor down. A file imports from its own room and from those after it.
ROOMS = [
    "cli",
    "bench",
    "selftest",
    "planning",
    "api",
    "tasks",
    "reports",
    "evaluation",
    "training",
    "inference",
    "models",
    "heads",
    "nn",
    "kernels",
    "data",
    "results",
    "config",
    "runtime",
    "errors",
]
# Old modules that users' own files import, for one release: they import from the new ones.
MOVED = {"repro.nn.heads": "heads"}
# They read Results and settings on machines that have no torch.
WITHOUT_TORCH = {"planning", "reports", "results", "config", "errors"}
FILES = [p for p in sorted((ROOT / "repro").rglob("*.py")) if p.parent != ROOT / "repro"]
FILES += [ROOT / "repro" / f"{name}.py" for name in ("api", "planning", "errors")]
# What a bare GPU machine has in addition to the standard library.
BARE = {"torch", "numpy", "scipy", "pandas", "safetensors", "yaml", "rich", "typer", "filelock"}


def module_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in (ROOT / "repro").rglob("*.py")}


def imports(path, top_level_only=False):
    """Yield the modules that a file imports, those of the package by their full names."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            found = [name for name in inner if name in MODULES]
            yield from found or [node.module]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    room = module_of(path).split(".")[1]
    room = MOVED.get(module_of(path), room)
    below = ROOMS[ROOMS.index(room) :]
    names = list(imports(path))
    assert {name.split(".")[1] for name in names if name.startswith("repro.")} <= set(below)
    if room in WITHOUT_TORCH:
        assert "torch" not in {name.split(".")[0] for name in names}


def test_training_and_evaluation_need_only_what_a_bare_gpu_machine_has():
    needed, waiting = set(), ["repro.training.run", "repro.evaluation.evaluate", "repro.cli"]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        found = set(imports(MODULES[name], top_level_only=True))
        waiting += [other for other in found if other in MODULES]
        others = {other.split(".")[0] for other in found}
        assert others <= BARE | sys.stdlib_module_names | {"repro"}, name


def test_the_packages_top_level_is_short():
    assert len(list((ROOT / "repro").glob("*.py"))) <= 6
