"""Multi-layer perceptrons."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from repro.kernels.linear import Linear


class MLP(nn.Sequential):
    """Linear layers of the given widths, an activation after each; `width` is the last one.

    Maps (..., in_features) to (..., width).
    """

    def __init__(
        self, in_features: int, widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU
    ) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [Linear(in_features, width), activation()]
            in_features = width
        super().__init__(*layers)
        self.width = in_features


class ClippedLeakyReLU(nn.Module):
    """max(x, x/3) clipped to ±3, as in the code of Fraccaro et al. (2016).

    No unit dies, and the values in a chain of latent states stay bounded.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map any shape to the same."""
        return F.leaky_relu(x, 1.0 / 3.0).clamp(-3.0, 3.0)
