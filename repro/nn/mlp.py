"""Multi-layer perceptrons."""

from torch import nn

from repro.nn.linear import Linear


class MLP(nn.Sequential):
    """Linear layers of the given widths, a ReLU after each; `width` is the last one.

    Maps (..., in_features) to (..., width).
    """

    def __init__(self, in_features: int, widths: list[int]) -> None:
        layers: list[nn.Module] = []
        for width in widths:
            layers += [Linear(in_features, width), nn.ReLU()]
            in_features = width
        super().__init__(*layers)
        self.width = in_features
