"""Sigmoid belief nets of several layers (Mnih & Gregor 2014, arXiv 1402.0030)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.models.base import Layer, ModelSpec, SequenceModel, Terms
from repro.nn import bernoulli
from repro.nn.init import initialise
from repro.nn.nvil import NVIL


class Context(NamedTuple):
    """x, and the logits of q over the first layer, (T, 1, B, ·)."""

    x: Tensor
    first: Tensor


class State(NamedTuple):
    """An empty state, (K, B, 0): a step does not depend on the one before."""

    empty: Tensor


class Step(NamedTuple):
    """All layers side by side, first to last: z and the logits of q, (T, K, B, Z)."""

    z: Tensor
    posterior: Tensor


class SBN(SequenceModel):
    """L layers of binary variables above each x_t, which has no past; made for images (T = 1).

    prior      p(z_L = 1) = σ(b), p(z_l = 1 | z_{l+1}) = σ(W_l z_{l+1} + b_l)
    emission   x ~ head(z_1): for binary data σ(W_0 z_1 + c)
    posterior  q(z_1 = 1 | x) = σ(U_1 x + d_1), q(z_{l+1} = 1 | z_l) = σ(U_{l+1} z_l + d_{l+1})

    The ELBO is the sum over l of the expectations of

        f_l = log p(z_{l-1} | z_l) + H(q_l),  f_L = log p(z_{L-1} | z_L) − KL(q_L ‖ p),  z_0 = x,

    in which z_l appears from f_l on: NVIL's downstream costs, with layers instead of time. H and KL
    are analytic. The baseline knows x and the layer.
    """

    traits = Traits(discrete=True)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.layers = sizes["layers"]
        self.latent = sum(self.layers)
        pairs = list(zip(self.layers, self.layers[1:], strict=False))
        self.first = Linear(spec.dim, self.layers[0])
        self.up = nn.ModuleList(Linear(low, high) for low, high in pairs)
        self.down = nn.ModuleList(Linear(high, low) for low, high in pairs)
        self.top = nn.Parameter(torch.zeros(self.layers[-1]))
        self.head = build_head(spec.head, self.layers[0], spec.dim, sizes)
        self.nvil = NVIL(spec.dim + len(self.layers), sizes["baseline"])
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        return Context(x.unsqueeze(1), self.first(x).unsqueeze(1))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], 0))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        layers = noise.split(self.layers, dim=-1)
        logits = [context.first.expand_as(layers[0])]
        z = [bernoulli.draw(logits[0].detach(), layers[0])]
        for up, noise_l in zip(self.up, layers[1:], strict=True):
            logits.append(up(z[-1]))
            z.append(bernoulli.draw(logits[-1].detach(), noise_l))
        return state, Step(torch.cat(z, dim=-1), torch.cat(logits, dim=-1))

    def score(self, context: Context, steps: Step) -> Terms:
        z = steps.z.split(self.layers, dim=-1)
        q = self.nvil.scaled(steps.posterior).split(self.layers, dim=-1)
        priors = [
            bernoulli.log_prob(down(above), below)
            for down, below, above in zip(self.down, z, z[1:], strict=False)
        ]
        log_q_top, log_prior_top, kl_top = bernoulli.log_probs_and_kl(
            q[-1], self.top.expand_as(q[-1]), z[-1]
        )
        lower = zip(q[:-1], z[:-1], strict=True)
        log_q = [*(bernoulli.log_prob(q_l, z_l) for q_l, z_l in lower), log_q_top]
        kl = [*(-bernoulli.entropy(q_l) for q_l in q[:-1]), kl_top]
        kl = [kl[0], *(kl_l - prior for kl_l, prior in zip(kl[1:], priors, strict=True))]
        return Terms(
            self.head.log_prob(self.head(z[0]), context.x),
            torch.stack([*priors, log_prior_top]).sum(0),
            torch.stack(log_q).sum(0),
            torch.stack(kl).sum(0),
            tuple(map(Layer, kl, log_q)),
        )

    def surrogate(self, x: Tensor, lengths: Tensor, terms: Terms, weight: float) -> Tensor:
        values = [-weight * layer.kl for layer in terms.layers]
        values[0] = values[0] + terms.log_likelihood
        count = len(values)
        layer_one_hot = torch.eye(count, dtype=x.dtype, device=x.device).view(1, count, 1, count)
        layer_one_hot = layer_one_hot.expand(len(x), -1, x.shape[1], -1)
        features = torch.cat([x.unsqueeze(1).expand(-1, count, -1, -1), layer_one_hot], dim=-1)
        score, error = self.nvil(
            torch.stack(values, dim=1).flatten(0, 1),
            torch.stack([layer.log_proposal for layer in terms.layers], dim=1).flatten(0, 1),
            features.flatten(0, 1),
            lengths * count,
        )
        return score - error

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        drawn = []
        for _ in range(steps):
            logits = self.top.expand(1, num, -1)
            z = torch.bernoulli(torch.sigmoid(logits), generator=generator)
            for down in reversed(self.down):
                z = torch.bernoulli(torch.sigmoid(down(z)), generator=generator)
            drawn.append(self.head.sample(self.head(z), generator))
        return torch.cat(drawn)


build = SBN
