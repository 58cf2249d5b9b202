"""The linear recurrent unit: a diagonal state-space model (Orvieto et al. 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.kernels.linear import Linear
from repro.kernels.linear_scan import linear_scan
from repro.models.autoregressive import LayeredModel
from repro.nn.blocks import ResidualBlock

RADII = (0.5, 0.99)  # of |λ| in the beginning: what halves in 1 to 69 steps


class LRU(nn.Module):
    """y_t = GLU(W GELU(Re(C s_t) + D x_t) + b), s_t = λ s_{t-1} + γ B x_t, s_0 = 0.

    Orvieto et al. 2023 (arXiv 2303.06349), section 3: s is complex, λ = exp(−exp(ν) + i exp(θ))
    with |λ| < 1 whatever ν is, and γ begins at √(1 − |λ|²), so that s has the scale of x. B and C
    are complex matrices, held as real and imaginary parts side by side; D is a vector.

    Args:
        width: of x. states: complex numbers in s.
    """

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.inputs = Linear(width, 2 * states, bias=False)
        self.outputs = Linear(2 * states, width, bias=False)
        self.direct = nn.Parameter(torch.ones(width))
        self.log_decay_rate = nn.Parameter(torch.empty(states))  # ν
        self.log_phase = nn.Parameter(torch.empty(states))  # θ
        self.log_scale = nn.Parameter(torch.empty(states))  # log γ
        self.gated = Linear(width, 2 * width)

    def initialise(self) -> None:
        """Draw λ uniformly from a ring of the complex plane (lemma 3.2), and set γ by it."""
        least, most = RADII
        with torch.no_grad():
            squares = self.log_decay_rate.uniform_(least**2, most**2).clone()  # |λ|²
            self.log_decay_rate.copy_((-0.5 * squares.log()).log())
            self.log_phase.uniform_(1e-3, 1.0).mul_(2 * math.pi).log_()
            self.log_scale.copy_(0.5 * (1.0 - squares).log())

    def start(self, x: Tensor) -> Tensor:
        """Return s_0 for x (T, B, width), complex zeros (1, B, states)."""
        zero = x.new_zeros(1, x.shape[1], len(self.log_phase))
        return torch.complex(zero, zero)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and s before it, (1, B, states), to the same."""
        decay = torch.polar(torch.exp(-self.log_decay_rate.exp()), self.log_phase.exp())
        driven = torch.complex(*self.inputs(x).chunk(2, dim=-1)) * self.log_scale.exp()
        states = linear_scan(decay.expand_as(driven), driven, memory[0])
        mixed = self.outputs(torch.cat([states.real, states.imag], dim=-1)) + self.direct * x
        return F.glu(self.gated(F.gelu(mixed)), dim=-1), states[-1:]


class LRUModel(LayeredModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = norm(blocks(W φ_x(x_≤t) + b)), h_0 = 0.

    Blocks of an `LRU` after a layer norm and beside a residual connection (the paper's figure 1).
    """

    traits = Traits(latent=False)

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return the recurrence with its gated output."""
        unit = LRU(sizes["hidden"], sizes["states"])
        return ResidualBlock(unit, sizes["hidden"], None, sizes.get("dropout", 0.0))


build = LRUModel
