"""A control that must win: the linear-Gaussian state space model with its true parameters."""

from typing import NamedTuple

import torch
from torch import Tensor

from repro.config.traits import Traits
from repro.models.base import ModelSpec, SequenceModel, Terms


class Context(NamedTuple):
    """x, and the offset and Cholesky factor of q(z_t | z_{t-1}, x_{t:T}), (T, 1, B, ·)."""

    x: Tensor
    offset: Tensor
    cholesky: Tensor


class State(NamedTuple):
    """z_{t-1}, (K, B, Z)."""

    z: Tensor


class Step(NamedTuple):
    """q(z_t)'s mean, z_t and z_{t-1}, (T, K, B, Z)."""

    mean: Tensor
    z: Tensor
    previous: Tensor


class LinearGaussian(SequenceModel):
    """z_t ~ N(A z_{t-1} + b, Q) from z_0 = 0, x_t ~ N(C z_t + d, R); q is the exact posterior.

    q(z_t | z_{t-1}, x_{t:T}) ∝ p(z_t | z_{t-1}) p(x_{t:T} | z_t), and a backward recursion over the
    information (Λ, η) of p(x_{t:T} | z_t) ∝ exp(−½ zᵀΛz + ηᵀz) gives it in closed form. Every
    importance weight then equals p(x): the estimate is the Kalman filter's log-likelihood.
    Parameters are stated for raw data; C, d and R absorb the normalisation. Computed in float64.
    """

    traits = Traits(whole_sequences=True, needed_option="parameters", true_parameters=True)
    true_latents = True
    A: Tensor
    b: Tensor
    Q: Tensor
    C: Tensor
    d: Tensor
    R: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        p = {k: torch.tensor(v, dtype=torch.float64) for k, v in spec.options["parameters"].items()}
        mean, std = (torch.tensor(v, dtype=torch.float64) for v in (spec.mean, spec.std))
        self.latent = len(p["transition_offset"])
        self.register_buffer("A", p["transition_matrix"])
        self.register_buffer("b", p["transition_offset"])
        self.register_buffer("Q", p["transition_covariance"])
        self.register_buffer("C", p["emission_matrix"] / std.unsqueeze(1))
        self.register_buffer("d", (p["emission_offset"] - mean) / std)
        self.register_buffer("R", p["emission_covariance"] / torch.outer(std, std))

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        x = x.double()
        Q_inv, R_inv = torch.linalg.inv(self.Q), torch.linalg.inv(self.R)
        batch, latent = x.shape[1], self.latent
        identity = torch.eye(latent, dtype=x.dtype, device=x.device)
        future_precision = x.new_zeros(batch, latent, latent)  # of p(x_{t+1:T} | z_t)
        future_vector = x.new_zeros(batch, latent)
        offsets, choleskys = [], []
        for t in reversed(range(len(x))):
            inside = (t < lengths).unsqueeze(-1)  # (B, 1)
            observed_precision = self.C.T @ R_inv @ self.C
            precision = future_precision + observed_precision.where(inside.unsqueeze(-1), 0.0)
            vector = future_vector + ((x[t] - self.d) @ (R_inv @ self.C)).where(inside, 0.0)
            covariance = torch.linalg.inv(Q_inv + precision)  # of q(z_t | z_{t-1}, x_{t:T})
            choleskys.append(torch.linalg.cholesky(covariance))
            offsets.append(_product(covariance, self.b @ Q_inv + vector))
            gain = covariance @ Q_inv
            future_precision = self.A.T @ Q_inv @ (identity - gain) @ self.A
            future_vector = (offsets[-1] - self.b) @ (Q_inv @ self.A)
        offset = torch.stack(offsets[::-1]).unsqueeze(1)
        cholesky = torch.stack(choleskys[::-1]).unsqueeze(1)
        return Context(x.unsqueeze(1), offset, cholesky)

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], self.latent, dtype=torch.float64))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        covariance = context.cholesky @ context.cholesky.mT
        pull = torch.linalg.solve(self.Q, self.A @ state.z.unsqueeze(-1)).squeeze(-1)
        mean = context.offset + _product(covariance, pull)
        z = mean + _product(context.cholesky, noise.double())
        return State(z), Step(mean, z, state.z)

    def score(self, context: Context, steps: Step) -> Terms:
        q = torch.distributions.MultivariateNormal(steps.mean, scale_tril=context.cholesky)
        prior_mean = steps.previous @ self.A.T + self.b
        p = torch.distributions.MultivariateNormal(prior_mean, self.Q)
        x = torch.distributions.MultivariateNormal(steps.z @ self.C.T + self.d, self.R)
        return Terms(
            log_likelihood=x.log_prob(context.x),
            log_prior=p.log_prob(steps.z),
            log_proposal=q.log_prob(steps.z),
            kl=None,
        )

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        z = torch.zeros(num, self.latent, dtype=torch.float64)
        Q_half, R_half = torch.linalg.cholesky(self.Q), torch.linalg.cholesky(self.R)
        drawn = []
        for _ in range(steps):
            noise = torch.randn(num, self.latent, generator=generator, dtype=torch.float64)
            z = z @ self.A.T + self.b + noise @ Q_half.T
            noise = torch.randn(num, len(self.d), generator=generator, dtype=torch.float64)
            drawn.append(z @ self.C.T + self.d + noise @ R_half.T)
        return torch.stack(drawn)


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


build = LinearGaussian
