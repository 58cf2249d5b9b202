"""The variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114)."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from repro.heads.basic import BernoulliHead, build_head
from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.nn.gaussian import Gaussian, GaussianLayer, standard_normal
from repro.nn.init import initialise
from repro.nn.mlp import MLP

MIN_MEAN = 1e-3  # the emission's initial probabilities are between this and 1 − this


class Context(NamedTuple):
    """Of x alone: x, and the mean and std of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    mean: Tensor
    std: Tensor


class State(NamedTuple):
    """An empty state, (K, B, 0): a step does not depend on the one before."""

    empty: Tensor


class Step(NamedTuple):
    """z_t, (T, K, B, Z)."""

    z: Tensor


class VAE(SequenceModel):
    """One latent Gaussian above each x_t, which has no past; made for images (T = 1).

    prior      z_t ~ N(0, I)
    emission   x_t ~ head(φ_dec(z_t))
    posterior  z_t ~ N(μ, σ)(φ_enc(x_t))

    φ has tanh units, as in Burda, Grosse & Salakhutdinov 2016 (arXiv 1509.00519, section 5): on
    50,000 fixed binary images ReLUs overfit far more. For binary data the head is initialised at
    their means, as in the authors' code: tanh units that have to learn these first take a dozen
    epochs longer.
    """

    always_from_data = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent = sizes["latent"]
        self.encoder = MLP(spec.dim, sizes["encoder"], nn.Tanh)
        self.posterior = GaussianLayer(self.encoder.width, self.latent)
        self.decoder = MLP(self.latent, sizes["decoder"], nn.Tanh)
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def initialise_from_data(self, train: Iterable[Tensor]) -> None:
        if isinstance(self.head, BernoulliHead):
            mean = torch.cat(list(train)).mean(0)
            self.head.logits.bias.data.copy_(torch.logit(mean, eps=MIN_MEAN))

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        shares = (x, *self.posterior(self.encoder(x)))
        return Context(*(share.unsqueeze(1) for share in shares))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], 0))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        return state, Step(Gaussian(context.mean, context.std).sample(noise))

    def score(self, context: Context, steps: Step) -> Terms:
        log_likelihood = self.head.log_prob(self.head(self.decoder(steps.z)), context.x)
        q = Gaussian(context.mean, context.std)
        return gaussian_terms(log_likelihood, q, standard_normal(steps.z), steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.posterior.linear.weight.device
        z = torch.randn(steps, num, self.latent, generator=generator, device=device)
        return self.head.sample(self.head(self.decoder(z)), generator)


build = VAE
