"""Residual blocks: a layer that mixes time steps, and a layer that works on each step alone."""

from torch import Tensor, nn

from repro.kernels.linear import Linear
from repro.nn.dropout import Dropout


class ResidualBlock(nn.Module):
    """y = x + mixer(norm(x)), and then y + W₂ GELU(W₁ norm(y)) where `feedforward` has a width.

    The norm comes first (Xiong et al. 2020, arXiv 2002.04745). In training, dropout is applied to
    what is added to x and to y.

    Args:
        mixer: maps (T, B, width) and its memory to the same; its `start(x)` is the memory before
            the first step, (·, B, ·).
        feedforward: width of W₁'s output; None leaves that layer out.
        share: of dropout.
    """

    def __init__(self, mixer: nn.Module, width: int, feedforward: int | None, share: float) -> None:
        super().__init__()
        self.norm, self.mixer, self.drop = nn.LayerNorm(width), mixer, Dropout(share, width)
        self.feedforward = None if feedforward is None else FeedForward(width, feedforward, share)

    def start(self, x: Tensor) -> Tensor:
        """Return the mixer's memory before the first step of x (T, B, width)."""
        return self.mixer.start(x)  # type: ignore[operator]

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and a memory to the same."""
        mixed, memory = self.mixer(self.norm(x), memory)
        x = x + self.drop(mixed)
        return x if self.feedforward is None else self.feedforward(x), memory


class FeedForward(nn.Module):
    """x + W₂ GELU(W₁ norm(x) + b₁) + b₂."""

    def __init__(self, width: int, hidden: int, share: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(width), Linear(width, hidden), nn.GELU(), Linear(hidden, width)
        )
        self.drop = Dropout(share, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (T, B, width) to the same."""
        return x + self.drop(self.layers(x))
