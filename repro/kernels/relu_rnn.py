"""A ReLU RNN over packed rows, forward and backward by hand.

torch has no kernel for it on a CPU: autograd records each step's few operations one by one.

Forward:

    h_t = ReLU(a_t),  a_t = W x_t + U h_{t-1} + b

Backward, from grad_h_t, the gradient of h_t as an output plus what comes from step t + 1:

    grad_a_t = grad_h_t where h_t > 0, else 0
    grad_h_{t-1} = grad_a_t U + the gradient that h_{t-1} gets as an output
    grad_x = grad_a W;  grad_W = grad_aᵀ x;  grad_U = grad_aᵀ h_{t-1};  grad_b = Σ grad_a
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
from repro.kernels.packing import carried, previous_rows


def relu_rows(
    rnn: nn.RNN, x: Tensor, sizes: list[int], hidden: Tensor, backward: bool = False
) -> Tensor:
    """Run h_t = ReLU(W x_t + U h_{t-1} + b) of one layer over rows.

    Args:
        rnn: the layer whose weights are used.
        x: (N, ·), the rows of one step after those of another (`packing`).
        sizes: rows of each step; they never grow.
        hidden: before the first step, (B, H).
        backward: from each sequence's last step to its first.
    Returns:
        the hidden states (N, H). Differentiable once.
    """
    return _ReLURows.apply(x, *weights_of(rnn), hidden, sizes, backward)


def relu_steps(rnn: nn.RNN, x: Tensor, hidden: Tensor) -> Tensor:
    """Return the hidden states (T, B, H) of the same over x (T, B, ·): the plain path."""
    input_weight, recurrent_weight, bias = weights_of(rnn)
    states = []
    for drive in F.linear(x, input_weight, bias).unbind():
        hidden = F.relu(drive + F.linear(hidden, recurrent_weight))
        states.append(hidden)
    return torch.stack(states)


class _ReLURows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (N, ·)
        input_weight: Tensor,  # W (H, ·)
        recurrent_weight: Tensor,  # U (H, H)
        bias: Tensor,  # (H,)
        hidden: Tensor,  # (B, H)
        sizes: list[int],
        backward: bool,
    ) -> Tensor:
        recurrent = PrepackedWeight(recurrent_weight)
        hiddens = product(x, input_weight, bias)  # (N, H): W x + b at first, changed step by step
        h, steps = hidden[:0], hiddens.split(sizes)
        for h_t in reversed(steps) if backward else steps:
            h = addmm_(h_t, carried(h, hidden, len(h_t)), recurrent).relu_()
        ctx.save_for_backward(x, input_weight, recurrent_weight, hidden, hiddens)
        ctx.sizes, ctx.backward_in_time = sizes, backward
        return hiddens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hiddens: Tensor) -> tuple[Tensor | None, ...]:
        x, input_weight, recurrent_weight, hidden, hiddens = ctx.saved_tensors
        transposed = PrepackedWeight(recurrent_weight.T)
        grad_a = torch.empty_like(hiddens)  # (N, H)
        grad_hidden = torch.zeros_like(hidden)  # of the state after the current step, (B, H)
        rows = (grad_hiddens, hiddens, grad_a)
        steps = list(zip(*(t.split(ctx.sizes) for t in rows), strict=True))
        for grad_output, h_t, grad_a_t in steps if ctx.backward_in_time else reversed(steps):
            grad_h = grad_hidden[: len(h_t)].add_(grad_output)
            relu_backward(grad_h, h_t, 0, grad_input=grad_a_t)
            matmul_out(grad_h, grad_a_t, transposed)
        entering = previous_rows(
            hiddens, hidden, ctx.sizes, ctx.backward_in_time
        )  # h_{t-1}, (N, H)
        return (
            product(grad_a, input_weight.T) if ctx.needs_input_grad[0] else None,
            weight_gradient(grad_a, x),
            weight_gradient(grad_a, entering),
            grad_a.sum(0),
            grad_hidden if ctx.needs_input_grad[4] else None,
            None,
            None,
        )
