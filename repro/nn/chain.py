"""The chain of posterior samples of structured inference over packed rows, backward by hand.

A time step of it is a few small operations; written one by one, most of their time goes into
autograd's bookkeeping.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.nn.gaussian import VARIANCE_FLOOR
from repro.nn.packing import before
from repro.nn.products import Prepared, product, product_plus, summed_outer

tanh_backward = torch.ops.aten.tanh_backward.grad_input


class Chain(NamedTuple):
    """Means, stds and samples of q(z_t | z_{t-1}, x), and z_{t-1}, (N, Z) each."""

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor


def posterior_chain(
    data_share: Tensor,
    noise: Tensor,
    start: Tensor,
    sizes: list[int],
    weights: tuple[Tensor, Tensor, Tensor],
) -> Chain:
    """Draw z_t = μ_t + σ_t ε_t with (μ_t, s_t) = data_share_t + V tanh(W z_{t-1} + b).

    σ² = softplus(s) + 1e-8 (Krishnan et al. 2017, the combiner function).

    Args:
        data_share: (N, 2Z), the rows of one step after those of another (`packing`).
        noise: (N, Z).
        start: z before the first step, (B, Z).
        sizes: rows of each step; they never grow.
        weights: W (H, Z), b (H), V (2Z, H).
    Returns:
        the rows of all steps. Differentiable once.
    """
    return Chain(*_Chain.apply(data_share, noise, start, *weights, sizes))


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        data_share: Tensor,
        noise: Tensor,
        start: Tensor,
        in_weight: Tensor,
        bias: Tensor,
        out_weight: Tensor,
        sizes: list[int],
    ) -> tuple[Tensor, ...]:
        latent = noise.shape[1]
        into, out_of = Prepared(in_weight), Prepared(out_weight)
        bent = noise.new_empty(len(noise), len(in_weight))
        stds, zs = torch.empty_like(noise), torch.empty_like(noise)
        z, steps = start, []
        rows = (data_share, noise, bent, stds, zs)
        for share, noise_t, bent_t, std, z_t in zip(*(t.split(sizes) for t in rows), strict=True):
            torch.tanh(product(z[: len(share)], into, bias), out=bent_t)
            outputs = product_plus(bent_t, out_of, share)
            mean, spread = outputs.split(latent, dim=1)
            torch.sqrt(F.softplus(spread).add_(VARIANCE_FLOOR), out=std)
            z = torch.addcmul(mean, std, noise_t, out=z_t)
            steps.append(outputs)
        means, spreads = (half.contiguous() for half in torch.cat(steps).split(latent, dim=1))
        previous = before(zs, start, sizes)
        ctx.save_for_backward(noise, in_weight, out_weight, stds, previous, bent, spreads)
        ctx.sizes, ctx.start_shape = sizes, start.shape
        return means, stds, zs, previous

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_mean: Tensor, to_std: Tensor, to_z: Tensor, to_previous: Tensor
    ) -> tuple[Tensor | None, ...]:
        noise, in_weight, out_weight, std, previous, bent, spread = ctx.saved_tensors
        sizes, latent = ctx.sizes, noise.shape[1]
        back_in, back_out = Prepared(in_weight.T), Prepared(out_weight.T)
        slope = torch.sigmoid(spread).div_(std).mul_(0.5)  # dσ/ds
        raw = torch.cat([to_mean, to_std * slope], dim=1)  # what the step itself owes
        noise_slope = noise * slope
        bent_gradient = torch.empty_like(bent)
        rows = (raw, to_z, to_previous, noise_slope, bent, bent_gradient)
        parts = (t.split(sizes) for t in rows)
        carried = noise.new_zeros(0, latent)
        for step in reversed(list(zip(*parts, strict=True))):
            raw_t, to_z_t, to_previous_t, slope_t, bent_t, pre = step
            owed = to_z_t.clone()
            owed[: len(carried)] += carried
            raw_t[:, :latent] += owed
            raw_t[:, latent:].addcmul_(owed, slope_t)
            tanh_backward(product(raw_t, back_out), bent_t, grad_input=pre)
            carried = product_plus(pre, back_in, to_previous_t)
        return (
            raw,
            None,
            F.pad(carried, (0, 0, 0, ctx.start_shape[0] - len(carried))),
            summed_outer(bent_gradient, previous),
            bent_gradient.sum(0),
            summed_outer(raw, bent),
            None,
        )
