"""Two unknown parameters of a known nonlinear model, learned with its recognition network."""

import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.models.base import ModelSpec, Terms, gaussian_terms
from repro.models.markov import Context, MarkovModel, Step
from repro.nn.gaussian import Gaussian
from repro.nn.init import initialise
from repro.nn.recognition import build_inference


class TwoParameters(MarkovModel):
    """z_t ~ N([0.2 z⁰ + tanh(α z¹), 0.2 z¹ + sin(β z⁰)], I), x_t ~ N(0.5 z_t, 0.1 I), z_0 = 0.

    On the right z is z_{t-1}, superscripts are coordinates, and second arguments are variances
    (Krishnan et al. 2017, section 6.1, figure 3). Everything is known except α and β; they start
    uniform in ±1 (the paper does not say) and are learned together with q.
    """

    traits = Traits(whole_sequences=True, needed_option="nonlinear_parameters")
    latent = 2
    gain: Tensor
    offset: Tensor
    emission_std: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self.register_buffer("gain", 0.5 / std)
        self.register_buffer("offset", -mean / std)
        self.register_buffer("emission_std", 0.1**0.5 / std)
        self.alpha = nn.Parameter(torch.empty(()).uniform_(-1.0, 1.0))
        self.beta = nn.Parameter(torch.empty(()).uniform_(-1.0, 1.0))
        self.inference = build_inference(spec.dim, self.latent, spec.sizes)
        initialise(self, spec.sizes["initial_weights"])

    @property
    def logged_scalars(self) -> dict[str, float]:
        return {"alpha": self.alpha.item(), "beta": self.beta.item()}

    def score(self, context: Context, steps: Step) -> Terms:
        log_likelihood = self._emission(steps.z).log_prob(context.x)
        q = Gaussian(steps.mean, steps.std)
        return gaussian_terms(log_likelihood, q, self._transition(steps.previous), steps.z)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        z, drawn = self.gain.new_zeros(num, self.latent), []
        for _ in range(steps):
            noise = torch.randn(2, *z.shape, generator=generator, device=z.device)
            z = self._transition(z).sample(noise[0])
            drawn.append(self._emission(z).sample(noise[1]))
        return torch.stack(drawn)

    def _transition(self, previous: Tensor) -> Gaussian:
        first, second = previous.unbind(-1)
        mean = torch.stack(
            [
                0.2 * first + torch.tanh(self.alpha * second),
                0.2 * second + torch.sin(self.beta * first),
            ],
            dim=-1,
        )
        return Gaussian(mean, torch.ones_like(mean))

    def _emission(self, z: Tensor) -> Gaussian:
        return Gaussian(self.gain * z + self.offset, self.emission_std)


build = TwoParameters
