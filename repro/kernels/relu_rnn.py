"""A ReLU RNN over packed rows, forward and backward by hand.

torch's own has no kernel for it on a CPU: it writes each step's few operations for autograd.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import relu_backward
from repro.kernels.lstm import weights_of
from repro.kernels.matmul import (
    PrepackedWeight,
    addmm_,
    matmul_out,
    product,
    weight_gradient,
)
from repro.kernels.packing import before, carried


def relu_rows(
    rnn: nn.RNN, x: Tensor, sizes: list[int], hidden: Tensor, backward: bool = False
) -> Tensor:
    """Run h_t = ReLU(W x_t + U h_{t-1} + b) of one layer over rows.

    Args:
        rnn: gives the weights.
        x: (N, ·), the rows of one step after those of another (`packing`).
        sizes: rows of each step; they never grow.
        hidden: before the first step, (B, H).
        backward: from each sequence's last step to its first.
    Returns:
        the hidden states (N, H). Differentiable once.
    """
    return _ReLU.apply(x, *weights_of(rnn), hidden, sizes, backward)


def relu_steps(rnn: nn.RNN, x: Tensor, hidden: Tensor) -> Tensor:
    """Run the same over x (T, B, ·) in elementary operations; return hidden states (T, B, H)."""
    input_weight, recurrent_weight, bias = weights_of(rnn)
    states = []
    for drive in F.linear(x, input_weight, bias).unbind():
        hidden = F.relu(drive + F.linear(hidden, recurrent_weight))
        states.append(hidden)
    return torch.stack(states)


class _ReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        hidden: Tensor,
        sizes: list[int],
        backward: bool,
    ) -> Tensor:
        recurrent = PrepackedWeight(recurrent_weight)
        hiddens = product(x, input_weight, bias)
        h, steps = hidden[:0], hiddens.split(sizes)
        for drive in reversed(steps) if backward else steps:
            entering = carried(h, hidden, len(drive))
            h = addmm_(drive, entering, recurrent).relu_()
        ctx.save_for_backward(x, input_weight, recurrent_weight, hidden, hiddens)
        ctx.sizes, ctx.backward_in_time = sizes, backward
        return hiddens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, input_weight, recurrent_weight, hidden, hiddens = ctx.saved_tensors
        transposed = PrepackedWeight(recurrent_weight.T)
        raw = torch.empty_like(hiddens)  # gradient of what the states were before their bend
        to_hidden = torch.zeros_like(hidden)
        steps = list(zip(*(t.split(ctx.sizes) for t in (gradient, hiddens, raw)), strict=True))
        for owed, h, raw_t in steps if ctx.backward_in_time else reversed(steps):
            relu_backward(to_hidden[: len(h)].add_(owed), h, 0, grad_input=raw_t)
            matmul_out(to_hidden[: len(h)], raw_t, transposed)
        entering = before(hiddens, hidden, ctx.sizes, ctx.backward_in_time)
        return (
            product(raw, input_weight.T) if ctx.needs_input_grad[0] else None,
            weight_gradient(raw, x),
            weight_gradient(raw, entering),
            raw.sum(0),
            to_hidden if ctx.needs_input_grad[4] else None,
            None,
            None,
        )
