"""Decides which path a computation takes: code that has two paths asks `current()`.

The plain path, torch's own differentiable operations, is the definition. README.md in this folder
says when the fast one is taken.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch

from repro.errors import require_known
from repro.runtime.hardware import processor

Kernels = Literal["plain", "fast"]

# Rows × inputs × outputs from which `Linear` defers its weight gradient; for smaller products the
# extra calls cost more than they save.
LINEAR_MIN_FLOPS = 2_000_000
# Where AVX-512 units are 512 bits wide: rows × inputs × outputs below which MKL wins, since a call
# of oneDNN has an overhead of about 20 µs. Where they are not: inputs × outputs from which oneDNN
# wins.
ONEDNN_MIN_FLOPS = 800_000
ONEDNN_MIN_WEIGHTS = 250_000
FULL_WIDTH_FAMILY = 26  # AMD's first processors with AVX-512 units of 512 bits (Zen 5)


class MatmulRules(NamedTuple):
    """When oneDNN, rather than MKL, computes a float32 product on a CPU.

    torch carries both. On AMD's processors MKL does not use AVX-512 and oneDNN does. From family 26
    (Zen 5) on that is twice as fast, for all but small products. On Zen 4, which does AVX-512 in
    two halves, oneDNN wins where few rows meet a large W that it has rearranged (20 to 50 % less
    than MKL), and nowhere else. On Intel's processors MKL wins: with oneDNN a training step took 6
    to 40 % longer.

    Attributes:
        onednn: whether oneDNN is used at all.
        full_width: whether AVX-512 instructions process 512 bits at once.
        min_flops, min_weights: the size from which oneDNN is used, with and without `full_width`.
    """

    onednn: bool
    full_width: bool
    min_flops: int = ONEDNN_MIN_FLOPS
    min_weights: int = ONEDNN_MIN_WEIGHTS


@cache
def rules_of_this_processor() -> MatmulRules:
    """Return the rules that were the fastest on processors of this kind."""
    operations = ("_linear_pointwise", "_reorder_linear_weight")
    onednn = (
        "AuthenticAMD" in processor("vendor_id")
        and torch.backends.mkldnn.is_available()
        and all(hasattr(torch.ops.mkldnn, name) for name in operations)
    )
    family = processor("cpu family")
    return MatmulRules(onednn, family.isdigit() and int(family) >= FULL_WIDTH_FAMILY)


@dataclass(frozen=True)
class Dispatch:
    """The settings that decide between two paths.

    Attributes:
        kernels: "fast", or "plain" for torch's own operations alone.
        linear_min_flops: rows × inputs × outputs from which `Linear` takes its own path.
        detach_samples: whether no gradient flows through a z drawn by `Gaussian.sample`.
        matmul: None for the rules of this processor.
    """

    kernels: Kernels = "fast"
    linear_min_flops: float = LINEAR_MIN_FLOPS
    detach_samples: bool = False
    matmul: MatmulRules | None = None

    def __post_init__(self) -> None:
        require_known("kernels", self.kernels, get_args(Kernels))

    @property
    def plain(self) -> bool:
        """Whether only torch's own operations may be used."""
        return self.kernels == "plain"

    @property
    def matmul_rules(self) -> MatmulRules:
        """The rules that decide when oneDNN computes a product."""
        return self.matmul or rules_of_this_processor()


_current = ContextVar("dispatch", default=Dispatch())  # noqa: B039 (it is frozen)


def current() -> Dispatch:
    """Return the settings in force in this thread."""
    return _current.get()


@contextmanager
def using(**changes: Any) -> Iterator[None]:
    """Change attributes of `Dispatch` for the block, in this thread: `using(kernels="plain")`."""
    token = _current.set(replace(current(), **changes))
    try:
        yield
    finally:
        _current.reset(token)


@contextmanager
def vmap_compatible() -> Iterator[None]:
    """Take the plain path for the block: `torch.vmap` can batch its operations.

    Models of several seeds need this to train as one.
    """
    with using(kernels="plain"):
        yield


@contextmanager
def plain_linear() -> Iterator[None]:
    """Make every `Linear` behave as `nn.Linear` for the block; other kernels are unaffected."""
    with using(linear_min_flops=math.inf):
        yield


@contextmanager
def detached_samples() -> Iterator[None]:
    """Detach every z drawn in the block, so that no gradient flows through it."""
    with using(detach_samples=True):
        yield
