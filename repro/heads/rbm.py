"""The restricted Boltzmann machine over a binary vector, with biases computed from the features."""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.heads.conditional import ConditionalBiasHead
from repro.kernels.chunks import chunked
from repro.nn.bernoulli import sample as bernoulli_sample

MAX_ENUMERATED_UNITS = 10  # of the smaller layer: up to this size Z is a sum over its states
SAMPLE_GIBBS_STEPS = 200
MAX_HIDDEN_VALUES = 300_000  # of annealed chains in one pass: few enough for the cache
MEANS_WINDOW = 1000  # batches over which the data's means are remembered
MIN_MEAN = 0.01  # distance of a mean from 0 and from 1: chains must begin everywhere


class RbmHead(ConditionalBiasHead):
    """p(x_t | h) = exp(−F(x_t)) / Z,  −F(x) = c · x + Σ_j softplus(a_j + W_j · x).

    As the output of a sequence model, with biases a and c linear in the features and W shared, it
    is the RNN-RBM's (Boulanger-Lewandowski et al. 2012, arXiv 1206.6392, section 3).

    In training `log_prob` is −F(x) + F(x̃), with x̃ from `gibbs_steps` Gibbs steps that start at x
    (contrastive divergence, Hinton 2002): only its gradient has a meaning, its value has none.
    Otherwise it is −F(x) − log Z, where Z is exact for small layers, and otherwise estimated by
    annealed importance sampling from the means of the data seen in training (Salakhutdinov & Murray
    2008). That estimate of Z is unbiased, so that log Z is too small in expectation and log p(x)
    too large: an upper bound in expectation. All rows and all calls use the same random numbers.
    """

    generator: torch.Generator | None = None  # of Gibbs steps; torch's default if None
    means: Tensor  # (D,), of x, over the last batches
    batches: Tensor  # the number of batches seen, a scalar

    def __init__(
        self,
        in_features: int,
        dim: int,
        hidden: int,
        gibbs_steps: int,
        chains: int,
        temperatures: int,
    ) -> None:
        super().__init__(in_features, dim, hidden)
        self.read = nn.Parameter(0.01 * torch.randn(hidden, dim))  # W
        self.gibbs_steps, self.chains, self.temperatures = gibbs_steps, chains, temperatures
        self.register_buffer("means", torch.full((dim,), 0.5))
        self.register_buffer("batches", torch.zeros(()))
        # The arguments of the last estimate of Z, and log Z.
        self._last_partition: tuple[Tensor, Tensor] | None = None

    @property
    def estimates_z(self) -> bool:
        """Whether Z is estimated: no layer is small enough to sum over its states."""
        return min(self.read.shape) > MAX_ENUMERATED_UNITS

    def log_prob(self, params: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., D) of 0 and 1 broadcasts."""
        if self.training:
            with torch.no_grad():
                self._update_means(x)
                shape = torch.broadcast_shapes(x.shape, params[1].shape)
                reconstruction = self._gibbs(
                    params, x.expand(shape), self.gibbs_steps, self.generator
                )
            return self._score(params, x) - self._score(params, reconstruction)
        return self._score(params, x) - self.log_partition(params)

    def sample(self, params: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        """Return a draw (..., D), after 200 Gibbs steps from the means of the data."""
        start = bernoulli_sample(self.means.expand_as(params[1]), generator)
        return self._gibbs(params, start, SAMPLE_GIBBS_STEPS, generator)

    def log_partition(self, params: tuple[Tensor, Tensor]) -> Tensor:
        """Return log Z for biases a (..., hidden) and c (..., D), (...), in nats."""
        hidden, dim = self.read.shape
        if not self.estimates_z:
            return self._enumerated(params)
        if params[0].numel() > hidden or params[1].numel() > dim:
            rows = max(1, MAX_HIDDEN_VALUES // (self.chains * max(hidden, dim)))
            return chunked(self._annealed, rows, *params)
        # With one Z for all of the data, the batches of a validation share the estimate.
        arguments = torch.cat([p.detach().flatten() for p in (self.read, self.means, *params)])
        if self._last_partition is None or not torch.equal(self._last_partition[0], arguments):
            self._last_partition = arguments, chunked(self._annealed, 1, *params).detach()
        return self._last_partition[1]

    def _annealed(self, hidden_bias: Tensor, visible_bias: Tensor) -> Tensor:
        stream = torch.Generator().manual_seed(0)
        base = torch.logit(MIN_MEAN + (1.0 - 2.0 * MIN_MEAN) * self.means)
        biases = hidden_bias, visible_bias, base
        return annealed_importance_sampling(
            self.read, *biases, self.chains, self.temperatures, stream
        )

    def _update_means(self, x: Tensor) -> None:
        self.batches += 1.0
        difference = x.reshape(-1, x.shape[-1]).mean(0) - self.means
        self.means += difference / self.batches.clamp(max=MEANS_WINDOW)

    def _score(self, params: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """Return −F(x), (...)."""
        hidden_bias, visible_bias = params
        return (visible_bias * x).sum(-1) + F.softplus(F.linear(x, self.read) + hidden_bias).sum(-1)

    def _gibbs(
        self,
        params: tuple[Tensor, Tensor],
        x: Tensor,
        steps: int,
        generator: torch.Generator | None,
    ) -> Tensor:
        hidden_bias, visible_bias = params
        for _ in range(steps):
            probability = torch.sigmoid(F.linear(x, self.read) + hidden_bias)
            h = bernoulli_sample(probability, generator)
            x = bernoulli_sample(torch.sigmoid(h @ self.read + visible_bias), generator)
        return x

    def _enumerated(self, params: tuple[Tensor, Tensor]) -> Tensor:
        summed_bias, other_bias = params
        weight: Tensor = self.read
        if weight.shape[1] < weight.shape[0]:
            weight, summed_bias, other_bias = weight.T, other_bias, summed_bias
        states = summed_bias.new_tensor(list(itertools.product([0.0, 1.0], repeat=len(weight))))
        other_layer = F.softplus(states @ weight + other_bias.unsqueeze(-2)).sum(-1)  # (..., 2^n)
        return torch.logsumexp(summed_bias @ states.T + other_layer, dim=-1)


def annealed_importance_sampling(
    weight: Tensor,
    hidden_bias: Tensor,
    visible_bias: Tensor,
    base: Tensor,
    chains: int,
    temperatures: int,
    generator: torch.Generator,
) -> Tensor:
    """Return the estimate of log Z by annealed importance sampling, (N,); not differentiable.

    From independent values with logits b (β = 0) to the RBM (β = 1), with
    −F_β(x) = ((1 − β) b + β c) · x + Σ_j softplus(β (a_j + W_j · x)).
    From the visible biases alone (b = c) chains may never reach the data's modes: on images log Z
    comes out more than 20 nats too small, even with 16,000 temperatures.

    Args:
        weight: W (hidden, D). hidden_bias: a (N, hidden). visible_bias: c (N, D). base: b (D,).
        generator: on the CPU, so that a GPU sees the same numbers.
    """
    uniforms = _uniforms(chains, weight, generator)
    a, bias_difference = hidden_bias.unsqueeze(1), (visible_bias - base).unsqueeze(1)  # (N, 1, ·)
    x = (next(uniforms)[1] < torch.sigmoid(base)).to(a).expand(len(a), -1, -1)  # (N, chains, D)
    log_weight = torch.zeros_like(x[..., 0])
    previous_beta = 0.0
    for step in range(1, temperatures + 1):
        beta = step / temperatures
        pre_activation = F.linear(x, weight).add_(a)
        hot, cold = beta * pre_activation, pre_activation.mul_(previous_beta)
        log_weight += F.softplus(hot).sub_(F.softplus(cold)).sum(-1)
        log_weight += (beta - previous_beta) * (x @ bias_difference.mT).squeeze(-1)
        for_hidden, for_visible = next(uniforms)
        h = (for_hidden < hot.sigmoid_()).to(a)
        logits = torch.add(base, h @ weight + bias_difference, alpha=beta)
        x = (for_visible < logits.sigmoid_()).to(a)
        previous_beta = beta
    start = len(weight) * math.log(2.0) + F.softplus(base).sum()
    return start + torch.logsumexp(log_weight, dim=1) - math.log(chains)


def _uniforms(
    chains: int, like: Tensor, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    hidden, dim = like.shape
    while True:
        drawn = torch.rand(chains, hidden + dim, generator=generator).to(like)
        yield drawn[:, :hidden], drawn[:, hidden:]
