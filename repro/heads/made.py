"""MADE: a binary vector modelled value by value, with all conditionals in one masked pass."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.heads.conditional import ConditionalBiasHead
from repro.nn import bernoulli
from repro.nn.dropout import Dropout


class MadeHead(ConditionalBiasHead):
    """p(x_t | h) = Π_i Bernoulli(x_ti; σ(V_i · ReLU(W x_t + a) + A_i · x_t + c_i)) under masks.

    The masked autoencoder of Germain et al. (2015, arXiv 1502.03509): hidden unit k, of degree m_k,
    reads x_d only if d comes no later than m_k in the order of the values, and feeds only the
    values after m_k; A connects every value directly with all later ones. There is a fixed set of
    `orders`, each with its degrees. In training every call uses one of them, at random, for its
    whole batch (order-agnostic and connectivity-agnostic training; the authors' code uses them in
    turn); otherwise the density is the mean over all orders, which is also a density. As in the
    NADE head, the features h give both biases. Initial weights are as large as in the authors'
    code, where each matrix is a part of a square orthogonal one of the larger width. Dropout is
    ours.
    """

    generator: torch.Generator | None = None  # chooses in training; torch's default if None
    ranks: Tensor  # (orders, D)
    degrees: Tensor  # (orders, hidden)

    def __init__(
        self, in_features: int, dim: int, hidden: int, orders: int, dropout: float
    ) -> None:
        super().__init__(in_features, dim, hidden)
        scale = max(dim, hidden) ** -0.5
        self.read = nn.Parameter(scale * torch.randn(hidden, dim))  # W
        self.write = nn.Parameter(scale * torch.randn(dim, hidden))  # V
        self.direct = nn.Parameter(torch.randn(dim, dim) / dim**0.5)  # A
        self.drop = Dropout(dropout, hidden)
        # The rank of each value in the order, from 0, and each unit's degree.
        self.register_buffer("ranks", torch.stack([torch.randperm(dim) for _ in range(orders)]))
        self.register_buffer("degrees", torch.randint(dim, (orders, hidden)))

    def log_prob(self, params: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., D) of 0 and 1 broadcasts."""
        if self.training:
            device = self.ranks.device
            one = torch.randint(len(self.ranks), (1,), generator=self.generator, device=device)
            return self._log_prob(params, x, self.ranks[one][0], self.degrees[one][0])
        each = [
            self._log_prob(params, x, ranks, degrees)
            for ranks, degrees in zip(self.ranks, self.degrees, strict=True)
        ]
        return torch.logsumexp(torch.stack(each), dim=0) - math.log(len(each))

    def sample(self, params: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Return a draw (..., D); each vector uses a random order."""
        flat = [bias.flatten(0, -2) for bias in params]
        x, device = torch.zeros_like(flat[1]), self.ranks.device
        which = torch.randint(len(self.ranks), (len(x),), generator=generator, device=device)
        for m, (ranks, degrees) in enumerate(zip(self.ranks, self.degrees, strict=True)):
            hidden_bias, visible_bias, drawn = (t[which == m] for t in (*flat, x))
            read, write, direct = self._masked(ranks, degrees)
            for i in ranks.argsort().tolist() if len(drawn) else []:
                hidden = F.relu(F.linear(drawn, read) + hidden_bias)
                logits = hidden @ write[i] + drawn @ direct[i] + visible_bias[:, i]
                drawn[:, i] = torch.bernoulli(torch.sigmoid(logits), generator=generator)
            x[which == m] = drawn
        return x.view(params[1].shape)

    def _log_prob(
        self, params: tuple[Tensor, Tensor], x: Tensor, ranks: Tensor, degrees: Tensor
    ) -> Tensor:
        logits = self._logits(params, x, ranks, degrees)
        return bernoulli.log_prob(logits, x)

    def _logits(
        self, params: tuple[Tensor, Tensor], x: Tensor, ranks: Tensor, degrees: Tensor
    ) -> Tensor:
        hidden_bias, visible_bias = params
        read, write, direct = self._masked(ranks, degrees)
        hidden = F.relu(F.linear(x, read) + hidden_bias)
        hidden = self.drop(hidden.reshape(1, -1, len(read))).view_as(hidden)
        return F.linear(hidden, write) + F.linear(x, direct) + visible_bias

    def _masked(self, ranks: Tensor, degrees: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        reads = degrees.unsqueeze(1) > ranks  # (H, D): degree m has seen the first m values
        writes = degrees <= ranks.unsqueeze(1)  # (D, H)
        before = ranks < ranks.unsqueeze(1)  # (D, D), row i: which come before i
        # `where` rather than products: multiplying by truth values takes five times as long.
        read, write = self.read.where(reads, 0.0), self.write.where(writes, 0.0)
        return read, write, self.direct.where(before, 0.0)
