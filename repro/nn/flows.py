"""Normalising flows over a latent state: invertible maps whose log-determinant is known."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.errors import ConfigError
from repro.kernels import dispatch

LARGEST_LOG_SCALE = 3.0


class MaskedLinear(nn.Linear):
    """A linear layer that uses only the weights where `mask` (out, in) is True."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(inputs, self.weight.where(self.mask, 0.0), self.bias)


class InverseAutoregressiveFlow(nn.Module):
    """y = exp(s) ⊙ z + m, where s_i and m_i read only what comes before z_i in an order.

    (Kingma et al. 2016, arXiv 1606.04934.) The Jacobian is triangular: log |det ∂y/∂z| = Σ s_i. s
    and m are one network with a hidden ReLU layer, masked as MADE is (Germain et al. 2015): hidden
    unit k reads the first k mod (Z − 1) + 1 values of the order. As in Pyro's example of the DMM,
    except that the order is the given one or its reverse instead of random, and s = 3 tanh(· / 3)
    instead of a value clipped to [−5, 3].
    """

    def __init__(self, latent: int, hidden: int, backward: bool) -> None:
        super().__init__()
        rank = torch.arange(latent)
        rank = rank.flip(0) if backward else rank
        degrees = (
            torch.arange(hidden) % max(latent - 1, 1) + 1
        )  # how many values a hidden unit reads
        self.read = MaskedLinear(degrees.unsqueeze(1) > rank)
        self.write = MaskedLinear((degrees <= rank.unsqueeze(1)).repeat(2, 1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y and log |det ∂y/∂z|, (..., Z) and (...), of z (..., Z)."""
        mean, raw = self.write(F.relu(self.read(z))).chunk(2, dim=-1)
        log_scale = LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)
        return log_scale.exp() * z + mean, log_scale.sum(-1)


def build_flows(latent: int, sizes: dict) -> nn.ModuleList:
    """Return `sizes["flows"]` flows, none if it is absent, each in the order reverse to the last.

    Raises:
        ConfigError: there is no width for them, `sizes["flow_hidden"]`.
    """
    count = sizes.get("flows", 0)
    if count and "flow_hidden" not in sizes:
        raise ConfigError(f"sizes: flows: {count} needs flow_hidden, the flows' hidden units.")
    return nn.ModuleList(
        InverseAutoregressiveFlow(latent, sizes["flow_hidden"], backward=i % 2 == 1)
        for i in range(count)
    )


def apply_flows(flows: Sequence[InverseAutoregressiveFlow], z: Tensor) -> tuple[Tensor, Tensor]:
    """Return z after all flows, and the sum of their log-determinants, (..., Z) and (...).

    Raises:
        ConfigError: samples are detached, as NASMC needs them: log q of a given z needs the
            inverse of every flow.
    """
    if dispatch.current().detach_samples:
        raise ConfigError(
            "sizes: flows do not fit the objective nasmc, which needs log q of a given z: "
            "remove flows, or train by elbo, iwae or fivo."
        )
    total = torch.zeros_like(z[..., 0])
    for flow in flows:
        z, log_det = flow(z)
        total = total + log_det
    return z, total
