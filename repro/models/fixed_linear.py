"""Recognition networks against a known model (Krishnan et al. 2017, section 6.1)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.models.base import ModelSpec, Terms, gaussian_terms
from repro.models.markov import Context, MarkovModel, Step
from repro.nn.gaussian import Gaussian
from repro.nn.init import initialise
from repro.nn.recognition import build_inference


class FixedLinear(MarkovModel):
    """z_t ~ N(A z_{t-1} + b, Q) from z_0 = 0, x_t ~ N(C z_t + d, R), all known; only q is learned.

    The gap between the bound and the Kalman filter's log-likelihood is then KL(q ‖ exact
    posterior), for which only the recognition network is responsible. Q and R are diagonal, as
    in the paper's experiment; C, d and R absorb the normalisation of the data.
    """

    traits = Traits(whole_sequences=True, needed_option="parameters")
    true_latents = True
    A: Tensor
    b: Tensor
    transition_std: Tensor
    C: Tensor
    d: Tensor
    emission_std: Tensor

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
