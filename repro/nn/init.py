"""The papers' initialisations, and initialisation at the moments of the data."""

import torch
from torch import Tensor, nn

from repro.nn.recurrent import RecurrentLinear


def initialise(model: nn.Module, scale: float | None) -> None:
    """Set weights uniform in ±scale, recurrent ones orthogonal gate by gate, biases to 0.

    As in the code of both Chung et al. 2015 (scale 0.08) and Krishnan et al. 2017 (0.1). A module's
    own rule (`initialise()`) is applied last.

    Args:
        scale: None for Glorot & Bengio's (2010): ±√(6 / (inputs + outputs)) of each layer.
    """
    for module in model.modules():
        if isinstance(module, RecurrentLinear):
            _orthogonal_blocks(module.weight)
        elif isinstance(module, nn.Linear):
            _uniform(module.weight, scale)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters():
                if name.startswith("weight_hh"):
                    _orthogonal_blocks(parameter)
                elif name.startswith("weight_ih"):
                    _uniform(parameter, scale)
                else:
                    nn.init.zeros_(parameter)
    for module in model.modules():
        rule = getattr(module, "initialise", None)
        if callable(rule):
            rule()


def _uniform(weight: Tensor, scale: float | None) -> None:
    if scale is None:
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.uniform_(weight, -scale, scale)


def _orthogonal_blocks(weight: Tensor) -> None:
    for block in weight.data.split(weight.shape[1]):
        nn.init.orthogonal_(block)


OUTPUT_SCALE = 0.2  # of an output layer's weights when its bias is taken from the data
SMALLEST_STD = 1e-3


@torch.no_grad()
def initialise_output(layer: nn.Linear, bias: Tensor) -> None:
    """Initialise an output layer near a bias: its weights are reduced to a fifth."""
    layer.weight.mul_(OUTPUT_SCALE)
    layer.bias.copy_(bias)


def log_odds(mean: Tensor, count: int) -> Tensor:
    """Return the log-odds of means of `count` binary values; 0 and 1 count at least half a time."""
    return torch.logit(mean, eps=0.5 / count)


def inverse_softplus(std: Tensor) -> Tensor:
    """Return y with softplus(y) = std, for std of at least 0.001."""
    return torch.expm1(std.clamp(min=SMALLEST_STD)).log()
