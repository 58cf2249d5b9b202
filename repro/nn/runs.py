"""The outputs of a NADE with one hidden vector for each run of values; backward by hand.

The hidden vector changes only after a one: it serves the values up to and including the next one.
An image of 784 pixels has a hundred ones, so a hundred hidden vectors are made, not 784, and every
value's output is one scalar product. Nothing is multiplied with a zero.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
# (a, b, i, _, r, …): the scalar products a[r] · b[i]. It is the gradient of the weights in a
# weighted sum of rows (`F.embedding_bag`), and stands for such products nowhere else in torch.
scalar_products = torch.ops.aten._embedding_bag_per_sample_weights_backward
SUM, NO_PADDING = 0, -1  # as it numbers its modes, and the row that it would leave out


class _Runs(NamedTuple):
    """Where the hidden vectors of N binary vectors stand among R rows, those of one after another.

    Attributes:
        sizes: how many each vector has, one more than it has ones, (N,).
        first: the row of each vector's first, (N,).
        row: the row that each value is scored with, (N, D).
        place: of every one among the D values, (R - N,).
        until: the row that ends with every one, (R - N,).
    """

    sizes: Tensor
    first: Tensor
    row: Tensor
    place: Tensor
    until: Tensor


def run_logits(hidden_bias: Tensor, read: Tensor, write: Tensor, x: Tensor) -> Tensor:
    """Return V_i · σ(a + Σ_{j<i} W_j x_j) of every value i, (N, D). Differentiable once.

    Args:
        hidden_bias: a, (N, H). read, write: W and V, (D, H).
        x: (N, D) of 0 and 1; it gets no gradient.
    """
    return _RunLogits.apply(hidden_bias, read, write, x)


class _RunLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_bias: Tensor, read: Tensor, write: Tensor, x: Tensor) -> Tensor:
        runs = _runs(x)
        hidden = hidden_bias.new_empty(len(x) + len(runs.place), hidden_bias.shape[1])
        hidden.index_copy_(0, runs.first, hidden_bias)
        hidden.index_copy_(0, runs.until + 1, read.index_select(0, runs.place))
        _accumulate(hidden, runs.sizes)
        hidden.sigmoid_()
        ctx.runs = runs
        ctx.save_for_backward(hidden, write, x)
        values, rows = _values(x), runs.row.flatten()
        logits = scalar_products(hidden, write, values, runs.first, rows, SUM, NO_PADDING)
        return logits.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logits: Tensor) -> tuple[Tensor | None, ...]:
        hidden, write, x = ctx.saved_tensors
        runs = ctx.runs
        # Of V over the values of each row, and of rows over the vectors at each value.
        weights = d_logits.flatten()
        d_hidden = _sums(write, _values(x), _starts(runs.row.flatten(), len(hidden)), weights)
        d_write = _sums(hidden, runs.row.T.contiguous(), None, d_logits.T.contiguous())
        sigmoid_backward(d_hidden, hidden, grad_input=d_hidden)
        # A one pulls at every later row of its vector: at all of them but those until its own.
        _accumulate(d_hidden, runs.sizes)
        total = d_hidden.index_select(0, runs.first + runs.sizes - 1)
        starts = _starts(runs.place, x.shape[1])
        until = runs.until[runs.place.argsort(stable=True)]
        d_read = x.T @ total - _sums(d_hidden, until, starts, None)
        return total, d_read, d_write, None


def _runs(x: Tensor) -> _Runs:
    sizes = x.sum(-1).long() + 1
    first = sizes.cumsum(0) - sizes
    row = (x.cumsum(-1) - x).long() + first.unsqueeze(1)
    vector, place = x.nonzero(as_tuple=True)
    return _Runs(sizes, first, row, place, row[vector, place])


def _accumulate(rows: Tensor, sizes: Tensor) -> None:
    for part in rows.split(sizes.tolist()):
        part.cumsum_(0)


def _sums(rows: Tensor, which: Tensor, starts: Tensor | None, weights: Tensor | None) -> Tensor:
    # Detached: or else the kernel prepares for a backward pass of its own.
    return F.embedding_bag(which, rows.detach(), starts, mode="sum", per_sample_weights=weights)


def _starts(groups: Tensor, count: int) -> Tensor:
    # Where each of `count` groups begins in a list of their members.
    members = torch.bincount(groups, minlength=count)
    return members.cumsum(0) - members


def _values(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device).repeat(len(x))
