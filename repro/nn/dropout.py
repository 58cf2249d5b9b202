"""Dropout whose mask can be drawn beforehand."""

import torch
from torch import Tensor, nn

from repro.kernels.packing import Packing


class Dropout(nn.Module):
    """Sets a share of the values to 0 in training and scales the others by 1 / (1 − share).

    Attributes:
        mask: the factors, (T, B, width), if they were drawn beforehand; empty otherwise.
        generator: draws the masks; torch's default if None.
    """

    mask: Tensor
    generator: torch.Generator | None = None

    def __init__(self, share: float, width: int) -> None:
        super().__init__()
        self.share, self.width = share, width
        self.register_buffer("mask", torch.empty(0), persistent=False)

    def forward(self, x: Tensor, rows: Packing | None = None) -> Tensor:
        """Map (T, B, width), or its rows (N, width), to the same shape."""
        if not (self.training and self.share):
            return x
        steps, batch = x.shape[:2] if rows is None else rows.shape
        mask = self.mask if self.mask.numel() else self.draw(steps, batch, x)
        return x * (mask if rows is None else rows.pack(mask.unsqueeze(1))[0])

    def draw(self, steps: int, batch: int, like: Tensor) -> Tensor:
        """Return a mask (T, B, width) of the type and device of `like`."""
        mask = like.new_empty(steps, batch, self.width)
        mask.uniform_(generator=self.generator).ge_(self.share)  # half of bernoulli_'s time
        return mask.div_(1.0 - self.share)
