"""TSBN and HMSBN, temporal sigmoid belief networks (Gan et al. 2015, arXiv 1509.07087)."""

from typing import NamedTuple

import torch
from torch import Tensor

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.models.base import ModelSpec, SequenceModel, Terms
from repro.nn import bernoulli
from repro.nn.dropout import Dropout
from repro.nn.init import initialise
from repro.nn.inputs import concatenate_broadcast, one_step_back
from repro.nn.nvil import NVIL


class Context(NamedTuple):
    """x_t, x_{t-1}, and the data's shares in the logits of q and of the prior, (T, 1, B, ·)."""

    x: Tensor
    previous_x: Tensor
    posterior_share: Tensor
    prior_share: Tensor


class State(NamedTuple):
    """z_{t-1} and x_{t-1}, (K, B, ·)."""

    z: Tensor
    x: Tensor


class Step(NamedTuple):
    """z_t and z_{t-1}, (T, K, B, Z)."""

    z: Tensor
    previous: Tensor


class TSBN(SequenceModel):
    """A chain of binary states in which every conditional is a sigmoid of a linear map.

    transition  p(z_t = 1) = σ(W_1 z_{t-1} + W_3 x_{t-1} + b)
    emission    x_t ~ head([z_t, x_{t-1}]): for binary data σ(W_2 z_t + W_4 x_{t-1} + c)
    posterior   q(z_t = 1) = σ(U_1 z_{t-1} + U_2 x_t + U_3 x_{t-1} + d)

    with z_0 = x_0 = 0. The hidden Markov variant (HMSBN, `previous_x` false) has W_3 = W_4 = 0. No
    gradient flows through z: q is trained by score functions (`repro.nn.nvil`), whose baseline
    reads x_t and x_{t-1}, and `Terms` carry the gradient of everything else. In training
    `input_dropout` is applied to the generative model's x_{t-1}. The time loop only draws z; the
    logits are computed again in `score`, with their gradient, for all steps at once.
    """

    traits = Traits(discrete=True, whole_sequences=True)

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, self.dim = sizes["latent"], spec.dim
        self.reads_previous_x = sizes["previous_x"]
        extra = spec.dim if self.reads_previous_x else 0
        self.input_dropout = Dropout(sizes.get("input_dropout", 0.0), spec.dim)
        self.prior_z = Linear(self.latent, self.latent)
        self.prior_x = Linear(spec.dim, self.latent, bias=False) if extra else None
        self.posterior_z = Linear(self.latent, self.latent, bias=False)
        self.posterior_x = Linear(2 * spec.dim, self.latent)
        self.head = build_head(spec.head, self.latent + extra, spec.dim, sizes)
        self.nvil = NVIL(2 * spec.dim, sizes["baseline"])
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        return self._encode(x, one_step_back(x))

    def encode_after(self, state: State, x: Tensor, lengths: Tensor) -> Context:
        return self._encode(x, one_step_back(x, state.x[0]))

    def _encode(self, x: Tensor, previous: Tensor) -> Context:
        posterior = self.posterior_x(torch.cat([x, previous], dim=-1))
        previous = self.input_dropout(previous)
        prior = torch.zeros_like(posterior) if self.prior_x is None else self.prior_x(previous)
        return Context(*(share.unsqueeze(1) for share in (x, previous, posterior, prior)))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(
            x.new_zeros(num_samples, x.shape[1], self.latent),
            x.new_zeros(num_samples, x.shape[1], self.dim),
        )

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        with torch.no_grad():
            z = bernoulli.draw(context.posterior_share + self.posterior_z(state.z), noise)
        return State(z, context.x.expand(len(z), -1, -1)), Step(z, state.z)

    def score(self, context: Context, steps: Step) -> Terms:
        params = self.head(self._with(steps.z, context.previous_x))
        prior = context.prior_share + self.prior_z(steps.previous)
        q = self.nvil.scaled(context.posterior_share + self.posterior_z(steps.previous))
        log_q, log_prior, kl = bernoulli.log_probs_and_kl(q, prior, steps.z)
        log_likelihood = self.head.log_prob(params, context.x)
        return Terms(log_likelihood, log_prior, log_q, kl, distributions=(q, prior))

    def surrogate(self, x: Tensor, lengths: Tensor, terms: Terms, weight: float) -> Tensor:
        assert terms.kl is not None  # as `score` made them
        values = terms.log_likelihood - weight * terms.kl
        features = torch.cat([x, one_step_back(x)], dim=-1)
        score, error = self.nvil(values, terms.log_proposal, features, lengths)
        return score - error

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.prior_z.weight.device
        x, drawn = torch.zeros(1, num, self.dim, device=device), []
        z = torch.zeros(1, num, self.latent, device=device)
        for _ in range(steps):
            logits = self.prior_z(z) if self.prior_x is None else self.prior_z(z) + self.prior_x(x)
            z = torch.bernoulli(torch.sigmoid(logits), generator=generator)
            x = self.head.sample(self.head(self._with(z, x)), generator)
            drawn.append(x)
        return torch.cat(drawn)

    def _with(self, z: Tensor, previous_x: Tensor) -> Tensor:
        return concatenate_broadcast(z, previous_x) if self.reads_previous_x else z


build = TSBN
