"""Products of float32 matrices on a CPU by the faster of the two libraries that torch carries."""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.runtime.hardware import processor

# torch multiplies float32 matrices on a CPU with MKL, and carries oneDNN too. On AMD's processors
# MKL takes no AVX-512 and oneDNN does. From family 26 (Zen 5) on that is twice as fast, for all but
# small products. On Zen 4, which does AVX-512 in two halves, oneDNN wins where few rows meet a
# large W that it has rearranged (20 to 50 % less than MKL), and nowhere else. On Intel's processors
# MKL wins: with oneDNN a training step took 6 to 40 % longer.
ONEDNN = (
    "AuthenticAMD" in processor("vendor_id")
    and torch.backends.mkldnn.is_available()
    and all(
        hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
    )
)
WIDE = processor("cpu family").isdigit() and int(processor("cpu family")) >= 26
ROWS_HINT = 128  # any value near it gives the same speed
# Where AVX-512 is wide: rows × inputs × outputs below which MKL wins, since a call of oneDNN costs
# about 20 µs before it begins. Where it is not: inputs × outputs from which oneDNN does.
FEW = 800_000
MANY_WEIGHTS = 250_000


class PrepackedWeight:
    """W (out, in) for many products of few rows: input by input for MKL, rearranged for oneDNN.

    For the 20 rows of a time step MKL takes less where the outputs of an input lie side by side (up
    to 40 % on an Intel Xeon); oneDNN otherwise rearranges W at every call, which takes longer than
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
        if not (ONEDNN and _on_cpu_in_float32(x)):
            return self.by_inputs
        if WIDE:
            return self._weight if x.numel() * len(self._weight) < FEW else self.rearranged
        return self.by_inputs if self._weight.numel() < MANY_WEIGHTS else self.rearranged


def product(x: Tensor, weight: Tensor | PrepackedWeight, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b for x (..., in) and W (out, in), without a gradient."""
    if isinstance(weight, PrepackedWeight):
        weight = weight.suited_to(x)
        onednn = weight.is_mkldnn
    else:
        onednn = ONEDNN and WIDE and _on_cpu_in_float32(x)
        if onednn and not (weight.is_contiguous() or weight.T.is_contiguous()):
            # Of columns of a wider matrix oneDNN is a hundred times slower.
            weight = weight.contiguous()
    return _onednn_product(x, weight, bias) if onednn else F.linear(x, weight, bias)


def addmm_(total: Tensor, x: Tensor, weight: PrepackedWeight) -> Tensor:
    """Add x Wᵀ to total (N, out) in place, for x (N, in); return total."""
    suited = weight.suited_to(x)
    if suited.is_mkldnn:
        return total.add_(_onednn_product(x, suited))
    return total.addmm_(x, suited.T)


def matmul_out(place: Tensor, x: Tensor, weight: PrepackedWeight) -> Tensor:
    """Write x Wᵀ to place (N, out), for x (N, in); return place."""
    suited = weight.suited_to(x)
    if suited.is_mkldnn:
        return place.copy_(_onednn_product(x, suited))
    return torch.mm(x, suited.T, out=place)


def weight_gradient(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Return Gᵀ X for G (N, out) and X (N, in): a weight's gradient over N rows.

    The narrower of the two is transposed in memory; oneDNN reads the other as it lies.
    """
    if inputs.shape[1] < gradients.shape[1]:
        return product(inputs.T, gradients.T).T
    return product(gradients.T, inputs.T)


def _onednn_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


def _on_cpu_in_float32(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32
