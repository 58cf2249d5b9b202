"""Recognition networks against a known model (Krishnan et al. 2017, section 6.1)."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.models.base import ModelSpec, SequenceModel, Terms, gaussian_terms
from repro.models.dmm import State, Step
from repro.nn.gaussian import Gaussian
from repro.nn.inference import build_inference
from repro.nn.init import initialise


class Context(NamedTuple):
    """x and the data's share of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    posterior_share: Tensor


class FixedLinear(SequenceModel):
    """z_t ~ N(A z_{t-1} + b, Q) from z_0 = 0, x_t ~ N(C z_t + d, R), all known; only q is learned.

    What the bound lacks to the Kalman filter's log-likelihood is then KL(q ‖ exact posterior), the
    recognition network's own fault. Q and R are diagonal, as in the paper's experiment; C, d and R
    absorb the normalisation of the data.
    """

    true_latents = True

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        p = {k: torch.tensor(v) for k, v in spec.options["parameters"].items()}
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.latent = len(p["transition_offset"])
        self.register_buffer("A", p["transition_matrix"])
        self.register_buffer("b", p["transition_offset"])
        self.register_buffer("transition_std", p["transition_covariance"].diagonal().sqrt())
        self.register_buffer("C", p["emission_matrix"] / std.unsqueeze(1))
        self.register_buffer("d", (p["emission_offset"] - mean) / std)
        self.register_buffer("emission_std", p["emission_covariance"].diagonal().sqrt() / std)
        self.inference = build_inference(spec.dim, self.latent, spec.sizes)
        initialise(self, spec.sizes["initial_weights"])

    def encode(self, x: Tensor, lengths: Tensor) -> Context:
        return Context(x.unsqueeze(1), self.inference.encode(x, lengths).unsqueeze(1))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], self.latent))

    def propose(self, context: Context, state: State, noise: Tensor) -> tuple[State, Step]:
        q = self.inference.posterior_at(context.posterior_share, state.z)
        z = q.sample(noise)
        return State(z), Step(q.mean, q.std, z, state.z)

    def score(self, context: Context, steps: Step) -> Terms:
        p = Gaussian(F.linear(steps.previous, self.A, self.b), self.transition_std)
        x = Gaussian(F.linear(steps.z, self.C, self.d), self.emission_std)
        return gaussian_terms(x.log_prob(context.x), Gaussian(steps.mean, steps.std), p, steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        z = torch.zeros(num, self.latent)
        drawn = []
        for _ in range(steps):
            noise = torch.randn(z.shape, generator=generator)
            z = Gaussian(F.linear(z, self.A, self.b), self.transition_std).sample(noise)
            noise = torch.randn(num, len(self.d), generator=generator)
            drawn.append(Gaussian(F.linear(z, self.C, self.d), self.emission_std).sample(noise))
        return torch.stack(drawn)


build = FixedLinear
