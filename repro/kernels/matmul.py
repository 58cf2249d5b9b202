"""Products of float32 matrices on a CPU, by the faster of the two libraries that torch includes.

`dispatch.MatmulRules` says which one that is.
"""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.kernels import dispatch

ROWS_HINT = 128  # any value near it gives the same speed


class PrepackedWeight:
    """W (out, in) for many products of few rows each, in the layout that suits MKL or oneDNN.

    For the 20 rows of a time step MKL is up to 40 % faster (Intel Xeon) where the weights of an
    input are contiguous. oneDNN would otherwise rearrange W at every call, which takes longer than
    the product.
    """

    def __init__(self, weight: Tensor) -> None:
        self._weight = weight

    @cached_property
    def by_inputs(self) -> Tensor:
        """W, whose transpose is contiguous; made when it is first needed."""
        return self._weight.T.contiguous().T

    @cached_property
    def rearranged(self) -> Tensor:
        """W in oneDNN's layout; made when it is first needed."""
        return torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), ROWS_HINT)

    def suited_to(self, x: Tensor) -> Tensor:
        """Return W in the layout that is faster for as many rows as x has."""
        rules = dispatch.current().matmul_rules
        if not (rules.onednn and _on_cpu_in_float32(x)):
            return self.by_inputs
        if rules.full_width:
            few = x.numel() * len(self._weight) < rules.min_flops
            return self._weight if few else self.rearranged
        return self.by_inputs if self._weight.numel() < rules.min_weights else self.rearranged


def product(x: Tensor, weight: Tensor | PrepackedWeight, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b for x (..., in) and W (out, in), without a gradient."""
    if isinstance(weight, PrepackedWeight):
        weight = weight.suited_to(x)
        onednn = weight.is_mkldnn
    else:
        rules = dispatch.current().matmul_rules
        onednn = rules.onednn and rules.full_width and _on_cpu_in_float32(x)
        if onednn and not (weight.is_contiguous() or weight.T.is_contiguous()):
            # For columns of a wider matrix oneDNN is a hundred times slower.
            weight = weight.contiguous()
    return _onednn_product(x, weight, bias) if onednn else F.linear(x, weight, bias)


def addmm_(total: Tensor, x: Tensor, weight: PrepackedWeight) -> Tensor:
    """Add x Wᵀ to total (N, out) in place, for x (N, in); return total."""
    suited = weight.suited_to(x)
    if suited.is_mkldnn:
        return total.add_(_onednn_product(x, suited))
    return total.addmm_(x, suited.T)


def matmul_out(out: Tensor, x: Tensor, weight: PrepackedWeight) -> Tensor:
    """Write x Wᵀ to `out` (N, out), for x (N, in); return it."""
    suited = weight.suited_to(x)
    if suited.is_mkldnn:
        return out.copy_(_onednn_product(x, suited))
    return torch.mm(x, suited.T, out=out)


def weight_gradient(grad_outputs: Tensor, inputs: Tensor) -> Tensor:
    """Return Gᵀ X for G (N, out) and X (N, in): a weight's gradient over N rows, (out, in).

    The narrower of the two is transposed in memory; oneDNN reads the other in place.
    """
    if inputs.shape[1] < grad_outputs.shape[1]:
        return product(inputs.T, grad_outputs.T).T
    return product(grad_outputs.T, inputs.T)


def _onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _on_cpu_in_float32(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32
