"""The linear layer of every model: large float32 products by the faster library, and one weight
gradient for all calls in a loop.

Forward, for call k of a loop:

    y_k = x_k Wᵀ + b

Backward:

    grad_x_k = grad_y_k W
    grad_W = Σ_k grad_y_kᵀ x_k;  grad_b = Σ_k Σ_rows grad_y_k

grad_x is computed call by call. The sums wait until the last call is differentiated: then all
grad_y_k and x_k are concatenated and grad_W is one product. For this, W and b enter the graph once,
through a scalar `token` that every call depends on: autograd differentiates `_SharedWeight` after
all calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels import dispatch
from repro.kernels.matmul import PrepackedWeight, product, weight_gradient


class _Loop:
    """One weight in a loop, and what its gradient is computed from.

    Attributes:
        weight: W for products.
        pending: grad_y (N, out) and x (N, in) of every call differentiated so far.
    """

    def __init__(self, weight: Tensor, many_calls: bool) -> None:
        # Rearranging pays only for many products.
        self._layout = PrepackedWeight if many_calls else Tensor.detach
        self._weight = weight.detach()
        self.weight = self._layout(self._weight)
        self.pending: list[tuple[Tensor, Tensor]] = []

    @cached_property
    def transposed(self) -> Tensor | PrepackedWeight:
        """Wᵀ for products; made when the first call is differentiated."""
        return self._layout(self._weight.T)


class _SharedWeight(torch.autograd.Function):
    """Puts weight and bias into the graph once; its backward runs after that of every call."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, loop: _Loop) -> Tensor:
        ctx.loop, ctx.has_bias = loop, bias is not None
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_token: Tensor) -> tuple[Tensor, Tensor | None, None]:
        pairs = zip(*ctx.loop.pending, strict=True)
        grad_y, x = (p[0] if len(p) == 1 else torch.cat(p) for p in pairs)  # (N, out), (N, in)
        ctx.loop.pending.clear()
        ctx.loop.__dict__.pop("transposed", None)  # a graph may outlive its backward pass
        grad_weight = weight_gradient(grad_y, x)
        return grad_weight, grad_y.sum(0) if ctx.has_bias else None, None


class _Call(torch.autograd.Function):
    """One call of the layer; its backward leaves the weight's gradient to the loop."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, bias: Tensor | None, loop: _Loop) -> Tensor:
        ctx.save_for_backward(x)
        ctx.loop = loop
        return product(x, loop.weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        (x,) = ctx.saved_tensors
        rows = grad_y.reshape(-1, grad_y.shape[-1]), x.reshape(-1, x.shape[-1])
        ctx.loop.pending.append(rows)
        grad_x = product(grad_y, ctx.loop.transposed) if ctx.needs_input_grad[0] else None
        return grad_x, grad_y.new_zeros(()), None, None


class Linear(nn.Linear):
    """An nn.Linear that is fast on a CPU and in a time loop; same values up to rounding.

    Between `begin` and `end` the gradient of the weight is one product over all calls, made when
    the last of them is differentiated, instead of one product and one addition per call. A single
    call is a loop of one. Small products, other devices and other types go to `F.linear`, as does
    everything on the plain path. Differentiable once.
    """

    _open: tuple[Tensor, _Loop] | None = None
    _is_open = False

    def begin(self) -> None:
        """Start a loop: the calls from here on share one weight gradient."""
        self._is_open, self._open = True, None

    def end(self) -> None:
        """End the loop."""
        self._is_open, self._open = False, None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        paths = dispatch.current()
        small = x.numel() * self.out_features < paths.linear_min_flops
        if small or paths.plain or x.dtype != torch.float32 or x.device.type != "cpu":
            return F.linear(x, self.weight, self.bias)
        if not torch.is_grad_enabled():
            return product(x, self.weight, self.bias)
        token, loop = self._open or self._start()
        if self._is_open:
            self._open = token, loop
        bias = None if self.bias is None else self.bias.detach()
        return _Call.apply(x, token, bias, loop)

    def _start(self) -> tuple[Tensor, _Loop]:
        loop = _Loop(self.weight, self._is_open)
        return _SharedWeight.apply(self.weight, self.bias, loop), loop


@contextmanager
def deferred_weight_gradients(model: nn.Module) -> Iterator[None]:
    """Make every `Linear` of a model share one weight gradient over the calls inside."""
    needs_gradients = torch.is_grad_enabled()  # evaluation has many short loops, and no gradients
    layers = [m for m in model.modules() if isinstance(m, Linear)] if needs_gradients else []
    for layer in layers:
        layer.begin()
    try:
        yield
    finally:
        for layer in layers:
            layer.end()
