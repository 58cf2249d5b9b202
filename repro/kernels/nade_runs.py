"""The outputs of a NADE with one hidden vector for each run of values; backward by hand.

The hidden vector changes only after a one: it serves the values up to and including the next one.
An image of 784 pixels has a hundred ones, so a hundred hidden vectors are made, not 784, and every
value's output is one scalar product. Nothing is multiplied by zero.

Forward, for each vector x, where s(i) is the row of hidden vectors that value i is scored with, and
row r + 1 of a vector begins after its one at j(r):

    a_0 = a;  a_{r+1} = a_r + W_j(r)
    h_r = σ(a_r)
    l_i = V_i · h_s(i)

Backward, from grad_l:

    grad_V_i = Σ_vectors grad_l_i h_s(i)
    grad_h_r = Σ_{i: s(i) = r} grad_l_i V_i
    grad_p_r = grad_h_r h_r (1 − h_r)
    grad_a = Σ_r grad_p_r
    grad_W_j = Σ_{vectors with a one at j} Σ_{r after that one} grad_p_r

The last sum is taken as the sum over all of the vector's rows, less that over the rows up to and
including the one that ends with j: sums from the first row on are made once for all j.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import sigmoid_backward
from repro.kernels.packing import packing

# (a, b, i, _, r, …): the scalar products a[r] · b[i]. It is the gradient of the weights in a
# weighted sum of rows (`F.embedding_bag`); torch has no other operation for such products.
scalar_products = torch.ops.aten._embedding_bag_per_sample_weights_backward
SUM, NO_PADDING = 0, -1  # its code for mode="sum", and the index of the row to leave out (none)


class _Runs(NamedTuple):
    """Indices of the R hidden vectors of N binary vectors, packed as steps of N sequences are.

    Attributes:
        sizes: how many vectors have a first hidden vector, a second, and so on; they never grow.
        source: what each row begins with, (R,): n for vector n, or N + i for a one at value i.
        scored: the row that each value is scored with, (N, D).
        by_vector: the rows of the first vector, then those of the second, and so on, (R,).
        last: the last row of each vector, (N,).
        column: of every one in x, its index among the D values, (R - N,).
        until: the row that ends with that one, (R - N,).
    """

    sizes: list[int]
    source: Tensor
    scored: Tensor
    by_vector: Tensor
    last: Tensor
    column: Tensor
    until: Tensor


def run_logits(hidden_bias: Tensor, read: Tensor, write: Tensor, x: Tensor) -> Tensor:
    """Return V_i · σ(a + Σ_{j<i} W_j x_j) of every value i, (N, D). Differentiable once.

    Args:
        hidden_bias: a, (N, H). read, write: W and V, (D, H).
        x: (N, D) of 0 and 1; it gets no gradient.
    """
    return _RunLogits.apply(hidden_bias, read, write, x)


def plain_logits(hidden_bias: Tensor, read: Tensor, write: Tensor, x: Tensor) -> Tensor:
    """Return the same from one hidden vector per value, (N, D, H) in all: the plain path."""
    pulls = x.unsqueeze(-1) * read  # (N, D, H)
    hidden = torch.sigmoid(hidden_bias.unsqueeze(1) + pulls.cumsum(1) - pulls)
    return (hidden * write).sum(-1)


class _RunLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_bias: Tensor,  # a (N, H)
        read: Tensor,  # W (D, H)
        write: Tensor,  # V (D, H)
        x: Tensor,  # (N, D)
    ) -> Tensor:
        runs = _runs(x)
        hidden = torch.cat([hidden_bias, read]).index_select(0, runs.source)  # (R, H)
        _accumulate(hidden, runs.sizes)
        hidden.sigmoid_()
        ctx.runs = runs
        ctx.save_for_backward(hidden, write, x)
        values, rows = _values(x), runs.scored.flatten()
        logits = scalar_products(hidden, write, values, rows, rows, SUM, NO_PADDING)
        return logits.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_logits: Tensor) -> tuple[Tensor | None, ...]:
        hidden, write, x = ctx.saved_tensors
        runs = ctx.runs
        # Of V over the values of each row, and of rows over the vectors at each value.
        per_row = torch.bincount(runs.scored.flatten(), minlength=len(hidden))[runs.by_vector]
        sums = _sums(write, _values(x), per_row, grad_logits.flatten())
        grad_hidden = sums.index_select(0, runs.by_vector.argsort())  # (R, H)
        rows, weights = runs.scored.T.contiguous(), grad_logits.T.contiguous()
        grad_write = F.embedding_bag(rows, hidden, mode="sum", per_sample_weights=weights)
        grad_pre = sigmoid_backward(grad_hidden, hidden, grad_input=grad_hidden)  # (R, H)
        _accumulate(grad_pre, runs.sizes)  # now of each row and those before it
        grad_hidden_bias = grad_pre.index_select(0, runs.last)  # (N, H)
        until = runs.until[runs.column.argsort(stable=True)]
        ones = torch.bincount(runs.column, minlength=x.shape[1])
        grad_read = x.T @ grad_hidden_bias - _sums(grad_pre, until, ones)
        return grad_hidden_bias, grad_read, grad_write, None


def _runs(x: Tensor) -> _Runs:
    x = x.long()  # whose cumulative sums are the same on every run, also on a GPU
    counts = x.sum(-1) + 1
    packed = packing(counts, int(counts.max()))
    table = counts.new_empty(packed.shape).T  # of each vector's hidden vectors
    table.T.view(-1)[packed.indices] = torch.arange(len(packed.indices), device=x.device)
    inside = torch.arange(table.shape[1], device=x.device) < counts.unsqueeze(1)
    before = x.cumsum(-1) - x
    vector, column = x.nonzero(as_tuple=True)
    rank = before[vector, column]
    source = counts.new_empty(len(packed.indices))
    source[table[:, 0]] = torch.arange(len(x), device=x.device)
    source[table[vector, rank + 1]] = len(x) + column
    return _Runs(
        sizes=packed.sizes,
        source=source,
        scored=table.gather(1, before),
        by_vector=table[inside],
        last=table.gather(1, counts.unsqueeze(1) - 1).squeeze(1),
        column=column,
        until=table[vector, rank],
    )


def _accumulate(rows: Tensor, sizes: list[int]) -> None:
    for earlier, later in pairwise(rows.split(sizes)):
        later += earlier[: len(later)]


def _sums(rows: Tensor, which: Tensor, counts: Tensor, weights: Tensor | None = None) -> Tensor:
    # Sums over the first `counts[0]` rows that `which` names, the next `counts[1]`, and so on. The
    # rows are detached, or else the kernel would prepare for its own backward pass.
    starts = counts.cumsum(0) - counts
    return F.embedding_bag(which, rows.detach(), starts, mode="sum", per_sample_weights=weights)


def _values(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1], device=x.device).repeat(len(x))
