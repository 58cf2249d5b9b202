"""A temporal convolutional network: dilated causal convolutions (Bai et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.kernels.linear import Linear
from repro.models.autoregressive import LayeredModel
from repro.nn.dropout import Dropout


class CausalConvolution(nn.Module):
    """y_t = Σ_i W_i x_{t − i d} + b for i = 0 … kernel − 1 at dilation d.

    One product with the steps side by side, oldest first: W is a matrix like any other.
    """

    def __init__(self, width: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.linear = Linear(kernel * width, width)
        self.kernel, self.dilation = kernel, dilation

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and the (kernel − 1) d inputs before it to the same."""
        extended, steps = torch.cat([memory, x]), len(x)
        starts = range(0, self.kernel * self.dilation, self.dilation)
        taps = torch.cat([extended[start : start + steps] for start in starts], dim=-1)
        return self.linear(taps), extended[steps:]


class TemporalBlock(nn.Module):
    """y = ReLU(x + f(f(x))), f a causal convolution, ReLU and dropout (figure 1b)."""

    def __init__(self, width: int, kernel: int, dilation: int, share: float) -> None:
        super().__init__()
        self.first = CausalConvolution(width, kernel, dilation)
        self.second = CausalConvolution(width, kernel, dilation)
        self.drop_first, self.drop_second = Dropout(share, width), Dropout(share, width)
        self.memory_steps = (kernel - 1) * dilation

    def start(self, x: Tensor) -> Tensor:
        """Return zeros, what both convolutions read before the first step of x (T, B, width)."""
        return x.new_zeros(self.memory_steps, x.shape[1], 2 * x.shape[2])

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map (T, B, width) and a memory to the same."""
        before_first, before_second = memory.chunk(2, dim=-1)
        hidden, before_first = self.first(x, before_first)
        hidden = self.drop_first(F.relu(hidden))
        hidden, before_second = self.second(hidden, before_second)
        added = x + self.drop_second(F.relu(hidden))
        return F.relu(added), torch.cat([before_first, before_second], dim=-1)


class TCN(LayeredModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = blocks(W φ_x(x_≤t) + b), h_0 = 0.

    Bai, Kolter & Koltun 2018 (arXiv 1803.01271), section 3: block l is a `TemporalBlock` of
    dilation 2^l, so that L blocks have a receptive field of 2 (kernel − 1)(2^L − 1) earlier steps.
    Deliberate differences: no weight normalisation, and the embedding W instead of the first
    block's 1 × 1 convolution. Before the first step each convolution reads zeros, as theirs does.
    """

    traits = Traits(latent=False)

    def block(self, index: int, sizes: dict) -> nn.Module:
        """Return a block whose dilation is 2^index."""
        share = sizes.get("dropout", 0.0)
        return TemporalBlock(sizes["hidden"], sizes["kernel"], 2**index, share)

    def last_norm(self, width: int) -> nn.Module:
        """Return nothing that changes the last block's output."""
        return nn.Identity()


build = TCN
