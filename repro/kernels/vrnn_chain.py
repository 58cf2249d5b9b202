"""The time loop of a VRNN, posterior sample and LSTM, over packed rows; backward by hand.

If autograd recorded the small operations of a time step one by one, most of the time would go into
its bookkeeping.

Forward, with layers 1 … n of which layer m is the posterior, noise ε_t, and the shares e_t and r_t
that x_t has in the encoder's first layer and in the gates (biases included):

    y_0 = ReLU(e_t + E h_{t-1})
    (μ_t, s_t) = W_m y_{m-1} + b_m
    σ_t = softplus(s_t) + 1e-4
    y_m = z_t = μ_t + σ_t ε_t
    y_j = ReLU(W_j y_{j-1} + b_j) for every other j;  φ_z(z_t) = y_n
    a_t = r_t + C φ_z(z_t) + R h_{t-1}
    h_t, c_t = the LSTM's cell of a_t and c_{t-1} (`lstm`)

Backward, from the gradients of μ, σ, z, φ_z(z) and h_{t-1} as outputs, and of the last h and c:

    grad_a_t, grad_c_{t-1} from grad_h_t and grad_c_t (`lstm`)
    grad_y_n += grad_a_t C
    for j = n … 1, with grad_p_j the gradient of what layer j returns before its activation:
        grad_p_j = grad_y_j where y_j > 0, else 0
        but grad_p_m = (grad_μ + g, (grad_σ + g ε) sigmoid(s)) with g = grad_z + grad_y_m
        grad_y_{j-1} = grad_p_j W_j;  grad_W_j = grad_p_jᵀ y_{j-1};  grad_b_j = Σ grad_p_j
    grad_e_t = grad_p_0 = grad_y_0 where y_0 > 0, else 0
    grad_h_{t-1} += grad_p_0 E + grad_a_t R
    grad_E = grad_p_0ᵀ h_{t-1};  grad_r = grad_a;  grad_(C, R) = grad_aᵀ (φ_z(z), h_{t-1})
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from repro.kernels.backward import relu_backward
from repro.kernels.floors import STD_FLOOR
from repro.kernels.lstm import cell_backward, cell_forward, gates_by_step, gates_of
from repro.kernels.matmul import PrepackedWeight, addmm_, product, weight_gradient


class VRNNSteps(NamedTuple):
    """q(z_t)'s mean and std, z_t, φ_z(z_t) and h_{t-1}, (N, ·) each."""

    mean: Tensor
    std: Tensor
    z: Tensor
    features_z: Tensor
    hidden: Tensor


