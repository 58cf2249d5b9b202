"""Reference suite for sequential generative models: data, models, bounds, tables."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from repro.evaluation.stored_weights import load
    from repro.results.stored import stored_results
    from repro.tasks.audit import audit
    from repro.tasks.foreign import evaluate
    from repro.tasks.scorers import from_command, from_numpy
    from repro.tasks.task import task

# Loaded when they are asked for: `import repro` needs no torch, and takes no time.
_FROM = {
    "audit": "repro.tasks.audit",
    "evaluate": "repro.tasks.foreign",
    "load": "repro.evaluation.stored_weights",
    "stored_results": "repro.results.stored",
    "from_command": "repro.tasks.scorers",
    "from_numpy": "repro.tasks.scorers",
    "task": "repro.tasks.task",
}


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        raise AttributeError(f"module 'repro' has no attribute '{name}'")
    return getattr(import_module(_FROM[name]), name)


__all__ = ["audit", "evaluate", "from_command", "from_numpy", "load", "stored_results", "task"]
