"""Reference suite for sequential generative models: data, models, bounds, tables.

    >>> task = repro.task("jsb_chorales")
    >>> repro.audit(my_model, task).failed  # usual mistakes in a log-likelihood
    >>> repro.evaluate(my_model, task).per_step("is")  # nats per step of the test part

`repro.api` trains the package's own models.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from repro.evaluation.stored_weights import load
    from repro.results.leaderboard import leaderboard
    from repro.results.record import read as read_result
    from repro.results.stored import stored_results
    from repro.tasks.audit import audit
    from repro.tasks.foreign import evaluate
    from repro.tasks.scorers import from_command, from_numpy
    from repro.tasks.task import task

# Imported at first use: `import repro` needs no torch, and takes no time.
_LAZY_IMPORTS = {
    "audit": "repro.tasks.audit:audit",
    "evaluate": "repro.tasks.foreign:evaluate",
    "from_command": "repro.tasks.scorers:from_command",
    "from_numpy": "repro.tasks.scorers:from_numpy",
    "leaderboard": "repro.results.leaderboard:leaderboard",
    "load": "repro.evaluation.stored_weights:load",
    "read_result": "repro.results.record:read",
    "stored_results": "repro.results.stored:stored_results",
    "task": "repro.tasks.task:task",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'repro' has no attribute '{name}'")
    module, _, attribute = _LAZY_IMPORTS[name].partition(":")
    return getattr(import_module(module), attribute)


__all__ = [
    "audit",
    "evaluate",
    "from_command",
    "from_numpy",
    "leaderboard",
    "load",
    "read_result",
    "stored_results",
    "task",
]