class VRNNWeights(NamedTuple):
    """The weights of a step; E is the width of the encoder's first layer.

    Attributes:
        encoder_h: h_{t-1} to the encoder's first layer, (E, H).
        cell_h, cell_z: h_{t-1} and φ_z(z_t) to the LSTM's gates, (4H, ·).
        layers: weight and bias of each layer after the encoder's first, in order of computation:
            the encoder's others, the posterior's (2Z, ·), those of φ_z.
        depth: the index of the posterior in `layers`.
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
    weights: VRNNWeights,
) -> tuple[VRNNSteps, Tensor, Tensor]:
    """Return the rows of all steps, and each sequence's last hidden and cell state, (B, H).

    Draws z_t ~ q(z_t | h_{t-1}, x_t), then h_t = LSTM([φ_x(x_t), φ_z(z_t)], h_{t-1}) (Chung et al.
    2015, equations 7 and 9). The shares of φ_x(x_t) include the biases of the encoder's first layer
    and of the gates. Differentiable once.

    Args:
        encoder_share: (N, E), the rows of one step after those of another (`packing`).
        cell_share: (N, 4H). noise: (N, Z).
        hidden, cell: before the first step, (B, H).
        sizes: rows of each step; they never grow.
    """
    *matrices, layers, depth = weights
    flat = [tensor for layer in layers for tensor in layer]
    inputs = encoder_share, cell_share, noise, hidden, cell
    *rows, last_hidden, last_cell = _VRNNChain.apply(sizes, depth, *inputs, *matrices, *flat)
    return VRNNSteps(*rows), last_hidden, last_cell


class _VRNNChain(torch.autograd.Function):
    # Layer j + 1 of the module's equations has index j in the lists; `outputs` are y_0 … y_n.

    @staticmethod
    def forward(
        ctx: Any,
        sizes: list[int],
        depth: int,
        encoder_share: Tensor,  # e (N, E)
        cell_share: Tensor,  # r (N, 4H)
        noise: Tensor,  # ε (N, Z)
        hidden: Tensor,  # (B, H)
        cell: Tensor,  # (B, H)
        encoder_h: Tensor,  # E (E, H)
        cell_h: Tensor,  # R (4H, H)
        cell_z: Tensor,  # C (4H, ·)
        *flat: Tensor,  # W_1, b_1, W_2, …
    ) -> tuple[Tensor, ...]:
        latent, width = noise.shape[1], hidden.shape[1]
        to_encoder = PrepackedWeight(encoder_h)
        to_gates = PrepackedWeight(torch.cat([cell_z, cell_h], dim=1))
        layers = [(PrepackedWeight(w), b) for w, b in zip(flat[::2], flat[1::2], strict=True)]
        first_layer, all_gates = encoder_share.clone(), cell_share.clone()
        h, c, steps, ended = hidden, cell, [], []
        rows = (t.split(sizes) for t in (first_layer, all_gates, noise))
        for first_t, gates_t, noise_t in zip(*rows, strict=True):
            size = len(noise_t)
            if size < len(h):
                ended.append((h[size:], c[size:]))
                h, c = h[:size], c[:size]
            outputs = [addmm_(first_t, h, to_encoder).relu_()]
            for j, (weight, bias) in enumerate(layers):
                output = product(outputs[-1], weight, bias)
                if j == depth:
                    mean, spread = output.split(latent, dim=1)
                    std = F.softplus(spread).add_(STD_FLOOR)
                    outputs.append(torch.addcmul(mean, std, noise_t))
                else:
                    outputs.append(output.relu_())
            inputs = torch.cat([outputs[-1], h], dim=1)
            addmm_(gates_t, inputs, to_gates)
            candidate = torch.tanh(gates_t[:, 2 * width : 3 * width])
            gates = gates_of(gates_t.sigmoid_())._replace(candidate=candidate)
            after = cell_forward(gates, c)
            posterior = mean, std, spread
            steps.append((*posterior, h, inputs, c, candidate, after.tanh_cell, *outputs[1:]))
            h, c = after.hidden, after.cell
        last = (torch.cat(state) for state in zip((h, c), *reversed(ended), strict=True))
        means, stds, spreads, *kept = (torch.cat(field) for field in zip(*steps, strict=True))
        hiddens, inputs, cells, candidates, tanh_cells, *outputs = kept
        states = inputs, cells, all_gates, candidates, tanh_cells, first_layer
        ctx.save_for_backward(
            *(noise, spreads, encoder_h, cell_h, cell_z, *flat), hiddens, *states, *outputs
        )
        ctx.sizes, ctx.depth, ctx.layers = sizes, depth, len(layers)
        return means, stds, outputs[depth], outputs[-1], hiddens, *last

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_mean: Tensor,
        grad_std: Tensor,
        grad_z: Tensor,
        grad_features_z: Tensor,
        grad_before: Tensor,  # of h_{t-1} as an output
        grad_last_hidden: Tensor,
        grad_last_cell: Tensor,
    ) -> tuple[Tensor | None, ...]:
        noise, spread, encoder_h, cell_h, cell_z, *saved = ctx.saved_tensors
        weights, kept = saved[: 2 * ctx.layers : 2], saved[2 * ctx.layers :]
        hiddens, inputs, cells, all_gates, candidates, tanh_cells, *outputs = kept
        sizes, depth, latent, width = ctx.sizes, ctx.depth, noise.shape[1], hiddens.shape[1]
        into_h = PrepackedWeight(encoder_h.T)
        into_inputs = PrepackedWeight(torch.cat([cell_z, cell_h], dim=1).T)
        into = [PrepackedWeight(weight.T) for weight in weights]
        slope = torch.sigmoid(spread)  # dσ/ds (N, Z)
        gates = gates_of(all_gates)._replace(candidate=candidates)
        grad_gates = gates_of(torch.empty_like(all_gates))  # of the pre-activations
        # grad_p_0 … grad_p_n, (N, ·) each; of the posterior's, at first what comes from μ and σ.
        grad_pre = [torch.empty_like(output) for output in outputs]
        grad_pre[depth + 1] = torch.cat([grad_mean, grad_std * slope], dim=1)
        grad_inputs = torch.cat([grad_features_z, grad_before], dim=1)
        # Of each sequence's state after the current step, (B, H); at first, after its last step.
        grad_hidden, grad_cell = grad_last_hidden.clone(), grad_last_cell.clone()
        rows = (grad_z, grad_inputs, noise * slope, cells, tanh_cells, *outputs, *grad_pre)
        steps = zip(
            *(gates_by_step(each, sizes) for each in (gates, grad_gates)),
            *(t.split(sizes) for t in rows),
            strict=True,
        )
        for gates_t, grad_gates_t, *step in reversed(list(steps)):
            grad_z_t, grad_inputs_t, slope_t, cell_before, tanh_cell, *step = step
            outputs_t, grad_pre_t = step[: len(outputs)], step[len(outputs) :]
            h, c = grad_hidden[: len(grad_z_t)], grad_cell[: len(grad_z_t)]
            cell_backward(h, c, gates_t, cell_before, tanh_cell, grad_gates_t, out=c)
            addmm_(grad_inputs_t, grad_gates_t.all, into_inputs)
            grad_output, grad_h = grad_inputs_t.tensor_split([-width], dim=1)
            for j in reversed(range(len(into))):
                grad_p = grad_pre_t[j + 1]
                if j == depth:
                    grad_output += grad_z_t
                    grad_p[:, :latent] += grad_output
                    grad_p[:, latent:].addcmul_(grad_output, slope_t)
                else:
                    relu_backward(grad_output, outputs_t[j + 1], 0, grad_input=grad_p)
                grad_output = product(grad_p, into[j])
            relu_backward(grad_output, outputs_t[0], 0, grad_input=grad_pre_t[0])
            torch.add(product(grad_pre_t[0], into_h), grad_h, out=h)
        grad_cell_weights = weight_gradient(grad_gates.all, inputs)
        grad_cell_z, grad_cell_h = grad_cell_weights.tensor_split([-width], dim=1)
        layers = zip(outputs[:-1], grad_pre[1:], strict=True)
        flat = (g for y, grad_p in layers for g in (weight_gradient(grad_p, y), grad_p.sum(0)))
        return (
            *(None, None, grad_pre[0], grad_gates.all, None, grad_hidden, grad_cell),
            *(weight_gradient(grad_pre[0], hiddens), grad_cell_h, grad_cell_z, *flat),
        )
