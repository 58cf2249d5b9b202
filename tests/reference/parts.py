"""Equations that several models share, on vectors."""

import itertools
import math

import torch


def mlp(p, name, v, bend=torch.relu):
    """Layers called name.0, name.2, …"""
    i = 0
    while f"{name}.{i}.weight" in p:
        v = bend(p[f"{name}.{i}.weight"] @ v + p[f"{name}.{i}.bias"])
        i += 2
    return v


def clipped(v):
    leaky = torch.where(v > 0, v, v / 3)  # at 0, where biases begin, with torch's slope
    return torch.where(leaky.abs() > 3, 3 * leaky.sign(), leaky)


def linear(p, name, v):
    out = p[f"{name}.weight"] @ v
    return out + p[f"{name}.bias"] if f"{name}.bias" in p else out


def layer_norm(p, name, v):
    centred = v - v.mean()
    scaled = centred / torch.sqrt((centred**2).mean() + 1e-5)
    return scaled * p[f"{name}.weight"] + p[f"{name}.bias"]


def gelu(v):
    return v * 0.5 * (1 + torch.erf(v / 2**0.5))


def softplus(v):
    return torch.log(1 + torch.exp(v))


def gaussian(p, name, v, variance=False):
    out = linear(p, f"{name}.linear", v)
    half = len(out) // 2
    if variance:
        return out[:half], torch.sqrt(softplus(out[half:]) + 1e-8)
    return out[:half], softplus(out[half:]) + 1e-4


def normal_log_density(x, mean, std):
    return sum(
        -0.5 * math.log(2 * math.pi) - torch.log(s) - (v - m) ** 2 / (2 * s**2)
        for v, m, s in zip(x, mean, std, strict=True)
    )


def kl_divergence(mean_q, std_q, mean_p, std_p):
    return sum(
        torch.log(sp / sq) + (sq**2 + (mq - mp) ** 2) / (2 * sp**2) - 0.5
        for mq, sq, mp, sp in zip(mean_q, std_q, mean_p, std_p, strict=True)
    )


def head_log_prob(p, features, x):
    if "head.logits.weight" in p:
        probability = torch.sigmoid(linear(p, "head.logits", features))
        return (x * probability.log() + (1 - x) * (1 - probability).log()).sum()
    if "head.read" in p and "head.write" not in p:
        return rbm_log_prob(p, features, x)
    if "head.read" in p:
        made = "head.ranks" in p
        return made_log_prob(p, features, x) if made else nade_log_prob(p, features, x)
    if "head.lift.weight" in p:
        return stroke_log_prob(p, features, x)
    if "head.lstm.weight_hh_l0" in p:
        return frame_log_prob(p, features, x)
    mean, std = gaussian(p, "head.layer", features)
    if "head.weights.weight" not in p:
        return normal_log_density(x, mean, std)
    weights = torch.softmax(linear(p, "head.weights", features), dim=0)
    dim = len(x)
    density = sum(
        w * torch.exp(normal_log_density(x, mean[m * dim :][:dim], std[m * dim :][:dim]))
        for m, w in enumerate(weights)
    )
    return density.log()


def stroke_log_prob(p, features, x):
    """Bernoulli of x[0] and a mixture of bivariate normals, by the covariance's inverse."""
    lift = torch.sigmoid(linear(p, "head.lift", features))[0]
    weights = torch.softmax(linear(p, "head.weights", features), dim=0)
    rho = 0.999 * torch.tanh(linear(p, "head.correlation", features))
    mean, std = gaussian(p, "head.layer", features)
    density = 0.0
    for m, w in enumerate(weights):
        d, s = x[1:] - mean[2 * m :][:2], std[2 * m :][:2]
        cross = rho[m] * s[0] * s[1]
        covariance = torch.stack([torch.stack([s[0] ** 2, cross]), torch.stack([cross, s[1] ** 2])])
        norm = 2 * math.pi * torch.sqrt(torch.linalg.det(covariance))
        density = density + w * torch.exp(-0.5 * d @ torch.linalg.inv(covariance) @ d) / norm
    return density.log() + x[0] * lift.log() + (1 - x[0]) * (1 - lift).log()


