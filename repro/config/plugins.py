"""Objects named in the configuration: "package.module:name", or "folder/file.py:name"."""

import ast
import importlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from repro.errors import ConfigError

INSTALL_FOLDERS = {"site-packages", "dist-packages"}


def load_object(name: str, what: str) -> Callable:
    """Return the object called `name`.

    Raises:
        ConfigError: the module, file or the name in it does not exist; `what` is the setting at
            fault.
    """
    module, _, attribute = name.partition(":")
    try:
        found = _from_file(module) if module.endswith(".py") else importlib.import_module(module)
        return getattr(found, attribute)
    except (ModuleNotFoundError, FileNotFoundError, AttributeError) as error:
        raise ConfigError(f"{what}: cannot load '{name}' ({error}).") from None


def sources_of(file: Path) -> list[Path]:
    """Return a user's Python file and all files it imports, directly or not, that users can change.

    Read from the text, without running it: modules next to the importing file, in the working
    directory and on the module search path; not what is installed, nor this package itself.
    """
    sources: list[Path] = []
    pending = [file.resolve()]
    while pending:
        path = pending.pop()
        if path not in sources:
            sources.append(path)
            pending += [source for name in _imported(path) for source in _user_files(name, path)]
    return sources


def _imported(file: Path) -> Iterator[list[str]]:
    # The dotted names a file imports, in parts; a relative import begins with a "" for each dot.
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return  # loading the file will raise the error
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = [""] * node.level + (node.module.split(".") if node.module else [])
            yield from ([*module, alias.name] for alias in node.names)


def _user_files(name: list[str], importer: Path) -> list[Path]:
    # Every file that importing this name may run, packages' __init__.py among them.
    dots = name.count("")
    parts = name[dots:]
    if not dots and parts[0] == "repro":
        return []
    if dots:
        roots = [importer.parents[dots - 1]]
    else:
        searched = [importer.parent, *(Path(root).resolve() for root in ("", *sys.path))]
        roots = [root for root in searched if not _installed(root)]
    inside = [Path(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = (root / path for root in roots for path in inside)
    return [
        found.resolve()
        for file in files
        for found in (file.with_suffix(".py"), file / "__init__.py")
        if found.is_file()
    ]


def _installed(folder: Path) -> bool:
    # The standard library, or where pip, conda and Debian put packages: not a user's own code.
    library = Path(sysconfig.get_path("stdlib")).resolve()
    return folder.is_relative_to(library) or not INSTALL_FOLDERS.isdisjoint(folder.parts)


def _from_file(path: str) -> ModuleType:
    # Recipes travel in checkpoints: they may only name files below this working directory.
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise FileNotFoundError("give the path from the repository's root, without '..'")
    name = "own_" + Path(path).with_suffix("").as_posix().replace("/", "_").replace("-", "_")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
