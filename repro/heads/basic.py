"""Observation distributions p(x_t | features): parameters, log-density and samples."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import require_known
from repro.heads.autoregressive import AutoregressiveHead
from repro.heads.made import MadeHead
from repro.heads.nade import NadeHead
from repro.heads.rbm import RbmHead
from repro.heads.strokes import StrokeHead
from repro.kernels.linear import Linear
from repro.nn import bernoulli
from repro.nn.gaussian import Gaussian, GaussianLayer, noise_like
from repro.nn.init import initialise_output, log_odds


class BernoulliHead(nn.Module):
    """D independent Bernoulli variables with logits linear in the features."""

    def __init__(self, in_features: int, dim: int) -> None:
        super().__init__()
        self.logits = Linear(in_features, dim)

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise the head at the mean of x (D,) over `count` steps."""
        initialise_output(self.logits, log_odds(mean, count))

    def forward(self, features: Tensor) -> Tensor:
        """Map features (..., H) to logits (..., D)."""
        return self.logits(features)

    def log_prob(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return log p(x) summed over D, (...), in nats; x (..., D) of 0 and 1 broadcasts."""
        return bernoulli.log_prob(logits, x)

    def sample(self, logits: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw (..., D)."""
        return torch.bernoulli(torch.sigmoid(logits), generator=generator)


class GaussianHead(nn.Module):
    """A diagonal Gaussian; std = softplus(·) + 1e-4 (nips2015_vrnn)."""

    def __init__(self, in_features: int, dim: int) -> None:
        super().__init__()
        self.layer = GaussianLayer(in_features, dim)

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise the head at the mean and standard deviation of x, (D,)."""
        self.layer.initialise_from_moments(mean, std)

    def forward(self, features: Tensor) -> Gaussian:
        """Map features (..., H) to mean and std (..., D)."""
        return self.layer(features)

    def log_prob(self, params: Gaussian, x: Tensor) -> Tensor:
        """Return log p(x) summed over D, (...), in nats; x (..., D) broadcasts."""
        return params.log_prob(x)

    def sample(self, params: Gaussian, generator: torch.Generator) -> Tensor:
        """Return a draw (..., D)."""
        return params.sample(noise_like(params.mean, generator))


class GaussianMixtureHead(nn.Module):
    """A mixture of M diagonal Gaussians over the whole vector x_t (Chung et al. 2015: M = 20)."""

    def __init__(self, in_features: int, dim: int, components: int) -> None:
        super().__init__()
        self.weights = Linear(in_features, components)
        self.layer = GaussianLayer(in_features, components * dim)
        self.shape = (components, dim)

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise every component at the mean and standard deviation of x, (D,).

        The layer's random weights make the components differ.
        """
        components = self.shape[0]
        self.layer.initialise_from_moments(mean.repeat(components), std.repeat(components))

    def forward(self, features: Tensor) -> tuple[Tensor, Gaussian]:
        """Map features (..., H) to log weights (..., M) and a Gaussian of (..., M, D)."""
        flat = self.layer(features)
        components = Gaussian(*(p.unflatten(-1, self.shape) for p in flat))
        return F.log_softmax(self.weights(features), dim=-1), components

    def log_prob(self, params: tuple[Tensor, Gaussian], x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., D) broadcasts."""
        log_weights, components = params
        return torch.logsumexp(log_weights + components.log_prob(x.unsqueeze(-2)), dim=-1)

    def sample(self, params: tuple[Tensor, Gaussian], generator: torch.Generator) -> Tensor:
        """Return a draw (..., D)."""
        log_weights, components = params
        flat = log_weights.exp().flatten(0, -2)
        choice = torch.multinomial(flat, 1, generator=generator)
        choice = choice.view(*log_weights.shape[:-1], 1, 1).expand(
            *log_weights.shape[:-1], 1, self.shape[1]
        )
        mean, std = (p.gather(-2, choice).squeeze(-2) for p in components)
        return Gaussian(mean, std).sample(noise_like(mean, generator))


Head = (
    BernoulliHead
    | GaussianHead
    | GaussianMixtureHead
    | StrokeHead
    | AutoregressiveHead
    | NadeHead
    | MadeHead
    | RbmHead
)


BUILDERS: dict[str, Callable[[int, int, dict], Head]] = {
    "bernoulli": lambda inputs, dim, sizes: BernoulliHead(inputs, dim),
    "gaussian": lambda inputs, dim, sizes: GaussianHead(inputs, dim),
    "gaussian_mixture": lambda inputs, dim, sizes: GaussianMixtureHead(
        inputs, dim, sizes["components"]
    ),
    "bivariate": lambda inputs, dim, sizes: StrokeHead(inputs, components=1),
    "bivariate_mixture": lambda inputs, dim, sizes: StrokeHead(inputs, sizes["components"]),
    "autoregressive": lambda inputs, dim, sizes: AutoregressiveHead(
        inputs, dim, sizes["frame_hidden"]
    ),
    "nade": lambda inputs, dim, sizes: NadeHead(inputs, dim, sizes["nade_hidden"]),
    "made": lambda inputs, dim, sizes: MadeHead(
        inputs,
        dim,
        sizes["made_hidden"],
        sizes["made_orders"],
        sizes.get("made_dropout", 0.0),
    ),
    "rbm": lambda inputs, dim, sizes: RbmHead(
        inputs,
        dim,
        sizes["rbm_hidden"],
        sizes["rbm_gibbs_steps"],
        sizes["rbm_chains"],
        sizes["rbm_temperatures"],
    ),
}


def build_head(name: str, in_features: int, dim: int, sizes: dict) -> Head:
    """Return the head with this name, with its initial weights drawn from torch's generator.

    Args:
        name: a key of `BUILDERS`.
        in_features: H, the size of the features that it maps. dim: D. sizes: the model's settings.
    Raises:
        ConfigError: there is no head with this name.
    """
    require_known("head", name, BUILDERS)
    return BUILDERS[name](in_features, dim, sizes)
