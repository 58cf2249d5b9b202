"""The papers' initialisations."""

from torch import Tensor, nn

from repro.nn.recurrent import RecurrentLinear


def initialise(model: nn.Module, scale: float | None) -> None:
    """Set weights uniform in ±scale, recurrent ones orthogonal gate by gate, biases to 0.

    As in the code of both Chung et al. 2015 (scale 0.08) and Krishnan et al. 2017 (0.1). A module
    with a rule of its own (`initialise()`) has the last word.

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
        own = getattr(module, "initialise", None)
        if callable(own):
            own()


def _uniform(weight: Tensor, scale: float | None) -> None:
    if scale is None:
        nn.init.xavier_uniform_(weight)
    else:
        nn.init.uniform_(weight, -scale, scale)


def _orthogonal_blocks(weight: Tensor) -> None:
    for block in weight.data.split(weight.shape[1]):
        nn.init.orthogonal_(block)
