"""The families, one sequence (T, D) and one draw of noise (T, Z) at a time.

Each returns, per step, (log_likelihood, log_prior, log_proposal, kl) as scalars.
"""

import torch

from .parts import (
    gaussian,
    head_log_prob,
    kl_divergence,
    linear,
    lstm,
    mlp,
    normal_log_density,
    softplus,
    torch_lstm,
)


def rnn(p, sizes, x, noise):
    h = c = x.new_zeros(sizes["hidden"])
    zero, terms = x.new_zeros(()), []
    for x_t in x:
        terms.append((head_log_prob(p, mlp(p, "decoder", h), x_t), zero, zero, zero))
        h, c = torch_lstm(p, "lstm", mlp(p, "features", x_t), h, c)
    return terms


def vrnn(p, sizes, x, noise):
    h = c = x.new_zeros(sizes["hidden"])
    terms = []
    for x_t, eps in zip(x, noise, strict=True):
        features_x = mlp(p, "features_x", x_t)
        first = torch.relu(linear(p, "encoder_x", features_x) + linear(p, "encoder_h", h))
        mean_q, std_q = gaussian(p, "posterior", mlp(p, "encoder", first))
        z = mean_q + std_q * eps
        if sizes["prior"]:
            mean_p, std_p = gaussian(p, "prior.1", mlp(p, "prior.0", h))
        else:
            mean_p, std_p = torch.zeros_like(z), torch.ones_like(z)
        features_z = mlp(p, "features_z", z)
        decoded = mlp(p, "decoder", torch.cat([features_z, h]))
        terms.append(
            (
                head_log_prob(p, decoded, x_t),
                normal_log_density(z, mean_p, std_p),
                normal_log_density(z, mean_q, std_q),
                kl_divergence(mean_q, std_q, mean_p, std_p),
            )
        )
        gates = linear(p, "cell_x", features_x) + linear(p, "cell_z", features_z)
        h, c = lstm(gates + linear(p, "cell_h", h), c)
    return terms


def dmm(p, sizes, x, noise):
    embedded = [torch.relu(linear(p, "inference.embedding", x_t)) for x_t in x]
    directions = {"st-l": [False], "st-r": [True], "st-lr": [False, True]}
    summed = [0.0] * len(x)
    chosen = directions[sizes["inference_network"]]
    for k, backward in enumerate(chosen):
        h = x.new_zeros(sizes["inference_hidden"])
        c = h + sizes["initial_cell"]
        for t in reversed(range(len(x))) if backward else range(len(x)):
            h, c = torch_lstm(p, f"inference.lstms.{k}.lstm", embedded[t], h, c)
            summed[t] = summed[t] + h
    previous, terms = x.new_zeros(sizes["latent"]), []
    for t, (x_t, eps) in enumerate(zip(x, noise, strict=True)):
        combined = torch.tanh(linear(p, "inference.from_latent", previous)) + summed[t]
        combined = combined / (1 + len(chosen))
        mean_q, std_q = gaussian(p, "inference.posterior", combined, variance=True)
        z = mean_q + std_q * eps
        if t == 0:
            mean_p, std_p = torch.zeros_like(z), torch.ones_like(z)
        else:
            mean_p, std_p = gated_transition(p, previous)
        hidden = mlp(p, "emission", z)
        terms.append(
            (
                head_log_prob(p, hidden, x_t),
                normal_log_density(z, mean_p, std_p),
                normal_log_density(z, mean_q, std_q),
                kl_divergence(mean_q, std_q, mean_p, std_p),
            )
        )
        previous = z
    return terms


def gated_transition(p, z):
    name = "transition"
    gate = torch.sigmoid(linear(p, f"{name}.gate", torch.relu(linear(p, f"{name}.gate_hidden", z))))
    proposed = linear(p, f"{name}.proposed", torch.relu(linear(p, f"{name}.proposed_hidden", z)))
    mean = (1 - gate) * linear(p, f"{name}.linear_mean", z) + gate * proposed
    variance = softplus(linear(p, f"{name}.variance", torch.relu(proposed))) + 1e-8
    return mean, variance.sqrt()
