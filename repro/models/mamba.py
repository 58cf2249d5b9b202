"""Mamba: a state-space model whose input, output and step sizes depend on x (Gu & Dao 2023)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from repro.config.traits import Traits
from repro.kernels import dispatch
from repro.kernels.linear import Linear
from repro.kernels.linear_scan import linear_scan
from repro.models.autoregressive import LayeredModel
from repro.nn.blocks import ResidualBlock
from repro.nn.init import inverse_softplus

STEP_SIZES = (1e-3, 1e-1)  # of Δ in the beginning
STEPS_AT_ONCE = 16  # bounds the memory of the states, which fit a cache: N times the outputs


class SelectiveSSM(nn.Module):
    """y_t = W_o (SiLU(g_t) ⊙ (C_tᵀ s_t + D ⊙ u_t)), with N states per channel.

    u, g = W x_t;  u_t = SiLU(Σ_i w_i ⊙ u_{t-i} + b), i = 0 … kernel − 1;
    Δ_t = softplus(W_Δ V_Δ u_t + b_Δ), B_t = V_B u_t, C_t = V_C u_t;
    s_t = exp(Δ_t A) s_{t-1} + Δ_t B_t u_t, A = −exp(·) < 0, s_0 = 0

    (Gu & Dao 2023, arXiv 2312.00752, algorithm 2 and figure 3; the discretisation is their
    code's). V_Δ maps to ⌈width / 16⌉ numbers. W, W_o and the V have no biases.

    To save memory, the states of `STEPS_AT_ONCE` steps are computed together and dropped; the
    backward pass computes them again.

    Args:
        width: of x. channels: of u and g. states: N. kernel: of the convolution over time.
    """

    def __init__(self, width: int, channels: int, states: int, kernel: int) -> None:
        super().__init__()
        self.channels, self.kernel, rank = channels, kernel, math.ceil(width / 16)
        self.parts = [rank, states, states]
        self.inputs = Linear(width, 2 * channels, bias=False)
        # Three axes for what is not a matrix: Muon and weight decay are for parameters of two axes.
        self.taps = nn.Parameter(torch.empty(kernel, 1, channels))  # the last is for the present
        self.taps_bias = nn.Parameter(torch.zeros(channels))
        self.selection = Linear(channels, sum(self.parts), bias=False)  # V_Δ, V_B, V_C
        self.step_size = Linear(rank, channels)
        self.log_rates = nn.Parameter(torch.empty(states, 1, channels))  # of −A
        self.direct = nn.Parameter(torch.ones(channels))  # D
        self.output = Linear(channels, width, bias=False)

    def initialise(self) -> None:
        """Set A to −1 … −N in every channel, Δ between the two step sizes, as the authors do."""
        with torch.no_grad():
            self.taps.uniform_(-1.0, 1.0).div_(math.sqrt(self.kernel))
            numbers = torch.arange(1.0, len(self.log_rates) + 1.0)
            self.log_rates.copy_(numbers.log().view(-1, 1, 1).expand_as(self.log_rates))
            scale = self.step_size.in_features**-0.5
            self.step_size.weight.uniform_(-scale, scale)
            least, most = (math.log(size) for size in STEP_SIZES)
            sizes = torch.empty(self.channels).uniform_(least, most).exp_()
            self.step_size.bias.copy_(inverse_softplus(sizes))

    def start(self, x: Tensor) -> Tensor:
        """Return zeros for x (T, B, width): the inputs of the convolution's past, and s_0."""
        return x.new_zeros(self.kernel - 1 + len(self.log_rates), x.shape[1], self.channels)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and a memory (kernel − 1 + N, B, channels) to the same."""
        past, state = memory.split([self.kernel - 1, len(self.log_rates)])
        inputs, gate = self.inputs(x).chunk(2, dim=-1)
        extended, steps = torch.cat([past, inputs]), len(x)
        taps = (tap * extended[i : i + steps] for i, tap in enumerate(self.taps))
        u = F.silu(sum(taps, self.taps_bias))
        mixed = []
        for part in u.split(STEPS_AT_ONCE):
            y, state = self._recompute(part, state)
            mixed.append(y)
        y = (torch.cat(mixed) + self.direct * u) * F.silu(gate)
        return self.output(y), torch.cat([extended[steps:], state])

    def _recompute(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if dispatch.current().plain or not torch.is_grad_enabled():
            return self._scan(u, state)
        return checkpoint(self._scan, u, state, use_reentrant=False, preserve_rng_state=False)

    def _scan(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return C_tᵀ s_t of u (T, B, channels), the same, and the last s, (N, B, channels)."""
        low_rank, write, read = self.selection(u).split(self.parts, dim=-1)
        step = F.softplus(self.step_size(low_rank))
        decay = torch.exp(step.unsqueeze(1) * -self.log_rates.exp())  # (T, N, B, channels)
        drive = (step * u).unsqueeze(1) * write.mT.unsqueeze(-1)
        states = linear_scan(decay, drive, state)
        return (states * read.mT.unsqueeze(-1)).sum(1), states[-1]


class Mamba(LayeredModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = norm(blocks(W φ_x(x_≤t) + b)), h_0 = 0.

    Blocks of a `SelectiveSSM` after a layer norm (the authors' code: root mean square) and beside a
    residual connection, without feed-forward layers; 2 `hidden` channels and a convolution over 4
    steps, as in the paper.
    """

    traits = Traits(latent=False)

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return the selective state-space model."""
        width = sizes["hidden"]
        mixer = SelectiveSSM(width, 2 * width, sizes["states"], kernel=4)
        return ResidualBlock(mixer, width, None, sizes.get("dropout", 0.0))


build = Mamba
