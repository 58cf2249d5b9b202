"""The chain of posterior samples of structured inference over packed rows, backward by hand.

A time step consists of a few small operations; if autograd recorded them one by one, most of the
time would go into its bookkeeping.

Forward, with the data's share d_t and noise ε_t (Krishnan et al. 2017, the combiner function; k is
`share`):

    u_t = tanh(W z_{t-1} + b)
    h_t = d_t + k u_t
    (μ_t, s_t) = V h_t + c
    σ_t = √(softplus(s_t) + 1e-8)
    z_t = μ_t + σ_t ε_t

Backward, from the gradients of μ, σ, z and z_{t-1} as outputs; grad_z_t is that of z_t plus what
comes from step t + 1, and dσ/ds = sigmoid(s) / 2σ:

    grad_μ_t += grad_z_t;  grad_s_t = (grad_σ_t + grad_z_t ε_t) dσ/ds
    grad_h_t = grad_d_t = (grad_μ_t, grad_s_t) V
    grad_a_t = grad_h_t (1 − u_t²), so that k grad_a_t is the gradient of W z_{t-1} + b
    grad_z_{t-1} += k grad_a_t W
    grad_W = k grad_aᵀ z_{t-1};  grad_b = k Σ grad_a
    grad_V = (grad_μ, grad_s)ᵀ h;  grad_c = Σ (grad_μ, grad_s)
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import tanh_backward
from repro.kernels.floors import VARIANCE_FLOOR
from repro.kernels.matmul import PrepackedWeight, addmm_, matmul_out, weight_gradient
from repro.kernels.packing import previous_rows


class PosteriorSteps(NamedTuple):
    """Means, stds and samples of q(z_t | z_{t-1}, x), and z_{t-1}, (N, Z) each."""

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor


class CombinerWeights(NamedTuple):
    """The combiner's weights: W (H, Z), b (H,), V (2Z, H), c (2Z,)."""

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
    weights: CombinerWeights,
) -> PosteriorSteps:
    """Return q(z_t | z_{t-1}, x) and its samples for all steps; equations: the module's docstring.

    Args:
        data_share: d (N, H), the rows of one step after those of another (`packing`).
        noise: (N, Z).
        start: z before the first step, (B, Z).
        sizes: rows of each step; they never grow.

    Differentiable once.
    """
    return PosteriorSteps(*_PosteriorChain.apply(data_share, noise, start, *weights, share, sizes))


class _PosteriorChain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        data_share: Tensor,  # d (N, H)
        noise: Tensor,  # ε (N, Z)
        start: Tensor,  # (B, Z)
        in_weight: Tensor,  # W (H, Z)
        in_bias: Tensor,  # b (H,)
        out_weight: Tensor,  # V (2Z, H)
        out_bias: Tensor,  # c (2Z,)
        share: float,
        sizes: list[int],
    ) -> tuple[Tensor, ...]:
        into, out_of = PrepackedWeight(in_weight), PrepackedWeight(out_weight)
        # Both hold the bias at first, and are changed step by step: u (N, H), (μ, s) (N, 2Z).
        activated, outputs = (bias.repeat(len(noise), 1) for bias in (in_bias, out_bias))
        combined = torch.empty_like(data_share)  # h (N, H)
        means, spreads = outputs.chunk(2, dim=1)
        stds, zs, z = torch.empty_like(noise), torch.empty_like(noise), start
        rows = (data_share, activated, combined, outputs, means, spreads, noise, stds, zs)
        for step in zip(*(t.split(sizes) for t in rows), strict=True):
            data_t, activated_t, combined_t, outputs_t, mean, spread, noise_t, std, z_t = step
            addmm_(activated_t, z[: len(activated_t)], into).tanh_()
            torch.add(data_t, activated_t, alpha=share, out=combined_t)
            addmm_(outputs_t, combined_t, out_of)
            torch.sqrt(F.softplus(spread).add_(VARIANCE_FLOOR), out=std)
            z = torch.addcmul(mean, std, noise_t, out=z_t)
        means, spreads = means.contiguous(), spreads.contiguous()
        previous = previous_rows(zs, start, sizes)  # z_{t-1} (N, Z)
        kept = noise, stds, previous, activated, combined, spreads
        ctx.save_for_backward(in_weight, out_weight, *kept)
        ctx.share, ctx.sizes, ctx.start_shape = share, sizes, start.shape
        return means, stds, zs, previous

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_mean: Tensor, grad_std: Tensor, grad_z: Tensor, grad_previous: Tensor
    ) -> tuple[Tensor | None, ...]:
        in_weight, out_weight, noise, std, previous, activated, combined, spread = ctx.saved_tensors
        share, sizes = ctx.share, ctx.sizes
        into_transposed = PrepackedWeight(share * in_weight.T)
        out_of_transposed = PrepackedWeight(out_weight.T)
        slope = torch.sigmoid(spread).div_(std).mul_(0.5)  # dσ/ds (N, Z)
        # Of (μ, s), (N, 2Z): at first what comes from μ and σ as outputs.
        grad_outputs = torch.cat([grad_mean, grad_std * slope], dim=1)
        grad_data, grad_a = torch.empty_like(activated), torch.empty_like(activated)  # (N, H)
        rows = (grad_outputs, *grad_outputs.chunk(2, dim=1), noise * slope, activated)
        rows += (grad_data, grad_a, grad_previous)
        grad_zs = grad_z.clone().split(sizes)
        grad_start = noise.new_zeros(ctx.start_shape)
        steps = zip(
            *(t.split(sizes) for t in rows),
            grad_zs,
            [grad_start, *grad_zs[:-1]],  # of z_{t-1}
            strict=True,
        )
        for step in reversed(list(steps)):
            grad_outputs_t, grad_mean_t, grad_spread_t, slope_t, activated_t, *step = step
            grad_data_t, grad_a_t, grad_previous_t, grad_z_t, grad_z_before = step
            grad_mean_t += grad_z_t
            grad_spread_t.addcmul_(grad_z_t, slope_t)
            matmul_out(grad_data_t, grad_outputs_t, out_of_transposed)
            tanh_backward(grad_data_t, activated_t, grad_input=grad_a_t)
            addmm_(grad_z_before[: len(grad_a_t)].add_(grad_previous_t), grad_a_t, into_transposed)
        return (
            *(grad_data, None, grad_start),
            *(share * weight_gradient(grad_a, previous), share * grad_a.sum(0)),
            *(weight_gradient(grad_outputs, combined), grad_outputs.sum(0), None, None),
        )
