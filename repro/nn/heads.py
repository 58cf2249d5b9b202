"""The old name of `repro.heads.basic`, for models in users' own files; removed in 0.3."""

import warnings
from typing import Any

from repro.heads import basic

NAMES = ("build_head", "BernoulliHead", "GaussianHead", "GaussianMixtureHead")


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    message = f"repro.nn.heads is now repro.heads.basic: import {name} from there."
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return getattr(basic, name)
