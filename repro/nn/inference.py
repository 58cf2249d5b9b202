"""Recognition networks: what the data, past or future, say about each latent state."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.nn.gaussian import Gaussian, GaussianLayer
from repro.nn.recurrent import DirectedLSTM

DIRECTIONS = {"st-l": (False,), "st-r": (True,), "st-lr": (False, True)}


class StructuredInference(nn.Module):
    """q(z_t | z_{t-1}, x): a combiner over an LSTM per direction (Krishnan et al. 2017, section 4).

    e_t = ReLU(W x_t + b); h_t = LSTM(e), with dropout in training;
    h_c = (tanh(W z_{t-1} + b) + Σ_directions h_t) / (1 + directions);
    μ = W h_c + b, σ² = softplus(W h_c + b).
    ST-L sees x_≤t, ST-R (DKS) x_≥t, ST-LR all of x.

    The share of h_t in μ and σ² needs no z, so it is computed for all steps at once; per step and
    sample only tanh(W z + b) and one linear map remain.
    """

    def __init__(self, dim: int, latent: int, sizes: dict) -> None:
        super().__init__()
        hidden = sizes["inference_hidden"]
        directions = DIRECTIONS[sizes["inference_network"]]
        self.embedding = nn.Linear(dim, sizes["embedding"])
        self.lstms = nn.ModuleList(
            DirectedLSTM(sizes["embedding"], hidden, backward, sizes["initial_cell"])
            for backward in directions
        )
        self.from_latent = nn.Linear(latent, hidden)
        self.posterior = GaussianLayer(hidden, latent, variance=True)
        self.share = 1.0 / (1 + len(directions))
        self.dropout = sizes["dropout"]
        self.forget_bias = sizes["forget_bias"]

    def initialise(self) -> None:
        """Set the LSTMs' forget bias (torch's gate order: input, forget, candidate, output)."""
        for directed in self.lstms:
            hidden = directed.lstm.hidden_size
            nn.init.constant_(directed.lstm.bias_ih_l0[hidden : 2 * hidden], self.forget_bias)

    def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return the data's share of the posterior's parameters, (T, B, 2Z)."""
        embedded = F.relu(self.embedding(x))
        summed = torch.stack([lstm(embedded, lengths) for lstm in self.lstms]).sum(0)
        return self.posterior.linear(self.share * F.dropout(summed, self.dropout, self.training))

    def posterior_at(self, data_share: Tensor, previous: Tensor) -> Gaussian:
        """Return q(z_t | z_{t-1}, x) from (1, B, 2Z) and z_{t-1} (K, B, Z)."""
        latent_share = self.share * torch.tanh(self.from_latent(previous))
        return self.posterior.from_linear(
            data_share + F.linear(latent_share, self.posterior.linear.weight)
        )
