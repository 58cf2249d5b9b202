"""Objects named in the configuration as "package.module:name"."""

import importlib
from collections.abc import Callable

from repro.errors import ConfigError


def load_object(name: str, what: str) -> Callable:
    """Return the object called `name`.

    Raises:
        ConfigError: the module or the name in it does not exist; `what` is the setting at fault.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ModuleNotFoundError, AttributeError) as error:
        raise ConfigError(f"{what}: cannot load '{name}' ({error}).") from None
