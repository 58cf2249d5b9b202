"""The chain of a VRNN, posterior sample and LSTM step by step, over packed rows; backward by hand.

Written one by one, a time step's small operations spend most of their time in autograd.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import relu_backward, sigmoid_backward, tanh_backward
from repro.kernels.floors import STD_FLOOR
from repro.kernels.matmul import PrepackedWeight, addmm_, product, weight_gradient


class Chain(NamedTuple):
    """q(z_t)'s mean and std, z_t, φ_z(z_t) and h_{t-1}, (N, ·) each."""

    mean: Tensor
    std: Tensor
    z: Tensor
    features_z: Tensor
    hidden: Tensor


class Weights(NamedTuple):
    """What a step multiplies with; E is the width of the encoder's first layer.

    Attributes:
        encoder_h: h_{t-1} to the encoder's first layer, (E, H).
        cell_h, cell_z: h_{t-1} and φ_z(z_t) to the LSTM's gates, (4H, ·).
        layers: weight and bias in turn, in the order in which z_t and φ_z(z_t) are made of the
            first layer: the encoder's others, the posterior's (2Z, ·), those of φ_z.
        depth: at which place in `layers` the posterior stands.
    """

    encoder_h: Tensor
    cell_h: Tensor
    cell_z: Tensor
    layers: list[tuple[Tensor, Tensor]]
    depth: int


def vrnn_chain(
    encoder_share: Tensor,
    cell_share: Tensor,
    noise: Tensor,
    hidden: Tensor,
    cell: Tensor,
    sizes: list[int],
    weights: Weights,
) -> tuple[Chain, Tensor, Tensor]:
    """Draw z_t ~ q(z_t | h_{t-1}, x_t), then h_t = LSTM([φ_x(x_t), φ_z(z_t)], h_{t-1}).

    std = softplus(·) + 1e-4 (Chung et al. 2015, equations 7 and 9). The shares of φ_x(x_t) hold
    the biases of the encoder's first layer and of the gates.

    Args:
        encoder_share: (N, E), the rows of one step after those of another (`packing`).
        cell_share: (N, 4H). noise: (N, Z).
        hidden, cell: before the first step, (B, H).
        sizes: rows of each step; they never grow.
    Returns:
        the rows of all steps, and hidden and cell state of each sequence after its last step,
        (B, H). Differentiable once.
    """
    *matrices, layers, depth = weights
    flat = [tensor for layer in layers for tensor in layer]
    inputs = encoder_share, cell_share, noise, hidden, cell
    *rows, last_hidden, last_cell = _Chain.apply(sizes, depth, *inputs, *matrices, *flat)
    return Chain(*rows), last_hidden, last_cell


