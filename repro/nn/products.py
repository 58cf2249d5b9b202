"""Products of float32 matrices on a CPU by the faster of the two libraries that torch carries."""

import torch
from torch import Tensor
from torch.nn import functional as F

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and all(
    hasattr(torch.ops.mkldnn, name) for name in ("_linear_pointwise", "_reorder_linear_weight")
)
ROWS_HINT = 128  # any value near it gives the same speed


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x Wᵀ + b for x (..., in) and W (out, in), without a gradient.

    torch multiplies float32 matrices on a CPU with MKL, which on AMD processors reaches half of
    what oneDNN does with the same rounding of single products; torch carries both.

    Args:
        weight: W, or what `prepared` made of it.
    """
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def product_plus(x: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """Return x Wᵀ + other for x (N, in), W as for `product` and other (N, out)."""
    if _by_onednn(x):
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, weight, None, "add")
    return torch.addmm(other, x, weight.T)


def summed_outer(gradients: Tensor, inputs: Tensor) -> Tensor:
    """Return Gᵀ X for G (N, out) and X (N, in): a weight's gradient over N rows.

    The narrower of the two is transposed in memory; oneDNN reads the other as it lies.
    """
    if inputs.shape[1] < gradients.shape[1]:
        return product(inputs.T, gradients.T).T
    return product(gradients.T, inputs.T)


def prepared(weight: Tensor) -> Tensor:
    """Return W (out, in) laid out for many products: a few rows then go 2 to 3 times as fast.

    oneDNN otherwise rearranges W at every call, which for the 20 rows of a time step takes longer
    than the product.
    """
    if _by_onednn(weight):
        return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), ROWS_HINT)
    return weight


def _by_onednn(tensor: Tensor) -> bool:
    return _HAS_ONEDNN and tensor.device.type == "cpu" and tensor.dtype == torch.float32
