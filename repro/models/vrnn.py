"""VRNN and VRNN-I (Chung et al. 2015, arXiv 1506.02216)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.kernels.lstm import lstm_step
from repro.kernels.packing import Packing, as_samples, as_sequences
from repro.kernels.vrnn_chain import VRNNWeights, vrnn_chain
from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.nn.dropout import Dropout
from repro.nn.gaussian import Gaussian, GaussianLayer, standard_normal
from repro.nn.init import initialise
from repro.nn.mlp import MLP
from repro.nn.recurrent import RecurrentLinear


class Context(NamedTuple):
    """Of x alone: x itself and the data's share of encoder and cell, (T, 1, B, ·)."""

    x: Tensor
    encoder_share: Tensor
    cell_share: Tensor


class State(NamedTuple):
    """h_{t-1} and the LSTM's cell, (K, B, H)."""

    hidden: Tensor
    cell: Tensor


class Step(NamedTuple):
    """q(z_t)'s mean and std, z_t, φ_z(z_t) and h_{t-1}, (T, K, B, ·)."""

    mean: Tensor
    std: Tensor
    z: Tensor
    features_z: Tensor
    hidden: Tensor


class VRNN(SequenceModel):
    """A recurrent network with a latent Gaussian at every step.

    prior      z_t ~ N(μ, σ)(φ_prior(h_{t-1}))              (eq. 5); N(0, I) in VRNN-I
    emission   x_t ~ head(φ_dec([φ_z(z_t), h_{t-1}]))       (eq. 6)
    recurrence h_t = LSTM([φ_x(x_t), φ_z(z_t)], h_{t-1})    (eq. 7)
    posterior  z_t ~ N(μ, σ)(φ_enc([φ_x(x_t), h_{t-1}]))    (eq. 9)

    A deliberate difference: in training `input_dropout` is applied to the φ_x(x_t) that the
    recurrence reads. The contributions of φ_x to the encoder's first layer and to the LSTM's gates
    are computed for all steps at once, and so are prior, decoder and head, in `score`. Only
    `propose` depends on z_{t-1}; on a CPU `vrnn_chain` runs it over all steps, with a hand-written
    backward pass.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, hidden, encoder = sizes["latent"], sizes["hidden"], sizes["encoder"]
        self.features_x = MLP(spec.dim, sizes["features_x"])
        self.features_z = MLP(self.latent, sizes["features_z"])
        self.encoder_x = Linear(self.features_x.width, encoder[0])
        self.encoder_h = Linear(hidden, encoder[0], bias=False)
        self.encoder = MLP(encoder[0], encoder[1:])
        self.posterior = GaussianLayer(encoder[-1], self.latent)
        self.input_dropout = Dropout(sizes.get("input_dropout", 0.0), self.features_x.width)
        self.cell_x = Linear(self.features_x.width, 4 * hidden)
        self.cell_z = Linear(self.features_z.width, 4 * hidden, bias=False)
        self.cell_h = RecurrentLinear(hidden, gates=4)
        self.prior = (
            nn.Sequential(
                MLP(hidden, sizes["prior"]), GaussianLayer(sizes["prior"][-1], self.latent)
            )
            if sizes["prior"]
            else None
        )
        self.decoder = MLP(self.features_z.width + hidden, sizes["decoder"])
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        features = self.features_x(x)
        return self._encode(x, features, self.input_dropout(features))

    def encode_rows(self, x: Tensor, lengths: Tensor, rows: Packing) -> Context:
        # No step needs another: the rows are encoded as sequences of one step.
        packed = rows.pack(x.unsqueeze(1))
        features = self.features_x(packed)
        context = self._encode(packed, features, self.input_dropout(features[0], rows)[None])
        return Context(*(field[0] for field in context))

    def _encode(self, x: Tensor, features: Tensor, dropped: Tensor) -> Context:
        shares = (x, self.encoder_x(features), self.cell_x(dropped))
        return Context(*(share.unsqueeze(1) for share in shares))

    def initial(self, num_samples: int, x: Tensor) -> State:
        zero = x.new_zeros(num_samples, x.shape[1], self.cell_h.in_features)
        return State(zero, zero)

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        first_layer = F.relu(context.encoder_share + self.encoder_h(state.hidden))
        q = self.posterior(self.encoder(first_layer))
        z = q.sample(noise)
        features_z = self.features_z(z)
        next_state = self._advance(context.cell_share, features_z, state)
        return next_state, Step(q.mean, q.std, z, features_z, state.hidden)

    def propose_rows(
        self, context: Context, state: State, noise: Tensor, sizes: list[int]
    ) -> tuple[Step, State]:
        encoder, features_z = (
            [layer for layer in network if isinstance(layer, Linear)]
            for network in (self.encoder, self.features_z)
        )
        layers = [*encoder, self.posterior.linear, *features_z]
        weights = VRNNWeights(
            *(self.encoder_h.weight, self.cell_h.weight, self.cell_z.weight),
            layers=[(layer.weight, layer.bias) for layer in layers],
            depth=len(encoder),
        )
        samples = len(noise)
        encoder_share, cell_share, rows_noise, hidden, cell = (
            as_sequences(rows, samples)
            for rows in (context.encoder_share, context.cell_share, noise, *state)
        )
        sizes = [size * samples for size in sizes]
        steps, *last = vrnn_chain(
            encoder_share, cell_share, rows_noise, hidden, cell, sizes, weights
        )
        drawn = Step(*(as_samples(rows, samples) for rows in steps))
        return drawn, State(*(as_samples(rows, samples) for rows in last))

    def score(self, context: Context, steps: Step) -> Terms:
        q = Gaussian(steps.mean, steps.std)
        p = self._prior(steps.hidden, steps.z)
        params = self.head(self.decoder(torch.cat([steps.features_z, steps.hidden], dim=-1)))
        return gaussian_terms(self.head.log_prob(params, context.x), q, p, steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.cell_h.weight.device
        hidden = torch.zeros(1, num, self.cell_h.in_features, device=device)
        state, drawn = State(hidden, hidden), []
        for _ in range(steps):
            noise = torch.randn(1, num, self.latent, generator=generator, device=device)
            features_z = self.features_z(self._prior(state.hidden, noise).sample(noise))
            params = self.head(self.decoder(torch.cat([features_z, state.hidden], dim=-1)))
            x = self.head.sample(params, generator)  # (1, B, D)
            state = self._advance(self.cell_x(self.features_x(x)), features_z, state)
            drawn.append(x)
        return torch.cat(drawn)

    def _prior(self, hidden: Tensor, z: Tensor) -> Gaussian:
        return standard_normal(z) if self.prior is None else self.prior(hidden)

    def _advance(self, cell_share: Tensor, features_z: Tensor, state: State) -> State:
        gates = cell_share + self.cell_z(features_z) + self.cell_h(state.hidden)
        return State(*lstm_step(gates, state.cell))


build = VRNN