def frame_log_prob(p, features, x):
    """One value of the frame after the other."""
    start = linear(p, "head.start", features)
    h, c = torch.tanh(start[: len(start) // 2]), start[len(start) // 2 :]
    value, total = x.new_zeros(1), 0.0
    for x_i in x:
        h, c = torch_lstm(p, "head.lstm", value, h, c)
        out = linear(p, "head.layer.linear", h) + linear(p, "head.direct", features)
        total = total + normal_log_density(x_i[None], out[:1], softplus(out[1:]) + 1e-4)
        value = x_i[None]
    return total


def lstm(gates, c):
    """Gates in the order input, forget, candidate, output."""
    i, f, g, o = gates.reshape(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def torch_lstm(p, name, v, h, c):
    gates = p[f"{name}.weight_ih_l0"] @ v + p[f"{name}.bias_ih_l0"]
    return lstm(gates + p[f"{name}.weight_hh_l0"] @ h + p[f"{name}.bias_hh_l0"], c)


def torch_drives(p, name, v, h):
    """Return what v and h drive a cell with."""
    from_v = p[f"{name}.weight_ih_l0"] @ v + p[f"{name}.bias_ih_l0"]
    return from_v, p[f"{name}.weight_hh_l0"] @ h + p[f"{name}.bias_hh_l0"]


def torch_gru(p, name, v, h):
    """Gates in the order reset, update, new."""
    from_v, from_h = (drive.reshape(3, -1) for drive in torch_drives(p, name, v, h))
    reset, update = torch.sigmoid(from_v[0] + from_h[0]), torch.sigmoid(from_v[1] + from_h[1])
    new = torch.tanh(from_v[2] + reset * from_h[2])
    return (1 - update) * new + update * h


def torch_relu_rnn(p, name, v, h):
    drive = p[f"{name}.weight_ih_l0"] @ v + p[f"{name}.bias_ih_l0"]
    return torch.relu(drive + p[f"{name}.weight_hh_l0"] @ h + p[f"{name}.bias_hh_l0"])


def nade_log_prob(p, features, x):
    """One conditional after the other."""
    activation, total = linear(p, "head.hidden_bias", features), 0.0
    visible = linear(p, "head.visible_bias", features)
    for i, value in enumerate(x):
        hidden = 1 / (1 + torch.exp(-activation))
        probability = 1 / (1 + torch.exp(-(p["head.write"][i] @ hidden + visible[i])))
        total = total + value * probability.log() + (1 - value) * (1 - probability).log()
        activation = activation + value * p["head.read"][i]
    return total


def made_log_prob(p, features, x):
    """Value by value and unit by unit: what each conditional may see, written out."""
    densities = []
    for ranks, degrees in zip(p["head.ranks"].tolist(), p["head.degrees"].tolist(), strict=True):
        hidden_bias = linear(p, "head.hidden_bias", features)
        total = 0.0
        for i in range(len(x)):
            logit = linear(p, "head.visible_bias", features)[i]
            for d in range(len(x)):
                if ranks[d] < ranks[i]:
                    logit = logit + p["head.direct"][i, d] * x[d]
            for k, degree in enumerate(degrees):
                if degree > ranks[i]:
                    continue  # it has seen x_i
                seen = [d for d in range(len(x)) if ranks[d] < degree]
                inside = sum((p["head.read"][k, d] * x[d] for d in seen), hidden_bias[k])
                logit = logit + p["head.write"][i, k] * torch.relu(inside)
            probability = torch.sigmoid(logit)
            total = total + x[i] * probability.log() + (1 - x[i]) * (1 - probability).log()
        densities.append(total)
    return torch.logsumexp(torch.stack(densities), 0) - math.log(len(densities))


def rbm_log_prob(p, features, x):
    """Over every state of both layers."""
    hidden_bias = linear(p, "head.hidden_bias", features)
    visible_bias = linear(p, "head.visible_bias", features)

    def states(n):
        return [x.new_tensor(bits) for bits in itertools.product([0.0, 1.0], repeat=n)]

    def weight(v):
        energies = [v @ visible_bias + h @ (hidden_bias + p["head.read"] @ v) for h in hidden]
        return torch.stack(energies).exp().sum()

    hidden = states(len(hidden_bias))
    return (weight(x) / sum(weight(v) for v in states(len(x)))).log()
