"""An LSTM over packed rows, forward and backward by hand.

torch's own takes a slow way for packed batches (its backward pass is quadratic in time), and for
padded ones it computes the padding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels import dispatch
from repro.kernels.backward import sigmoid_backward, tanh_backward
from repro.kernels.matmul import (
    PrepackedWeight,
    addmm_,
    matmul_out,
    product,
    weight_gradient,
)
from repro.kernels.packing import before, carried, last_rows


def lstm_rows(
    lstm: nn.LSTM,
    x: Tensor,
    sizes: list[int],
    hidden: Tensor,
    cell: Tensor,
    backward: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM of one layer over rows.

    Args:
        lstm: gives the weights.
        x: (N, ·), the rows of one step after those of another (`packing`).
        sizes: rows of each step; they never grow.
        hidden, cell: before the first step, (B, H).
        backward: from each sequence's last step to its first.
    Returns:
        the hidden states (N, H), and hidden and cell state of each sequence after its last step,
        (B, H). Differentiable once.
    """
    return _LSTM.apply(x, *weights_of(lstm), hidden, cell, sizes, backward)


def lstm_step(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next hidden and cell state, (..., H) each. Differentiable once.

    Args:
        gates: the four pre-activations input, forget, candidate, output, (..., 4H), in the order
            of torch.nn.LSTM.
        cell: the cell state, (..., H).
    """
    if dispatch.current().plain:
        i, f, g, o = gates.chunk(4, dim=-1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
    return _Step.apply(gates, cell)


def lstm_steps(
    lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM of one layer step by step over x (T, B, ·); return what `lstm_rows` does."""
    input_weight, recurrent_weight, bias = weights_of(lstm)
    states = []
    for gates in F.linear(x, input_weight, bias).unbind():
        hidden, cell = lstm_step(gates + F.linear(hidden, recurrent_weight), cell)
        states.append(hidden)
    return torch.stack(states), hidden, cell


def weights_of(rnn: nn.RNNBase) -> tuple[Tensor, Tensor, Tensor]:
    """Return the weights of x and of h of one layer, and its two biases as one."""
    input_weight, recurrent_weight, input_bias, recurrent_bias = rnn.parameters()
    return input_weight, recurrent_weight, input_bias + recurrent_bias


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        bent_gates = torch.sigmoid(gates)
        i, f, _, o = bent_gates.split(cell.shape[-1], dim=-1)
        g = torch.tanh(gates[..., 2 * cell.shape[-1] : 3 * cell.shape[-1]])
        after = torch.mul(f, cell).addcmul_(i, g)
        bent = torch.tanh(after)
        ctx.save_for_backward(bent_gates, g, cell, bent)
        return o * bent, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_hidden: Tensor, to_cell: Tensor) -> tuple[Tensor, Tensor]:
        bent_gates, g, cell, bent = ctx.saved_tensors
        width = cell.shape[-1]
        i, f, _, o = bent_gates.split(width, dim=-1)
        raw = torch.empty_like(bent_gates)
        raw_i, raw_f, raw_g, raw_o = raw.split(width, dim=-1)
        c = torch.mul(to_hidden, o)
        tanh_backward(c, bent, grad_input=c).add_(to_cell)
        torch.mul(to_hidden, bent, out=raw_o)
        torch.mul(c, g, out=raw_i)
        torch.mul(c, cell, out=raw_f)
        sigmoid_backward(raw, bent_gates, grad_input=raw)  # the candidate's part is written next
        tanh_backward(c * i, g, grad_input=raw_g)
        return raw, c.mul_(f)


class _LSTM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        input_weight: Tensor,
        recurrent_weight: Tensor,
        bias: Tensor,
        hidden: Tensor,
        cell: Tensor,
        sizes: list[int],
        backward: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = hidden.shape[1]
        recurrent = PrepackedWeight(recurrent_weight)
        gates = product(x, input_weight, bias)  # (N, 4H): input, forget, candidate, output
        hiddens, cells, bents = gates.new_empty(3, len(x), width)
        h, c = hidden[:0], cell[:0]
        rows = (gates, *_columns(gates, width), hiddens, cells, bents)
        steps = list(zip(*(t.split(sizes) for t in rows), strict=True))
        for all_four, both, i, f, g, o, h_t, c_t, bent in steps[::-1] if backward else steps:
            addmm_(all_four, carried(h, hidden, len(i)), recurrent)
            both.sigmoid_()
            g.tanh_()
            o.sigmoid_()
            c = torch.mul(f, carried(c, cell, len(i)), out=c_t).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=bent), out=h_t)
        ctx.save_for_backward(
            x, input_weight, recurrent_weight, hidden, cell, gates, hiddens, cells, bents
        )
        ctx.sizes, ctx.backward_in_time = sizes, backward
        return hiddens, *(last_rows(states, sizes, backward) for states in (hiddens, cells))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, last_hidden: Tensor, last_cell: Tensor) -> tuple:
        x, input_weight, recurrent_weight, hidden, cell, *kept = ctx.saved_tensors
        gates, hiddens, cells, bents = kept
        way, width = (ctx.sizes, ctx.backward_in_time), hidden.shape[1]
        transposed = PrepackedWeight(recurrent_weight.T)
        raw = torch.empty_like(gates)  # gradient of what the gates were before their bend
        # What flows back into a sequence's state begins with what its last state is owed.
        to_hidden, to_cell = last_hidden.clone(), last_cell.clone()
        rows = (
            *(gradient, bents, before(cells, cell, *way)),
            *_columns(gates, width),
            *(raw, *_columns(raw, width)),
        )
        steps = list(zip(*(t.split(ctx.sizes) for t in rows), strict=True))
        for step in steps if ctx.backward_in_time else reversed(steps):
            to_h, bent, c_before, both, i, f, g, o, raw_t, raw_both, raw_i, raw_f, raw_g, raw_o = (
                step
            )
            h, c = to_hidden[: len(i)].add_(to_h), to_cell[: len(i)]
            torch.mul(h, bent, out=raw_o)
            sigmoid_backward(raw_o, o, grad_input=raw_o)
            c += tanh_backward(h.mul_(o), bent, grad_input=h)
            torch.mul(c, g, out=raw_i)
            torch.mul(c, c_before, out=raw_f)
            sigmoid_backward(raw_both, both, grad_input=raw_both)
            torch.mul(c, i, out=raw_g)
            tanh_backward(raw_g, g, grad_input=raw_g)
            c *= f
            matmul_out(to_hidden[: len(i)], raw_t, transposed)
        return (
            product(raw, input_weight.T) if ctx.needs_input_grad[0] else None,
            weight_gradient(raw, x),
            weight_gradient(raw, before(hiddens, hidden, *way)),
            raw.sum(0),
            to_hidden if ctx.needs_input_grad[4] else None,
            to_cell if ctx.needs_input_grad[5] else None,
            None,
            None,
        )


def _columns(gates: Tensor, width: int) -> tuple[Tensor, ...]:
    """Return the first two gates side by side, and each gate alone."""
    return gates[:, : 2 * width], *gates.split(width, dim=1)
