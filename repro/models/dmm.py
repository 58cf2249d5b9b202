"""Deep Markov Model (Krishnan, Shalit, Sontag 2017, arXiv 1609.09869)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.heads.basic import build_head
from repro.kernels.floors import VARIANCE_FLOOR
from repro.kernels.linear import Linear
from repro.models.base import ModelSpec, Terms
from repro.models.markov import FlowStep, MarkovModel, State, Step, latent_terms
from repro.nn.dropout import Dropout
from repro.nn.flows import build_flows
from repro.nn.gaussian import Gaussian
from repro.nn.init import initialise
from repro.nn.inputs import concatenate_broadcast, one_step_back
from repro.nn.mlp import MLP
from repro.nn.recognition import build_inference


class GatedTransition(nn.Module):
    """p(z_t | z_{t-1}) (section 5, "Gated Transition Function").

    g = sigmoid(W ReLU(W z)); h = W ReLU(W z); μ = (1 − g) ⊙ (W_μ z + b_μ) + g ⊙ h;
    σ² = softplus(W_σ ReLU(h) + b_σ). W_μ starts as the identity, b_μ as 0. In DMM-Aug the two
    MLPs (g and h) also read x_{t-1}.
    """

    def __init__(self, latent: int, extra: int, hidden: int) -> None:
        super().__init__()
        self.gate_hidden = Linear(latent + extra, hidden)
        self.gate = Linear(hidden, latent)
        self.proposed_hidden = Linear(latent + extra, hidden)
        self.proposed = Linear(hidden, latent)
        self.linear_mean = Linear(latent, latent)
        self.variance = Linear(latent, latent)

    def initialise(self) -> None:
        """Start the linear mean as the identity."""
        nn.init.eye_(self.linear_mean.weight)
        nn.init.zeros_(self.linear_mean.bias)

    def forward(self, z: Tensor, inputs: Tensor) -> Gaussian:
        """Return the Gaussian of z_t from z_{t-1} (..., Z) and the MLPs' inputs (..., ·)."""
        gate = torch.sigmoid(self.gate(F.relu(self.gate_hidden(inputs))))
        proposed = self.proposed(F.relu(self.proposed_hidden(inputs)))
        mean = (1.0 - gate) * self.linear_mean(z) + gate * proposed
        variance = F.softplus(self.variance(F.relu(proposed))) + VARIANCE_FLOOR
        return Gaussian(mean, variance.sqrt())


class Context(NamedTuple):
    """x_t, x_{t-1}, 1 at the first step else 0, and the data's share of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    previous_x: Tensor
    is_first: Tensor
    posterior_share: Tensor


class DMM(MarkovModel):
    """A Markov chain of Gaussian states with neural transition and emission.

    z_1 ~ N(0, I), z_t ~ gated transition(z_{t-1}), x_t ~ head(MLP(z_t)) with two ReLU layers;
    q(z_t | z_{t-1}, x) by structured inference from z_0 = 0, or q(z_t | x) by mean field
    (equations 5-7 and section 4). DMM-Aug (`previous_x`): transition and emission also read
    x_{t-1}, zeros at the first step (section 6.2), with `input_dropout` in training. With
    `flows`, that Gaussian's sample becomes z_t through inverse autoregressive flows, the same at
    every step, as in Pyro's example of this model; the KL is then taken at the sample.

    Differs from the authors' code: the backward LSTM starts at each sequence's last real step
    (theirs runs over the padding first), and every softplus variance has a floor of 1e-8.
    """

    traits = Traits(whole_sequences=True)
    context = Context

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.latent, self.dim = sizes["latent"], spec.dim
        self.reads_previous_x = sizes.get("previous_x", False)
        extra = spec.dim if self.reads_previous_x else 0
        self.input_dropout = Dropout(sizes.get("input_dropout", 0.0), spec.dim)
        self.transition = GatedTransition(self.latent, extra, sizes["transition"])
        self.emission = MLP(self.latent + extra, [sizes["emission"]] * 2)
        self.head = build_head(spec.head, self.emission.width, spec.dim, sizes)
        self.inference = build_inference(spec.dim, self.latent, sizes)
        self.flows = build_flows(self.latent, sizes)  # type: ignore[assignment]
        initialise(self, sizes["initial_weights"])

    def observe(self, x: Tensor, state: State | None) -> tuple[Tensor, ...]:
        previous = self.input_dropout(one_step_back(x, None if state is None else state.x[0]))
        is_first = torch.zeros_like(x[..., :1])
        is_first[0] = float(state is None)
        return x.unsqueeze(1), previous.unsqueeze(1), is_first.unsqueeze(1)

    def score(self, context: Context, steps: Step | FlowStep) -> Terms:
        p = self._prior(steps.previous, context.previous_x, context.is_first)
        params = self.head(self.emission(self._with(steps.z, context.previous_x)))
        return latent_terms(self.head.log_prob(params, context.x), steps, p)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.transition.variance.weight.device
        z = torch.zeros(1, num, self.latent, device=device)
        x, drawn = torch.zeros(1, num, self.dim, device=device), []
        for t in range(steps):
            is_first = torch.full_like(z[..., :1], float(t == 0))
            noise = torch.randn(z.shape, generator=generator, device=device)
            z = self._prior(z, x, is_first).sample(noise)
            x = self.head.sample(self.head(self.emission(self._with(z, x))), generator)
            drawn.append(x)
        return torch.cat(drawn)

    def _with(self, z: Tensor, previous_x: Tensor) -> Tensor:
        return concatenate_broadcast(z, previous_x) if self.reads_previous_x else z

    def _prior(self, previous: Tensor, previous_x: Tensor, is_first: Tensor) -> Gaussian:
        p = self.transition(previous, self._with(previous, previous_x))
        return Gaussian(p.mean * (1.0 - is_first), torch.where(is_first > 0, 1.0, p.std))


build = DMM
