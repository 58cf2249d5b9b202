"""NADE: a binary vector modelled value by value, with biases computed from the features."""

import torch
from torch import Tensor, nn

from repro.heads.conditional import ConditionalBiasHead
from repro.kernels import dispatch
from repro.kernels.chunks import chunked
from repro.kernels.nade_runs import plain_logits, run_logits
from repro.nn import bernoulli

MAX_HIDDEN_VALUES = 40_000_000  # in one pass; bounds memory


class NadeHead(ConditionalBiasHead):
    """p(x_t | h) = Π_i Bernoulli(x_ti; σ(V_i · σ(a + Σ_{j<i} W_j x_tj) + c_i)).

    The neural autoregressive distribution estimator (Larochelle & Murray 2011) as the output of a
    sequence model (RNN-NADE: Boulanger-Lewandowski et al. 2012, arXiv 1206.6392, section 4): the
    features h give the hidden bias a and the visible bias c of every step, W and V are shared.
    In Krishnan et al. (2017) a is the emission's last hidden layer itself; here it is a linear map
    of the features.
    """

    def __init__(self, in_features: int, dim: int, hidden: int) -> None:
        super().__init__(in_features, dim, hidden)
        self.read = nn.Parameter(torch.randn(dim, hidden) / hidden**0.5)  # W
        self.write = nn.Parameter(torch.randn(dim, hidden) / hidden**0.5)  # V

    def log_prob(self, params: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., D) of 0 and 1 broadcasts."""
        plain = dispatch.current().plain
        vectors = x.shape[-1] if plain else int(x.sum(-1).max()) + 1  # hidden vectors per row
        rows = max(1, MAX_HIDDEN_VALUES // (vectors * max(self.read.shape)))
        return chunked(self._log_prob, rows, *params, x)

    def sample(self, params: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Return a draw (..., D)."""
        activation, visible = params
        drawn = []
        for i in range(len(self.read)):
            logit = torch.sigmoid(activation) @ self.write[i] + visible[..., i]
            value = torch.bernoulli(torch.sigmoid(logit), generator=generator).unsqueeze(-1)
            activation = activation + value * self.read[i]
            drawn.append(value)
        return torch.cat(drawn, dim=-1)

    def _log_prob(self, hidden_bias: Tensor, visible_bias: Tensor, x: Tensor) -> Tensor:
        logits_of = plain_logits if dispatch.current().plain else run_logits
        logits = logits_of(hidden_bias, self.read, self.write, x)
        return bernoulli.log_prob(logits + visible_bias, x)
