"""The chain of posterior samples of structured inference over packed rows, backward by hand.

A time step of it is a few small operations; written one by one, most of their time goes into
autograd's bookkeeping.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import tanh_backward
from repro.kernels.floors import VARIANCE_FLOOR
from repro.kernels.matmul import PrepackedWeight, addmm_, matmul_out, weight_gradient
from repro.kernels.packing import before


class Chain(NamedTuple):
    """Means, stds and samples of q(z_t | z_{t-1}, x), and z_{t-1}, (N, Z) each."""

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor


class Weights(NamedTuple):
    """The combiner's: W (H, Z), b (H,), V (2Z, H), c (2Z,)."""

    in_weight: Tensor
    in_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor


def posterior_chain(
    data_share: Tensor,
    share: float,
    noise: Tensor,
    start: Tensor,
    sizes: list[int],
    weights: Weights,
) -> Chain:
    """Draw z_t = μ_t + σ_t ε_t with (μ_t, s_t) = V (d_t + share · tanh(W z_{t-1} + b)) + c.

    d is `data_share`; σ² = softplus(s) + 1e-8 (Krishnan et al. 2017, the combiner function).

    Args:
        data_share: (N, H), the rows of one step after those of another (`packing`).
        noise: (N, Z).
        start: z before the first step, (B, Z).
        sizes: rows of each step; they never grow.
    Returns:
        the rows of all steps. Differentiable once.
    """
    return Chain(*_Chain.apply(data_share, noise, start, *weights, share, sizes))


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        data_share: Tensor,
        noise: Tensor,
        start: Tensor,
        in_weight: Tensor,
        in_bias: Tensor,
        out_weight: Tensor,
        out_bias: Tensor,
        share: float,
        sizes: list[int],
    ) -> tuple[Tensor, ...]:
        into, out_of = PrepackedWeight(in_weight), PrepackedWeight(out_weight)
        bent, outputs = (bias.repeat(len(noise), 1) for bias in (in_bias, out_bias))
        combined = torch.empty_like(data_share)
        means, spreads = outputs.chunk(2, dim=1)
        stds, zs, z = torch.empty_like(noise), torch.empty_like(noise), start
        rows = (data_share, bent, combined, outputs, means, spreads, noise, stds, zs)
        for step in zip(*(t.split(sizes) for t in rows), strict=True):
            data_t, bent_t, combined_t, outputs_t, mean, spread, noise_t, std, z_t = step
            addmm_(bent_t, z[: len(bent_t)], into).tanh_()
            torch.add(data_t, bent_t, alpha=share, out=combined_t)
            addmm_(outputs_t, combined_t, out_of)
            torch.sqrt(F.softplus(spread).add_(VARIANCE_FLOOR), out=std)
            z = torch.addcmul(mean, std, noise_t, out=z_t)
        means, spreads = means.contiguous(), spreads.contiguous()
        previous = before(zs, start, sizes)
        kept = noise, stds, previous, bent, combined, spreads
        ctx.save_for_backward(in_weight, out_weight, *kept)
        ctx.share, ctx.sizes, ctx.start_shape = share, sizes, start.shape
        return means, stds, zs, previous

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, to_mean: Tensor, to_std: Tensor, to_z: Tensor, to_previous: Tensor
    ) -> tuple[Tensor | None, ...]:
        in_weight, out_weight, noise, std, previous, bent, combined, spread = ctx.saved_tensors
        share, sizes = ctx.share, ctx.sizes
        back_in, back_out = PrepackedWeight(share * in_weight.T), PrepackedWeight(out_weight.T)
        slope = torch.sigmoid(spread).div_(std).mul_(0.5)  # dσ/ds
        raw = torch.cat([to_mean, to_std * slope], dim=1)  # what the step itself owes
        to_data, pre = torch.empty_like(bent), torch.empty_like(bent)
        rows = (raw, *raw.chunk(2, dim=1), noise * slope, bent, to_data, pre, to_previous)
        owed = to_z.clone().split(sizes)
        to_start = noise.new_zeros(ctx.start_shape)
        steps = zip(*(t.split(sizes) for t in rows), owed, [to_start, *owed[:-1]], strict=True)
        for step in reversed(list(steps)):
            raw_t, raw_mean, raw_spread, slope_t, bent_t, to_data_t, pre_t, *between = step
            to_previous_t, to_z_t, before_t = between
            raw_mean += to_z_t
            raw_spread.addcmul_(to_z_t, slope_t)
            matmul_out(to_data_t, raw_t, back_out)
            tanh_backward(to_data_t, bent_t, grad_input=pre_t)
            addmm_(before_t[: len(pre_t)].add_(to_previous_t), pre_t, back_in)
        return (
            *(to_data, None, to_start),
            *(share * weight_gradient(pre, previous), share * pre.sum(0)),
            *(weight_gradient(raw, combined), raw.sum(0), None, None),
        )
