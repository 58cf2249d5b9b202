"""SRNN (Fraccaro et al. 2016, arXiv 1605.07571)."""

from typing import NamedTuple

import torch
from torch import Tensor

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.linear import Linear
from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.nn.dropout import Dropout
from repro.nn.gaussian import Gaussian, GaussianLayer
from repro.nn.init import initialise
from repro.nn.inputs import concatenate_broadcast
from repro.nn.mlp import MLP, ClippedLeakyReLU
from repro.nn.recurrent import DirectedLSTM


class Context(NamedTuple):
    """Of x alone: x, d_t, and the shares of d_t in the prior and of a_t in q, (T, 1, B, ·)."""

    x: Tensor
    deterministic: Tensor
    prior_share: Tensor
    posterior_share: Tensor


class State(NamedTuple):
    """z_{t-1}, (K, B, Z)."""

    z: Tensor


class Step(NamedTuple):
    """z_t, and mean and std of q(z_t) and of the prior, (T, K, B, Z)."""

    z: Tensor
    mean: Tensor
    std: Tensor
    prior_mean: Tensor
    prior_std: Tensor


class SRNN(SequenceModel):
    """A deterministic recurrent layer below a Markov chain of latent states.

    deterministic  d_t = LSTM(φ_x(x_{t-1}), d_{t-1})                   (x_0 = 0, z_0 = 0)
    transition     z_t ~ N(μ, σ)(φ_prior([z_{t-1}, d_t]))              (eq. 3)
    emission       x_t ~ head(φ_dec([z_t, d_t]))                       (eq. 5)
    smoother       a_t = LSTM([d_t, φ_x(x_t)], a_{t+1}), backwards     (eq. 9)
    posterior      z_t ~ N(μ_prior + μ, σ)(φ_q([z_{t-1}, a_t]))        (eqs. 10-14, "Smooth, Res_q")

    From the authors' code come φ_x, shared by both recurrences, and the activation of every MLP
    (`ClippedLeakyReLU`): with ReLUs all units of φ_q died on jsb_chorales within an epoch.
    Deliberate differences: LSTMs where the paper has GRUs; mean and variance share their hidden
    layers, where the authors' code has separate ones; in training `input_dropout` is applied to
    what d_t reads. Both recurrences run once for all samples; the time loop contains only what
    depends on z_{t-1}.
    """

    traits = Traits(whole_sequences=True)
    can_continue = False

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, self.dim, hidden = sizes["latent"], spec.dim, sizes["hidden"]
        prior, posterior = sizes["prior"], sizes["posterior"]
        self.activation = ClippedLeakyReLU()
        self.features = MLP(spec.dim, sizes["features"], ClippedLeakyReLU)
        self.input_dropout = Dropout(sizes.get("input_dropout", 0.0), self.features.width)
        self.forwards = DirectedLSTM(self.features.width, hidden, False)
        self.backwards = DirectedLSTM(hidden + self.features.width, sizes["smoother"], True)
        self.prior_d = Linear(hidden, prior[0])
        self.prior_z = Linear(self.latent, prior[0], bias=False)
        self.prior = MLP(prior[0], prior[1:], ClippedLeakyReLU)
        self.prior_layer = GaussianLayer(prior[-1], self.latent)
        self.posterior_a = Linear(sizes["smoother"], posterior[0])
        self.posterior_z = Linear(self.latent, posterior[0], bias=False)
        self.posterior = MLP(posterior[0], posterior[1:], ClippedLeakyReLU)
        self.posterior_layer = GaussianLayer(posterior[-1], self.latent)
        self.decoder = MLP(self.latent + hidden, sizes["decoder"], ClippedLeakyReLU)
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        features = self.features(x)
        first = self.features(torch.zeros_like(x[:1]))
        d = self.forwards(self.input_dropout(torch.cat([first, features[:-1]])), lengths)
        a = self.backwards(torch.cat([d, features], dim=-1), lengths)
        shares = (x, d, self.prior_d(d), self.posterior_a(a))
        return Context(*(share.unsqueeze(1) for share in shares))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], self.latent))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        p = self._transition(context.prior_share, state.z)
        first = self.activation(context.posterior_share + self.posterior_z(state.z))
        residual, std = self.posterior_layer(self.posterior(first))
        q = Gaussian(p.mean + residual, std)
        z = q.sample(noise)
        return State(z), Step(z, q.mean, q.std, p.mean, p.std)

    def score(self, context: Context, steps: Step) -> Terms:
        params = self.head(self._decode(steps.z, context.deterministic))
        q, p = Gaussian(steps.mean, steps.std), Gaussian(steps.prior_mean, steps.prior_std)
        return gaussian_terms(self.head.log_prob(params, context.x), q, p, steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.prior_z.weight.device
        x = torch.zeros(1, num, self.dim, device=device)
        z, state, drawn = torch.zeros(1, num, self.latent, device=device), None, []
        for _ in range(steps):
            d, state = self.forwards.lstm(self.features(x), state)
            noise = torch.randn(1, num, self.latent, generator=generator, device=device)
            z = self._transition(self.prior_d(d), z).sample(noise)
            x = self.head.sample(self.head(self._decode(z, d)), generator)
            drawn.append(x)
        return torch.cat(drawn)

    def _transition(self, share: Tensor, z: Tensor) -> Gaussian:
        return self.prior_layer(self.prior(self.activation(share + self.prior_z(z))))

    def _decode(self, z: Tensor, d: Tensor) -> Tensor:
        return self.decoder(concatenate_broadcast(z, d))


build = SRNN
