"""A latent Gaussian at every step on top of an exact autoregressive family."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.errors import require_known
from repro.heads.basic import build_head
from repro.models import build as build_family
from repro.models.autoregressive import AutoregressiveModel
from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.models.terms import concatenate, masked
from repro.models.time_loop import State
from repro.nn.gaussian import Gaussian, GaussianLayer
from repro.nn.init import initialise
from repro.nn.inputs import concatenate_broadcast
from repro.nn.mlp import MLP

PAST_FAMILIES = ("rnn", "transformer", "tcn", "minimal_rnn", "lru", "mamba")


class Context(NamedTuple):
    """x_t, h_{t-1}, and the mean and std of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    past: Tensor
    mean: Tensor
    std: Tensor


class Step(NamedTuple):
    """z_t, (T, K, B, Z)."""

    z: Tensor


class LatentAutoregressive(SequenceModel):
    """The VRNN's equations over the layers of any exact family, `past_family`.

    deterministic  h_t = layers(φ_x(x_≤t)), h_0 = 0
    prior          z_t ~ N(μ, σ)(φ_prior(h_{t-1}))
    emission       x_t ~ head(φ_dec([φ_z(z_t), h_{t-1}]))
    posterior      z_t ~ N(μ, σ)(φ_enc([φ_x(x_t), h_{t-1}]))

    It is the family `past_family` with z beside what the decoder reads: both can be compared at one
    size with one head. Unlike in the VRNN (Chung et al. 2015), h_t does not read z_t: layers that
    see all steps at once would have to wait for each. Given x, the z of different steps are then
    independent, and log p(x) is a sum over steps of logarithms of integrals over one z_t.
    """

    traits = Traits()

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, self.dim, hidden = sizes["latent"], spec.dim, sizes["hidden"]
        self.layers = _layers(spec)
        self.features_z = MLP(self.latent, sizes["features_z"])
        self.prior = nn.Sequential(
            MLP(hidden, sizes["prior"]), GaussianLayer(sizes["prior"][-1], self.latent)
        )
        self.encoder = MLP(self.layers.features.width + hidden, sizes["encoder"])
        self.posterior = GaussianLayer(self.encoder.width, self.latent)
        self.decoder = MLP(self.features_z.width + hidden, sizes["decoder"])
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        return self._context(x, self.layers.past(x, lengths, None)[0])

    def initial(self, num_samples: int, x: Tensor) -> State:
        """Return an empty state: q of one step does not depend on another step's z."""
        return State(x.new_zeros(num_samples, x.shape[1], 0))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        return state, Step(Gaussian(context.mean, context.std).sample(noise))

    def score(self, context: Context, steps: Step) -> Terms:
        q, p = Gaussian(context.mean, context.std), self.prior(context.past)
        params = self.head(self._decode(steps.z, context.past))
        terms = gaussian_terms(self.head.log_prob(params, context.x), q, p, steps.z)
        assert terms.kl is not None
        return terms._replace(kl=terms.kl.expand_as(terms.log_prior))  # the same for all samples

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: Any = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, State]:
        """Return the terms of a segment and the layers' state after it, all steps at once."""
        past, state = self.layers.past(x, lengths, state)
        block, scored = steps_at_once or len(x), []
        parts = (tensor.split(block) for tensor in (*self._context(x, past), noise))
        for *context, part_noise in zip(*parts, strict=True):
            part = Context(*context)
            _, steps = self.propose(part, self.initial(1, x), part_noise)
            scored.append(self.score(part, steps))
        return masked(concatenate(scored), lengths), state

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = next(self.parameters()).device
        x = torch.zeros(1, num, self.dim, device=device)
        state, drawn = self.layers.initial(1, x), []
        lengths = torch.ones(num, dtype=torch.long, device=device)
        for _ in range(steps):
            past = state[0]
            noise = torch.randn(1, num, self.latent, generator=generator, device=device)
            z = self.prior(past).sample(noise)
            x = self.head.sample(self.head(self._decode(z, past)), generator)
            _, state = self.layers.run(self.layers.features(x), lengths, state)
            drawn.append(x)
        return torch.cat(drawn)

    def _context(self, x: Tensor, past: Tensor) -> Context:
        q = self.posterior(self.encoder(torch.cat([self.layers.features(x), past], dim=-1)))
        return Context(*(tensor.unsqueeze(1) for tensor in (x, past, *q)))

    def _decode(self, z: Tensor, past: Tensor) -> Tensor:
        return self.decoder(concatenate_broadcast(self.features_z(z), past))


def _layers(spec: ModelSpec) -> AutoregressiveModel:
    family = spec.sizes["past_family"]
    require_known("past_family", family, PAST_FAMILIES)
    layers = build_family(spec._replace(family=family, head=""))
    assert isinstance(layers, AutoregressiveModel)
    return layers


build = LatentAutoregressive
