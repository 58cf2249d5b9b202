"""Recognition networks: the posterior over each latent state, from past or future data."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import require_known
from repro.kernels import dispatch
from repro.kernels.linear import Linear
from repro.kernels.packing import Packing, packing
from repro.kernels.posterior_chain import CombinerWeights, PosteriorSteps, posterior_chain
from repro.nn.dropout import Dropout
from repro.nn.gaussian import Gaussian, GaussianLayer, product_of_gaussians
from repro.nn.recurrent import DirectedLSTM, DirectedReLU

FORWARD, BACKWARD = False, True
DIRECTIONS = {
    "st-l": (FORWARD,),
    "st-r": (BACKWARD,),
    "st-lr": (FORWARD, BACKWARD),
    "mf-l": (FORWARD,),
    "mf-lr": (FORWARD, BACKWARD),
}


class RecognitionNetwork(nn.Module):
    """e_t = ReLU(W x_t + b), then an RNN over e per direction, with dropout in training.

    L sees x_≤t, R sees x_≥t, LR all of x (Krishnan et al. 2017, table 1). Sizes, LSTM and its
    initial values (`forget_bias`, `initial_cell`) as in the authors' code. With `inference_cell:
    relu` the RNN has ReLU units, and without `embedding` it reads x itself: both as in Pyro's
    example of this model.
    """

    def __init__(self, dim: int, sizes: dict) -> None:
        super().__init__()
        width = sizes["embedding"]
        self.embedding = Linear(dim, width) if width else None
        self.rnns: Sequence[DirectedLSTM | DirectedReLU] = nn.ModuleList(  # type: ignore[assignment]
            _rnn(width or dim, sizes, backward)
            for backward in DIRECTIONS[sizes["inference_network"]]
        )
        self.dropouts: Sequence[Dropout] = nn.ModuleList(  # type: ignore[assignment]
            Dropout(sizes["dropout"], sizes["inference_hidden"]) for _ in self.rnns
        )

    def embed(self, x: Tensor) -> Tensor:
        """Map (..., D) to what the RNNs read, (..., E)."""
        return x if self.embedding is None else F.relu(self.embedding(x))

    def encode(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return what `posterior_at` reads of the data x (T, B, D) at each step, (T, B, ·).

        It is `self.finish` of `self.output`. On a CPU nothing is computed on padding, where
        `output` is 0.
        """
        if x.device.type == "cpu" and not dispatch.current().plain:
            rows = packing(lengths, len(x))
            output = self._output_rows(rows.pack(x.unsqueeze(1))[0], rows)
            return self.finish(rows.unpack(output.unsqueeze(0))[:, 0])
        embedded = self.embed(x)
        hidden = [rnn(embedded, lengths) for rnn in self.rnns]
        dropped = [drop(h) for drop, h in zip(self.dropouts, hidden, strict=True)]
        return self.finish(self.output(dropped))

    def encode_rows(self, x: Tensor, rows: Packing) -> Tensor:
        """Return the same for rows of x (N, D), (N, ·)."""
        return self.finish(self._output_rows(x, rows))

    def output(self, hidden: list[Tensor]) -> Tensor:
        """Map the hidden states of each direction, (..., H), to one tensor (..., ·)."""
        raise NotImplementedError

    def finish(self, outputs: Tensor) -> Tensor:
        """Map what `output` returned, 0 on padding, to what `posterior_at` reads, (..., ·)."""
        return outputs

    def _output_rows(self, x: Tensor, rows: Packing) -> Tensor:
        embedded = self.embed(x)
        hidden = [rnn.over_rows(embedded, rows.sizes) for rnn in self.rnns]
        return self.output([drop(h, rows) for drop, h in zip(self.dropouts, hidden, strict=True)])


def _rnn(inputs: int, sizes: dict, backward: bool) -> DirectedLSTM | DirectedReLU:
    hidden = sizes["inference_hidden"]
    cell = sizes.get("inference_cell", "lstm")
    require_known("inference_cell", cell, ("lstm", "relu"))
    if cell == "relu":
        return DirectedReLU(inputs, hidden, backward)
    return DirectedLSTM(inputs, hidden, backward, sizes["initial_cell"], sizes["forget_bias"])


class StructuredInference(RecognitionNetwork):
    """q(z_t | z_{t-1}, x) of ST-L, ST-R (DKS) and ST-LR (Krishnan et al. 2017, section 4).

    h_c = (tanh(W z_{t-1} + b) + Σ_directions h_t) / (1 + directions);
    μ = W h_c + b, σ² = softplus(W h_c + b).

    """

    def __init__(self, dim: int, latent: int, sizes: dict) -> None:
        super().__init__(dim, sizes)
        self.from_latent = Linear(latent, sizes["inference_hidden"])
        self.posterior = GaussianLayer(sizes["inference_hidden"], latent, variance=True)
        self.share = 1.0 / (1 + len(self.rnns))

    def output(self, hidden: list[Tensor]) -> Tensor:
        """Return the data's share of h_c, (..., H)."""
        return self.share * sum(hidden[1:], hidden[0])

    def posterior_at(self, data_share: Tensor, previous: Tensor) -> Gaussian:
        """Return q(z_t | z_{t-1}, x) from (1, B, H) and z_{t-1} (K, B, Z)."""
        activated = torch.tanh(self.from_latent(previous))
        return self.posterior(torch.add(data_share, activated, alpha=self.share))

    def chain(
        self, data_share: Tensor, noise: Tensor, start: Tensor, sizes: list[int]
    ) -> PosteriorSteps:
        """Return all steps of `posterior_at` and the samples over packed rows (`posterior_chain`).

        Shapes: data_share (N, H), noise (N, Z), start (B, Z).
        """
        weights = CombinerWeights(
            *self.from_latent.parameters(), *self.posterior.linear.parameters()
        )
        return posterior_chain(data_share, self.share, noise, start, sizes, weights)


class MeanFieldInference(RecognitionNetwork):
    """q(z_t | x) of MF-L and MF-LR: the product of one Gaussian per direction (section 4).

    μ = W h_t + b and σ² = softplus(W h_t + b) for each direction; for two directions the product is
    μ = (μ_r σ_l² + μ_l σ_r²) / (σ_r² + σ_l²), σ² = σ_r² σ_l² / (σ_r² + σ_l²).
    """

    def __init__(self, dim: int, latent: int, sizes: dict) -> None:
        super().__init__(dim, sizes)
        self.posteriors: Sequence[GaussianLayer] = nn.ModuleList(  # type: ignore[assignment]
            GaussianLayer(sizes["inference_hidden"], latent, variance=True) for _ in self.rnns
        )

    def output(self, hidden: list[Tensor]) -> Tensor:
        """Return each direction's W h + b side by side."""
        outputs = [layer.linear(h) for layer, h in zip(self.posteriors, hidden, strict=True)]
        return torch.cat(outputs, dim=-1)

    def finish(self, outputs: Tensor) -> Tensor:
        """Return the posterior's mean and std side by side, (..., 2Z)."""
        linears = outputs.chunk(len(self.posteriors), dim=-1)
        factors = [
            layer.from_linear(linear)
            for layer, linear in zip(self.posteriors, linears, strict=True)
        ]
        whole = factors[0] if len(factors) == 1 else product_of_gaussians(*factors)
        return torch.cat(whole, dim=-1)

    def posterior_at(self, data_share: Tensor, previous: Tensor) -> Gaussian:
        """Return q(z_t | x), (1, B, Z), which does not depend on z_{t-1}."""
        return Gaussian(*data_share.chunk(2, dim=-1))


def build_inference(dim: int, latent: int, sizes: dict) -> StructuredInference | MeanFieldInference:
    """Return the recognition network that `sizes["inference_network"]` names.

    Raises:
        ConfigError: there is no network with this name.
    """
    require_known("inference_network", sizes["inference_network"], DIRECTIONS)
    mean_field = sizes["inference_network"].startswith("mf-")
    return (MeanFieldInference if mean_field else StructuredInference)(dim, latent, sizes)
