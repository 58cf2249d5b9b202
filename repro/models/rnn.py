"""RNN-Gauss, RNN-GMM and their Bernoulli sibling: no latent variables, exact likelihood."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.models.base import ModelSpec, SequenceModel, Terms, without_latent
from repro.nn.heads import build_head
from repro.nn.init import initialise
from repro.nn.mlp import MLP


class RNN(SequenceModel):
    """x_t ~ head(φ_dec(h_{t-1})), h_t = LSTM(φ_x(x_t), h_{t-1}), h_0 = 0.

    Chung et al. 2015, section 2.1.

    The LSTM stays padded (torch's kernel for padded batches is the fast one on a CPU); padding
    comes after every real step, and its likelihood is masked.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        sizes = spec.sizes
        self.features = MLP(spec.dim, sizes["features"])
        self.lstm = nn.LSTM(self.features.width, sizes["hidden"])
        self.decoder = MLP(sizes["hidden"], sizes["decoder"])
        self.head = build_head(spec.head, self.decoder.width, spec.dim, sizes)
        initialise(self, sizes["initial_weights"])

    def forward(
        self, x: Tensor, lengths: Tensor, noise: Tensor, steps_at_once: int | None = None
    ) -> Terms:
        hidden, _ = self.lstm(self.features(x))
        past = F.pad(hidden[:-1], (0, 0, 0, 0, 1, 0))  # h_0 = 0 first: step t sees x_<t
        log_likelihood = self.head.log_prob(self.head(self.decoder(past)), x)
        return without_latent(log_likelihood, lengths)

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        device = self.lstm.weight_hh_l0.device
        hidden = torch.zeros(1, num, self.lstm.hidden_size, device=device)
        state, drawn = (hidden, hidden), []
        for _ in range(steps):
            x = self.head.sample(self.head(self.decoder(state[0])), generator)
            _, state = self.lstm(self.features(x), state)
            drawn.append(x)
        return torch.cat(drawn)


build = RNN
