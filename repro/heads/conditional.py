"""Common to all heads over a binary vector with a hidden layer: biases computed from features."""

from torch import Tensor, nn

from repro.kernels.linear import Linear
from repro.nn.init import initialise_output, log_odds


class ConditionalBiasHead(nn.Module):
    """A hidden bias a and a visible bias c, linear in the features of a step.

    This makes NADE and RBM outputs of a sequence model (Boulanger-Lewandowski et al. 2012, arXiv
    1206.6392, sections 3 and 4). None of these heads can be batched over seeds.
    """

    can_stack = False

    def __init__(self, in_features: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden_bias = Linear(in_features, hidden)
        self.visible_bias = Linear(in_features, dim)

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise the visible bias at the log-odds of the mean of x (D,) over `count` steps."""
        initialise_output(self.visible_bias, log_odds(mean, count))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map features (..., H) to the biases a (..., hidden) and c (..., D)."""
        return self.hidden_bias(features), self.visible_bias(features)
