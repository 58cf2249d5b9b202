"""Pen trajectories: where the pen goes next, and whether it lifts."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.kernels.linear import Linear
from repro.nn.gaussian import Gaussian, GaussianLayer, noise_like
from repro.nn.init import initialise_output, log_odds

LARGEST_CORRELATION = 0.999


class StrokeParameters(NamedTuple):
    """Logit of the lift (...); of the move: log weights and correlations (..., M), (..., M, 2)."""

    lift: Tensor
    log_weights: Tensor
    correlation: Tensor
    offset: Gaussian


class StrokeHead(nn.Module):
    """x_t = (pen lifts, Δx, Δy): a Bernoulli, and M bivariate Gaussians with correlation.

    M = 1 in RNN-Gauss and VRNN-Gauss, 20 in RNN-GMM and VRNN-GMM (Chung et al. 2015, section 4;
    after Graves 2013, equations 18-25). std = softplus(·) + 1e-4 as in the other heads;
    ρ = 0.999 tanh(·), so that no Gaussian collapses onto a line.
    """

    def __init__(self, in_features: int, components: int) -> None:
        super().__init__()
        self.lift = Linear(in_features, 1)
        self.weights = Linear(in_features, components)
        self.correlation = Linear(in_features, components)
        self.layer = GaussianLayer(in_features, 2 * components)
        self.components = components

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise the head at the mean and std of lift, Δx and Δy, (3,) each."""
        initialise_output(self.lift, log_odds(mean[:1], count))
        moves = (moment[1:].repeat(self.components) for moment in (mean, std))
        self.layer.initialise_from_moments(*moves)

    def forward(self, features: Tensor) -> StrokeParameters:
        """Map features (..., H) to the parameters of the next step."""
        flat = self.layer(features)
        return StrokeParameters(
            self.lift(features).squeeze(-1),
            F.log_softmax(self.weights(features), dim=-1),
            LARGEST_CORRELATION * torch.tanh(self.correlation(features)),
            Gaussian(*(p.unflatten(-1, (self.components, 2)) for p in flat)),
        )

    def log_prob(self, params: StrokeParameters, x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., 3) broadcasts."""
        lift, rho = x[..., 0], params.correlation
        distance = (x[..., None, 1:] - params.offset.mean) / params.offset.std  # (..., M, 2)
        u, v = distance.unbind(-1)
        free = 1.0 - rho.square()  # ≥ 0.002
        log_density = (
            -0.5 * (u.square() + v.square() - 2.0 * rho * u * v) / free
            - 0.5 * free.log()
            - params.offset.std.log().sum(-1)
            - math.log(2.0 * math.pi)
        )
        moves = torch.logsumexp(params.log_weights + log_density, dim=-1)
        return moves + lift * params.lift - F.softplus(params.lift)

    def sample(self, params: StrokeParameters, generator: torch.Generator) -> Tensor:
        """Return a draw (..., 3)."""
        lift = torch.bernoulli(torch.sigmoid(params.lift), generator=generator)
        flat = params.log_weights.exp().flatten(0, -2)
        choice = torch.multinomial(flat, 1, generator=generator).view(*lift.shape, 1)
        rho = params.correlation.gather(-1, choice)  # (..., 1)
        pair = choice.unsqueeze(-1).expand(*lift.shape, 1, 2)
        mean, std = (p.gather(-2, pair).squeeze(-2) for p in params.offset)
        first, second = noise_like(mean, generator).split(1, dim=-1)
        second = rho * first + (1.0 - rho.square()).sqrt() * second
        return torch.cat([lift.unsqueeze(-1), mean + std * torch.cat([first, second], -1)], -1)
