"""Inputs of a layer: the previous step's x, and z concatenated with x."""

import torch
from torch import Tensor
from torch.nn import functional as F


def one_step_back(x: Tensor, before: Tensor | None = None) -> Tensor:
    """Return x_{t-1} for every step of x (T, B, D); `before`, (B, D), at the first, or zeros."""
    if before is None:
        return F.pad(x[:-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before.unsqueeze(0), x[:-1]])


def concatenate_broadcast(z: Tensor, x: Tensor) -> Tensor:
    """Return z (..., Z) concatenated with x, (..., Z + D); the leading axes of x broadcast."""
    return torch.cat([z, x.expand(*z.shape[:-1], -1)], dim=-1)
