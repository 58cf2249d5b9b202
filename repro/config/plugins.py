"""Objects named in the configuration: "package.module:name", or "folder/file.py:name"."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from repro.errors import ConfigError


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


def _from_file(path: str) -> ModuleType:
    # A recipe travels in checkpoints: it may name a file of this working folder and no other.
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
