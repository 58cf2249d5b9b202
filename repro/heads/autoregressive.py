"""A frame of values modelled one by one: the head that a plain RNN needs for a fair comparison."""

import torch
from torch import Tensor, nn

from repro.kernels.chunks import chunked
from repro.kernels.linear import Linear
from repro.nn.gaussian import Gaussian, GaussianLayer, noise_like

MAX_FRAMES = 4096  # in one pass; bounds memory


class AutoregressiveHead(nn.Module):
    """p(x_t | h) = Π_i N(x_ti; μ_i, σ_i) with μ_i, σ_i of x_t1 … x_t(i-1) and h.

    With a diagonal Gaussian an RNN cannot model any correlation inside a frame of 200 samples, as a
    latent variable can; Dai et al. (2019, arXiv 1902.01388) ask for this baseline. A small LSTM
    runs over the frame's values and starts from a linear map of the features h, which its output
    layer reads again. std = softplus(·) + 1e-4.
    """

    can_stack = False

    def __init__(self, in_features: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.dim = dim
        self.start = Linear(in_features, 2 * hidden)
        self.lstm = nn.LSTM(1, hidden)
        self.direct = Linear(in_features, 2, bias=False)
        self.layer = GaussianLayer(hidden, 1)

    def initialise_from_data(self, mean: Tensor, std: Tensor, count: int) -> None:
        """Initialise every value at the mean and standard deviation of all of them."""
        spread = (std.square().mean() + mean.var(correction=0)).sqrt()
        self.layer.initialise_from_moments(mean.mean().view(1), spread.view(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return the features (..., H) as they are: the parameters depend on x."""
        return features

    def log_prob(self, features: Tensor, x: Tensor) -> Tensor:
        """Return log p(x), (...), in nats; x (..., D) broadcasts."""
        return chunked(self._log_prob, MAX_FRAMES, features, x)

    def sample(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw (..., D)."""
        flat = features.flatten(0, -2)
        state, direct = self._state(flat), self.direct(flat)
        value, drawn = flat.new_zeros(1, len(flat), 1), []
        for _ in range(self.dim):
            hidden, state = self.lstm(value, state)
            noise = noise_like(value, generator)
            value = self._gaussian(hidden, direct).sample(noise)
            drawn.append(value[0])
        return torch.cat(drawn, -1).view(*features.shape[:-1], self.dim)

    def _log_prob(self, features: Tensor, x: Tensor) -> Tensor:
        values = x.T.unsqueeze(-1)  # (D, N, 1): the frame is the LSTM's time
        before = torch.cat([torch.zeros_like(values[:1]), values[:-1]])
        hidden, _ = self.lstm(before, self._state(features))
        return self._gaussian(hidden, self.direct(features)).log_prob(values).sum(0)

    def _state(self, features: Tensor) -> tuple[Tensor, Tensor]:
        hidden, cell = self.start(features).unsqueeze(0).chunk(2, dim=-1)
        return torch.tanh(hidden), cell.contiguous()

    def _gaussian(self, hidden: Tensor, direct: Tensor) -> Gaussian:
        return self.layer.from_linear(self.layer.linear(hidden) + direct)
