"""Products of float32 matrices on a CPU by the faster of the two libraries that torch carries."""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.hardware import processor

# torch multiplies float32 matrices on a CPU with MKL, which on AMD's processors reaches half of
# what oneDNN does with the same rounding of single products; torch carries both. On Intel's MKL is
# the faster one: with oneDNN a training step took 6 to 40 % longer there.
ONEDNN = (
    "AuthenticAMD" in processor("vendor_id")
    and torch.backends.mkldnn.is_available()
    and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
)
ROWS_HINT = 128  # any value near it gives the same speed
# Rows × inputs × outputs below which MKL wins: a call of oneDNN costs about 20 µs before it begins.
FEW = 800_000


class Prepared:
    """W (out, in) for many products of few rows: input by input for MKL, rearranged for oneDNN.

    For the 20 rows of a time step MKL takes up to 40 % less (on an Intel Xeon) where the outputs of
    an input lie side by side; oneDNN otherwise rearranges W at every call, which takes longer than
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
        """W as oneDNN wants it; made when it is first needed."""
        return torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), ROWS_HINT)

    def suited_to(self, x: Tensor) -> Tensor:
        """Return W in the layout that is the faster one for as many rows as x has."""
        if not _by_onednn(x):
            return self.by_inputs
        return self._weight if x.numel() * len(self._weight) < FEW else self.rearranged


def product(x: Tensor, weight: Tensor | Prepared, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b for x (..., in) and W (out, in), without a gradient."""
    if isinstance(weight, Prepared):
        weight = weight.suited_to(x)
        onednn = weight.is_mkldnn
    else:
        onednn = _by_onednn(x)
        if onednn and not (weight.is_contiguous() or weight.T.is_contiguous()):
            # Of columns of a wider matrix oneDNN is a hundred times slower.
            weight = weight.contiguous()
    if not onednn:
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def add_product(total: Tensor, x: Tensor, weight: Prepared) -> Tensor:
    """Add x Wᵀ to total (N, out) in place, for x (N, in); return total."""
    suited = weight.suited_to(x)
    if suited.is_mkldnn:
        return total.add_(product(x, weight))
    return total.addmm_(x, suited.T)


def summed_outer(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Return Gᵀ X for G (N, out) and X (N, in): a weight's gradient over N rows.

    The narrower of the two is transposed in memory; oneDNN reads the other as it lies.
    """
    if inputs.shape[1] < gradients.shape[1]:
        return product(inputs.T, gradients.T).T
    return product(gradients.T, inputs.T)


def _by_onednn(tensor: Tensor) -> bool:
    return ONEDNN and tensor.device.type == "cpu" and tensor.dtype == torch.float32
