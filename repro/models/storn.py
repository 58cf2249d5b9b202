"""STORN (Bayer & Osendorfer 2014, arXiv 1411.7610)."""

from typing import NamedTuple

import torch
from torch import Tensor

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.kernels.lstm import lstm_step
from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.nn.dropout import Dropout
from repro.nn.gaussian import Gaussian, GaussianLayer, standard_normal
from repro.nn.init import initialise
from repro.nn.inputs import one_step_back
from repro.nn.mlp import MLP
from repro.nn.recurrent import DirectedLSTM, RecurrentLinear


class Context(NamedTuple):
    """Of x alone: x, q(z_t)'s mean and std, and the share of x_{t-1} in the cell, (T, 1, B, ·)."""

    x: Tensor
    mean: Tensor
    std: Tensor
    cell_share: Tensor


class State(NamedTuple):
    """h_{t-1} and the LSTM's cell, (K, B, H)."""

    hidden: Tensor
    cell: Tensor


class Step(NamedTuple):
    """z_t and h_t, (T, K, B, ·)."""

    z: Tensor
    hidden: Tensor


class STORN(SequenceModel):
    """A recurrent network driven by independent noise at every step.

    prior       z_t ~ N(0, I)
    recurrence  h_t = LSTM([x_{t-1}, z_t], h_{t-1}), x_0 = 0
    emission    x_t ~ head(φ_dec(h_t))
    posterior   z_t ~ N(μ, σ)(g_t), g_t = LSTM(x_t, g_{t-1}): of the past and x_t, not of z

    These are the paper's equations 4-8, with deliberate differences: LSTMs instead of its simple
    recurrences, one more layer in the decoder, and in training `input_dropout` on x_{t-1}. The
    posterior is computed for all steps at once.
    """

    traits = Traits(whole_sequences=True)
    can_continue = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, self.dim, hidden = sizes["latent"], spec.dim, sizes["hidden"]
        self.recognition = DirectedLSTM(spec.dim, sizes["recognition"], False)
        self.posterior = GaussianLayer(sizes["recognition"], self.latent)
        self.input_dropout = Dropout(sizes.get("input_dropout", 0.0), spec.dim)
        self.cell_x = Linear(spec.dim, 4 * hidden)
        self.cell_z = Linear(self.latent, 4 * hidden, bias=False)
        self.cell_h = RecurrentLinear(hidden, gates=4)
        self.decoder = MLP(hidden, sizes["decoder"])
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        q = self.posterior(self.recognition(x, lengths))
        shares = (x, *q, self.cell_x(self.input_dropout(one_step_back(x))))
        return Context(*(share.unsqueeze(1) for share in shares))

    def initial(self, num_samples: int, x: Tensor) -> State:
        zero = x.new_zeros(num_samples, x.shape[1], self.cell_h.in_features)
        return State(zero, zero)

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        z = Gaussian(context.mean, context.std).sample(noise)
        state = self._advance(context.cell_share, z, state)
        return state, Step(z, state.hidden)

    def score(self, context: Context, steps: Step) -> Terms:
        params = self.head(self.decoder(steps.hidden))
        q = Gaussian(context.mean, context.std)
        log_likelihood = self.head.log_prob(params, context.x)
        return gaussian_terms(log_likelihood, q, standard_normal(steps.z), steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.cell_h.weight.device
        zero = torch.zeros(1, num, self.cell_h.in_features, device=device)
        x, state, drawn = torch.zeros(1, num, self.dim, device=device), State(zero, zero), []
        for _ in range(steps):
            z = torch.randn(1, num, self.latent, generator=generator, device=device)
            state = self._advance(self.cell_x(x), z, state)
            x = self.head.sample(self.head(self.decoder(state.hidden)), generator)
            drawn.append(x)
        return torch.cat(drawn)

    def _advance(self, cell_share: Tensor, z: Tensor, state: State) -> State:
        gates = cell_share + self.cell_z(z) + self.cell_h(state.hidden)
        return State(*lstm_step(gates, state.cell))


build = STORN
