"""Which way a computation takes: a CPU's fast one or torch's elementary operations; whether
samples are differentiated through."""

from collections.abc import Iterator
from contextlib import contextmanager

_elementary = False
_held = False


@contextmanager
def vmap_compatible() -> Iterator[None]:
    """Let everything inside consist of operations that torch knows how to batch (`vmap`).

    No packing, no products by another library, no backward pass by hand, no fused LSTM: what
    models of several seeds need to train as one.
    """
    global _elementary
    before, _elementary = _elementary, True
    try:
        yield
    finally:
        _elementary = before


def elementary() -> bool:
    """Return whether only elementary operations may be used."""
    return _elementary


@contextmanager
def detached_samples() -> Iterator[None]:
    """Let every z drawn inside be a number, of which no parameter knows."""
    global _held
    before, _held = _held, True
    try:
        yield
    finally:
        _held = before


def holds_samples() -> bool:
    """Return whether a z is to be held where it was drawn."""
    return _held
