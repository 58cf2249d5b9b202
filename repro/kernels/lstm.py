"""LSTMs, forward and backward by hand: over packed rows, and one cell at a time.

torch's own kernel is slow for packed batches (its backward pass takes quadratic time in the number
of steps), and for padded batches it spends time on the padding.

Forward, with pre-activations a_t = W x_t + U h_{t-1} + b of the input, forget, candidate and output
gates:

    i, f, o = σ(a_i), σ(a_f), σ(a_o);  g = tanh(a_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)

Backward (`cell_backward`), from grad_h and grad_c, the gradients of h_t and c_t from everything
after them:

    grad_c      += grad_h o (1 − tanh²(c_t))
    grad_a_o     = grad_h tanh(c_t) o (1 − o)
    grad_a_i     = grad_c g i (1 − i)
    grad_a_f     = grad_c c_{t-1} f (1 − f)
    grad_a_g     = grad_c i (1 − g²)
    grad_c_{t-1} = grad_c f

Over all steps, with the rows of grad_a of one step below those of another:

    grad_h_{t-1} = grad_a_t U + the gradient that h_{t-1} gets as an output
    grad_x = grad_a W;  grad_W = grad_aᵀ x;  grad_U = grad_aᵀ h_{t-1};  grad_b = Σ grad_a
"""

from typing import Any, NamedTuple

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
from repro.kernels.packing import carried, last_rows, previous_rows


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
        lstm: the layer whose weights are used.
        x: (N, ·), the rows of one step after those of another (`packing`).
        sizes: rows of each step; they never grow.
        hidden, cell: before the first step, (B, H).
        backward: from each sequence's last step to its first.
    Returns:
        the hidden states (N, H), and hidden and cell state of each sequence after its last step,
        (B, H). Differentiable once.
    """
    return _LSTMRows.apply(x, *weights_of(lstm), hidden, cell, sizes, backward)


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
    return _LSTMStep.apply(gates, cell)


def lstm_steps(
    lstm: nn.LSTM, x: Tensor, hidden: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM of one layer step by step over x (T, B, ·); returns as `lstm_rows` does."""
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


class Gates(NamedTuple):
    """The four gates of a step: side by side, (·, 4H), and views of each, (·, H).

    For activated gates `candidate` may be a separate tensor.
    """

    all: Tensor
    input: Tensor
    forget: Tensor
    candidate: Tensor
    output: Tensor


class Cell(NamedTuple):
    """What a cell returns, (·, H) each."""

    hidden: Tensor
    cell: Tensor
    tanh_cell: Tensor


