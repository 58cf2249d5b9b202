"""The matrix products of a computation by themselves: the least time that it could take."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

PRODUCTS = {"mm", "addmm", "addmm_", "bmm", "baddbmm", "_linear_pointwise"}  # as torch names them


class _Recorder(TorchDispatchMode):
    """Keeps every matrix product that is computed, with its operands."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable, tuple, dict]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in PRODUCTS:
            self.calls.append((func, args, kwargs))
        return func(*args, **kwargs)


def products_of(compute: Callable[[], object]) -> Callable[[], None]:
    """Run a computation; return a function that computes its matrix products again, and only them.

    In the same order, on the same operands, so with the shapes and strides that occur. The operands
    stay in memory as long as the function, and products in place change them further.
    """
    recorder = _Recorder()
    with recorder:
        compute()

    @torch.no_grad()
    def again() -> None:
        for function, args, kwargs in recorder.calls:
            function(*args, **kwargs)

    return again