class _Chain(torch.autograd.Function):
    # `bents` are what a step makes in turn: the encoder's first layer, …, z_t, …, φ_z(z_t).
    # Layer j makes the one at place j + 1 of the one at place j.

    @staticmethod
    def forward(
        ctx: Any,
        sizes: list[int],
        depth: int,
        encoder_share: Tensor,
        cell_share: Tensor,
        noise: Tensor,
        hidden: Tensor,
        cell: Tensor,
        encoder_h: Tensor,
        cell_h: Tensor,
        cell_z: Tensor,
        *flat: Tensor,
    ) -> tuple[Tensor, ...]:
        latent, width = noise.shape[1], hidden.shape[1]
        to_encoder, to_gates = (
            PrepackedWeight(encoder_h),
            PrepackedWeight(torch.cat([cell_z, cell_h], dim=1)),
        )
        layers = [(PrepackedWeight(w), b) for w, b in zip(flat[::2], flat[1::2], strict=True)]
        first_layer, gates = encoder_share.clone(), cell_share.clone()
        h, c, steps, ended = hidden, cell, [], []
        rows = (t.split(sizes) for t in (first_layer, gates, noise))
        for first_t, gates_t, noise_t in zip(*rows, strict=True):
            going = len(noise_t)
            if going < len(h):
                ended.append((h[going:], c[going:]))
                h, c = h[:going], c[:going]
            bents = [addmm_(first_t, h, to_encoder).relu_()]
            for place, (weight, bias) in enumerate(layers):
                bent = product(bents[-1], weight, bias)
                if place == depth:
                    mean, spread = bent.split(latent, dim=1)
                    std = F.softplus(spread).add_(STD_FLOOR)
                    bents.append(torch.addcmul(mean, std, noise_t))
                else:
                    bents.append(bent.relu_())
            inputs = torch.cat([bents[-1], h], dim=1)
            addmm_(gates_t, inputs, to_gates)
            g = torch.tanh(gates_t[:, 2 * width : 3 * width])
            i, f, _, o = gates_t.sigmoid_().split(width, dim=1)
            after = torch.mul(f, c).addcmul_(i, g)
            opened = torch.tanh(after)
            steps.append((mean, std, spread, h, inputs, c, g, opened, *bents[1:]))
            h, c = torch.mul(o, opened), after
        last = (torch.cat(state) for state in zip((h, c), *reversed(ended), strict=True))
        means, stds, spreads, *kept = (torch.cat(field) for field in zip(*steps, strict=True))
        hiddens, inputs, cells, candidates, opened, *bents = kept
        states = inputs, cells, gates, candidates, opened, first_layer
        ctx.save_for_backward(
            *(noise, spreads, encoder_h, cell_h, cell_z, *flat), hiddens, *states, *bents
        )
        ctx.sizes, ctx.depth, ctx.layers = sizes, depth, len(layers)
        return means, stds, bents[depth], bents[-1], hiddens, *last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        to_mean: Tensor,
        to_std: Tensor,
        to_z: Tensor,
        to_features: Tensor,
        to_before: Tensor,
        last_hidden: Tensor,
        last_cell: Tensor,
    ) -> tuple[Tensor | None, ...]:
        noise, spread, encoder_h, cell_h, cell_z, *saved = ctx.saved_tensors
        weights, kept = saved[: 2 * ctx.layers : 2], saved[2 * ctx.layers :]
        hiddens, inputs, cells, gates, g, opened, *bents = kept
        sizes, depth, latent, width = ctx.sizes, ctx.depth, noise.shape[1], hiddens.shape[1]
        into_h, into_inputs = (
            PrepackedWeight(encoder_h.T),
            PrepackedWeight(torch.cat([cell_z, cell_h], dim=1).T),
        )
        into = [PrepackedWeight(weight.T) for weight in weights]
        slope = torch.sigmoid(spread)  # dσ/ds
        raw = torch.empty_like(gates)  # gradient of what the gates were before their bend
        # The gradients of what the layers' outputs were before theirs; the first layer's first.
        pres = [torch.empty_like(bent) for bent in bents]
        pres[depth + 1] = torch.cat([to_mean, to_std * slope], dim=1)
        to_inputs = torch.cat([to_features, to_before], dim=1)
        # What flows back into a sequence's state begins with what its last state is owed.
        to_hidden, to_cell = last_hidden.clone(), last_cell.clone()
        rows = (
            *(to_z, to_inputs, noise * slope, cells, g, opened),
            *(gates, *gates.split(width, dim=1), raw, *raw.split(width, dim=1)),
            *(*bents, *pres),
        )
        for step in reversed(list(zip(*(t.split(sizes) for t in rows), strict=True))):
            to_z_t, to_inputs_t, slope_t, cell, g_t, opened_t, *step = step
            all_t, i, f, _, o, raw_t, raw_i, raw_f, raw_g, raw_o, *step = step
            bents_t, pres_t = step[: len(bents)], step[len(bents) :]
            h, c = to_hidden[: len(i)], to_cell[: len(i)]
            torch.mul(h, opened_t, out=raw_o)
            h *= o
            c += tanh_backward(h, opened_t, grad_input=h)
            torch.mul(c, g_t, out=raw_i)
            torch.mul(c, cell, out=raw_f)
            sigmoid_backward(raw_t, all_t, grad_input=raw_t)  # the candidate's part comes next
            tanh_backward(c * i, g_t, grad_input=raw_g)
            c *= f
            addmm_(to_inputs_t, raw_t, into_inputs)
            back, to_h = to_inputs_t.tensor_split([-width], dim=1)
            for place in reversed(range(len(into))):
                pre = pres_t[place + 1]
                if place == depth:
                    back += to_z_t
                    pre[:, :latent] += back
                    pre[:, latent:].addcmul_(back, slope_t)
                else:
                    relu_backward(back, bents_t[place + 1], 0, grad_input=pre)
                back = product(pre, into[place])
            relu_backward(back, bents_t[0], 0, grad_input=pres_t[0])
            torch.add(product(pres_t[0], into_h), to_h, out=h)
        to_cell_z, to_cell_h = weight_gradient(raw, inputs).tensor_split([-width], dim=1)
        layers = zip(bents[:-1], pres[1:], strict=True)
        flat = (g for bent, pre in layers for g in (weight_gradient(pre, bent), pre.sum(0)))
        return (
            *(None, None, pres[0], raw, None, to_hidden, to_cell),
            *(weight_gradient(pres[0], hiddens), to_cell_h, to_cell_z, *flat),
        )