def gates_of(gates: Tensor) -> Gates:
    """Return gates (..., 4H) and a view of each."""
    return Gates(gates, *gates.split(gates.shape[-1] // 4, dim=-1))


def gates_by_step(gates: Gates, sizes: list[int]) -> list[Gates]:
    """Return the gates (N, ·) of each step."""
    return [Gates(*step) for step in zip(*(t.split(sizes) for t in gates), strict=True)]


def cell_forward(gates: Gates, cell: Tensor, out: Cell | None = None) -> Cell:
    """Return h_t and c_t from the activated gates and c_{t-1}; into `out`, if there is one."""
    hidden, after, tanh_cell = out or (None, None, None)
    after = torch.mul(gates.forget, cell, out=after).addcmul_(gates.input, gates.candidate)
    tanh_cell = torch.tanh(after, out=tanh_cell)
    return Cell(torch.mul(gates.output, tanh_cell, out=hidden), after, tanh_cell)


def cell_backward(
    grad_hidden: Tensor,
    grad_cell: Tensor,
    gates: Gates,
    cell: Tensor,
    tanh_cell: Tensor,
    grad_gates: Gates,
    out: Tensor | None = None,
) -> Tensor:
    """Return grad_c_{t-1}, and write the gradients of the gates' pre-activations to `grad_gates`.

    Args:
        gates: activated. cell: c_{t-1}. tanh_cell: tanh(c_t).
        out: the tensor to write the result to; it may be `grad_cell`.
    """
    torch.mul(grad_hidden, tanh_cell, out=grad_gates.output)
    total = torch.mul(grad_hidden, gates.output)
    tanh_backward(total, tanh_cell, grad_input=total).add_(grad_cell)
    torch.mul(total, gates.candidate, out=grad_gates.input)
    torch.mul(total, cell, out=grad_gates.forget)
    # The next line overwrites the candidate's part of this one.
    sigmoid_backward(grad_gates.all, gates.all, grad_input=grad_gates.all)
    tanh_backward(total * gates.input, gates.candidate, grad_input=grad_gates.candidate)
    return torch.mul(total, gates.forget, out=out)


class _LSTMStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        width = cell.shape[-1]
        candidate = torch.tanh(gates[..., 2 * width : 3 * width])
        activated = gates_of(torch.sigmoid(gates))._replace(candidate=candidate)
        hidden, after, tanh_cell = cell_forward(activated, cell)
        ctx.save_for_backward(activated.all, candidate, cell, tanh_cell)
        return hidden, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor, grad_cell: Tensor) -> tuple[Tensor, Tensor]:
        activated, candidate, cell, tanh_cell = ctx.saved_tensors
        gates, grad_gates = gates_of(activated), gates_of(torch.empty_like(activated))
        gates = gates._replace(candidate=candidate)
        grad_before = cell_backward(grad_hidden, grad_cell, gates, cell, tanh_cell, grad_gates)
        return grad_gates.all, grad_before


class _LSTMRows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,  # (N, ·)
        input_weight: Tensor,  # W (4H, ·)
        recurrent_weight: Tensor,  # U (4H, H)
        bias: Tensor,  # (4H,)
        hidden: Tensor,  # (B, H)
        cell: Tensor,  # (B, H)
        sizes: list[int],
        backward: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        width = hidden.shape[1]
        recurrent = PrepackedWeight(recurrent_weight)
        gates = gates_of(product(x, input_weight, bias))  # (N, 4H)
        kept = Cell(*gates.all.new_empty(3, len(x), width))  # (N, H) each
        h, c = hidden[:0], cell[:0]
        rows = (gates.all[:, : 2 * width], *kept)
        parts = (t.split(sizes) for t in rows)
        steps = list(zip(gates_by_step(gates, sizes), *parts, strict=True))
        for gates_t, input_and_forget, *kept_t in steps[::-1] if backward else steps:
            size = len(gates_t.all)
            addmm_(gates_t.all, carried(h, hidden, size), recurrent)
            input_and_forget.sigmoid_()
            gates_t.candidate.tanh_()
            gates_t.output.sigmoid_()
            h, c, _ = cell_forward(gates_t, carried(c, cell, size), Cell(*kept_t))
        ctx.save_for_backward(x, input_weight, recurrent_weight, hidden, cell, gates.all, *kept)
        ctx.sizes, ctx.backward_in_time = sizes, backward
        last_hidden, last_cell = (last_rows(states, sizes, backward) for states in kept[:2])
        return kept.hidden, last_hidden, last_cell

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_hiddens: Tensor, grad_last_hidden: Tensor, grad_last_cell: Tensor
    ) -> tuple[Tensor | None, ...]:
        x, input_weight, recurrent_weight, hidden, cell, gates, *kept = ctx.saved_tensors
        hiddens, cells, tanh_cells = kept
        direction = ctx.sizes, ctx.backward_in_time
        transposed = PrepackedWeight(recurrent_weight.T)
        grad_gates = torch.empty_like(gates)  # of the pre-activations, (N, 4H)
        # Of each sequence's state after the current step, (B, H); at first, after its last step.
        grad_hidden, grad_cell = grad_last_hidden.clone(), grad_last_cell.clone()
        rows = (grad_hiddens, tanh_cells, previous_rows(cells, cell, *direction))
        steps = list(
            zip(
                *(gates_by_step(gates_of(t), ctx.sizes) for t in (gates, grad_gates)),
                *(t.split(ctx.sizes) for t in rows),
                strict=True,
            )
        )
        for step in steps if ctx.backward_in_time else reversed(steps):
            gates_t, grad_gates_t, grad_output, tanh_cell, cell_before = step
            size = len(grad_output)
            h, c = grad_hidden[:size].add_(grad_output), grad_cell[:size]
            cell_backward(h, c, gates_t, cell_before, tanh_cell, grad_gates_t, out=c)
            matmul_out(h, grad_gates_t.all, transposed)
        return (
            product(grad_gates, input_weight.T) if ctx.needs_input_grad[0] else None,
            weight_gradient(grad_gates, x),
            weight_gradient(grad_gates, previous_rows(hiddens, hidden, *direction)),
            grad_gates.sum(0),
            grad_hidden if ctx.needs_input_grad[4] else None,
            grad_cell if ctx.needs_input_grad[5] else None,
            None,
            None,
        )
