"""Computes a log-density over many rows in chunks, so that memory is bounded."""

from collections.abc import Callable

import torch
from torch import Tensor


def chunked(log_prob: Callable[..., Tensor], rows: int, *tensors: Tensor) -> Tensor:
    """Return log_prob(*tensors), (...), computed for at most `rows` rows at a time.

    Args:
        log_prob: maps (N, ·) tensors to (N,).
        tensors: (..., ·) each; their leading axes broadcast.
    """
    shape = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    flat = (t.expand(*shape, -1).reshape(-1, t.shape[-1]) for t in tensors)
    chunks = zip(*(t.split(rows) for t in flat), strict=True)
    return torch.cat([log_prob(*chunk) for chunk in chunks]).view(shape)
