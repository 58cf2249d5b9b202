"""The families, one sequence (T, D) and one draw of noise (T, Z) at a time.

Each returns, per step, (log_likelihood, log_prior, log_proposal, kl) as scalars.
"""

import cmath

import torch

from .parts import (
    clipped,
    gaussian,
    gelu,
    head_log_prob,
    kl_divergence,
    layer_norm,
    linear,
    lstm,
    mlp,
    normal_log_density,
    softplus,
    torch_drives,
    torch_gru,
    torch_lstm,
    torch_relu_rnn,
)


def rnn(p, sizes, x, noise):
    h = c = x.new_zeros(sizes["hidden"])
    terms = []
    for x_t in x:
        terms.append(scored(p, sizes, h, x_t))
        features = mlp(p, "features", x_t)
        if sizes.get("cell", "lstm") == "lstm":
            h, c = torch_lstm(p, "lstm", features, h, c)
        elif sizes["cell"] == "gru":
            h = torch_gru(p, "cell", features, h)
        else:
            h = torch.tanh(sum(torch_drives(p, "cell", features, h)))
    return terms


def autoregressive(p, sizes, x, layers):
    """Every step from the outputs `layers` gives for all features, one step back."""
    features = [mlp(p, "features", x_t) for x_t in x]
    past = [x.new_zeros(sizes["hidden"]), *layers(features)]
    return [scored(p, sizes, h, x_t) for h, x_t in zip(past, x, strict=False)]


def scored(p, sizes, h, x_t):
    """A step's terms without z; a model with z takes h_{t-1} itself."""
    if "past_family" in sizes:
        return h
    zero = x_t.new_zeros(())
    return head_log_prob(p, mlp(p, "decoder", h), x_t), zero, zero, zero


def latent_autoregressive(p, sizes, x, noise):
    inner = {name.removeprefix("layers."): v for name, v in p.items() if name.startswith("layers.")}
    terms = []
    for h, x_t, eps in zip(
        globals()[sizes["past_family"]](inner, sizes, x, noise), x, noise, strict=True
    ):
        read = torch.cat([mlp(inner, "features", x_t), h])
        mean_q, std_q = gaussian(p, "posterior", mlp(p, "encoder", read))
        z = mean_q + std_q * eps
        mean_p, std_p = gaussian(p, "prior.1", mlp(p, "prior.0", h))
        decoded = mlp(p, "decoder", torch.cat([mlp(p, "features_z", z), h]))
        terms.append(
            (
                head_log_prob(p, decoded, x_t),
                normal_log_density(z, mean_p, std_p),
                normal_log_density(z, mean_q, std_q),
                kl_divergence(mean_q, std_q, mean_p, std_p),
            )
        )
    return terms


def blocks(p, sizes, features, mixer):
    """Residual blocks over all steps; `mixer(name, inputs)` returns an output per step."""
    hidden = [linear(p, "embedding", v) for v in features]
    for i in range(sizes["blocks"]):
        name = f"blocks.{i}"
        mixed = mixer(f"{name}.mixer", [layer_norm(p, f"{name}.norm", h) for h in hidden])
        hidden = [h + y for h, y in zip(hidden, mixed, strict=True)]
        if f"{name}.feedforward.layers.1.weight" in p:
            layers = f"{name}.feedforward.layers"
            inside = [linear(p, f"{layers}.1", layer_norm(p, f"{layers}.0", h)) for h in hidden]
            hidden = [
                h + linear(p, f"{layers}.3", gelu(v)) for h, v in zip(hidden, inside, strict=True)
            ]
    return [layer_norm(p, "norm", h) for h in hidden]


def transformer(p, sizes, x, noise):
    width = sizes["hidden"] // sizes["heads"]

    def rotated(v, t):
        angle = [t / 10_000 ** (2 * i / width) for i in range(width // 2)]
        pairs = [torch.complex(v[i], v[i + width // 2]) for i in range(width // 2)]
        turned = [z * cmath.exp(1j * a) for z, a in zip(pairs, angle, strict=True)]
        return torch.stack([z.real for z in turned] + [z.imag for z in turned])

    def attention(name, inputs):
        projected = [linear(p, f"{name}.inputs", v).view(3, sizes["heads"], width) for v in inputs]
        outputs = []
        for t, (queries, _, _) in enumerate(projected):
            heads = []
            for i in range(sizes["heads"]):
                seen = range(max(0, t + 1 - sizes["context"]), t + 1)
                q = rotated(queries[i], t)
                scores = [q @ rotated(projected[s][1, i], s) / width**0.5 for s in seen]
                weights = torch.softmax(torch.stack(scores), 0)
                heads.append(
                    sum(w * projected[s][2, i] for w, s in zip(weights, seen, strict=True))
                )
            outputs.append(linear(p, f"{name}.output", torch.cat(heads)))
        return outputs

    return autoregressive(p, sizes, x, lambda features: blocks(p, sizes, features, attention))


def tcn(p, sizes, x, noise):
    def convolved(name, inputs, dilation):
        weights = p[f"{name}.linear.weight"].chunk(sizes["kernel"], dim=1)  # the last is of now
        outputs = []
        for t in range(len(inputs)):
            total = p[f"{name}.linear.bias"]
            for i, weight in enumerate(reversed(weights)):
                if t >= i * dilation:
                    total = total + weight @ inputs[t - i * dilation]
            outputs.append(torch.relu(total))
        return outputs

    def layers(features):
        hidden = [linear(p, "embedding", v) for v in features]
        for i in range(sizes["blocks"]):
            inside = convolved(f"blocks.{i}.first", hidden, 2**i)
            inside = convolved(f"blocks.{i}.second", inside, 2**i)
            hidden = [torch.relu(h + v) for h, v in zip(hidden, inside, strict=True)]
        return hidden

    return autoregressive(p, sizes, x, layers)


def minimal_rnn(p, sizes, x, noise):
    width = sizes["hidden"]

    def mixer(name, inputs):
        h, outputs = torch.zeros_like(inputs[0]), []
        for v in inputs:
            drive, *gates = linear(p, f"{name}.inputs", v).split(width)
            candidate = torch.where(drive >= 0, drive + 0.5, torch.sigmoid(drive))
            gates = [torch.sigmoid(gate) for gate in gates]
            if sizes["minimal_cell"] == "mingru":
                h = (1 - gates[0]) * h + gates[0] * candidate
            else:
                h = (gates[0] * h + gates[1] * candidate) / (gates[0] + gates[1])
            outputs.append(linear(p, f"{name}.output", h))
        return outputs

    return autoregressive(p, sizes, x, lambda features: blocks(p, sizes, features, mixer))


def lru(p, sizes, x, noise):
    """The complex state as a pair of reals, each multiplied out."""

    def mixer(name, inputs):
        radius = torch.exp(-torch.exp(p[f"{name}.log_decay_rate"]))
        phase, scale = (torch.exp(p[f"{name}.log_{what}"]) for what in ("phase", "scale"))
        cos, sin = radius * torch.cos(phase), radius * torch.sin(phase)
        real = imaginary = x.new_zeros(sizes["states"])
        outputs = []
        for v in inputs:
            drive = linear(p, f"{name}.inputs", v)
            real, imaginary = (
                cos * real - sin * imaginary + scale * drive[: len(scale)],
                sin * real + cos * imaginary + scale * drive[len(scale) :],
            )
            mixed = linear(p, f"{name}.outputs", torch.cat([real, imaginary]))
            value, gate = linear(p, f"{name}.gated", gelu(mixed + p[f"{name}.direct"] * v)).chunk(2)
            outputs.append(value * torch.sigmoid(gate))
        return outputs

    return autoregressive(p, sizes, x, lambda features: blocks(p, sizes, features, mixer))


def mamba(p, sizes, x, noise):
    """Channel by channel, state by state."""

    def silu(v):
        return v * torch.sigmoid(v)

    def mixer(name, inputs):
        weights, rank = p[f"{name}.taps"][:, 0], p[f"{name}.step_size.weight"].shape[1]
        channels, count = weights.shape[1], sizes["states"]
        past = [x.new_zeros(channels)] * len(weights)
        states = [[x.new_zeros(()) for _ in range(count)] for _ in range(channels)]
        outputs = []
        for v in inputs:
            entering, gate = linear(p, f"{name}.inputs", v).split(channels)
            past = [*past[1:], entering]
            convolved = sum(w * before for w, before in zip(weights, past, strict=True))
            u = silu(convolved + p[f"{name}.taps_bias"])
            selected = linear(p, f"{name}.selection", u)
            low_rank, write, read = selected.split([rank, count, count])
            step = softplus(linear(p, f"{name}.step_size", low_rank))
            mixed = []
            for c in range(channels):
                total = p[f"{name}.direct"][c] * u[c]
                for n in range(count):
                    rate = torch.exp(p[f"{name}.log_rates"][n, 0, c])
                    kept = torch.exp(-step[c] * rate) * states[c][n]
                    states[c][n] = kept + step[c] * write[n] * u[c]
                    total = total + read[n] * states[c][n]
                mixed.append(total)
            outputs.append(linear(p, f"{name}.output", torch.stack(mixed) * silu(gate)))
        return outputs

    return autoregressive(p, sizes, x, lambda features: blocks(p, sizes, features, mixer))


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


def vae(p, sizes, x, noise):
    terms = []
    for x_t, eps in zip(x, noise, strict=True):
        mean, std = gaussian(p, "posterior", mlp(p, "encoder", x_t, torch.tanh))
        z = mean + std * eps
        zero, one = torch.zeros_like(z), torch.ones_like(z)
        terms.append(
            (
                head_log_prob(p, mlp(p, "decoder", z, torch.tanh), x_t),
                normal_log_density(z, zero, one),
                normal_log_density(z, mean, std),
                kl_divergence(mean, std, zero, one),
            )
        )
    return terms


def storn(p, sizes, x, noise):
    g = gc = x.new_zeros(sizes["recognition"])
    h = c = x.new_zeros(sizes["hidden"])
    before, terms = torch.zeros_like(x[0]), []
    for x_t, eps in zip(x, noise, strict=True):
        g, gc = torch_lstm(p, "recognition.lstm", x_t, g, gc)
        mean, std = gaussian(p, "posterior", g)
        z = mean + std * eps
        gates = linear(p, "cell_x", before) + linear(p, "cell_z", z) + linear(p, "cell_h", h)
        h, c = lstm(gates, c)
        zero, one = torch.zeros_like(z), torch.ones_like(z)
        terms.append(
            (
                head_log_prob(p, mlp(p, "decoder", h), x_t),
                normal_log_density(z, zero, one),
                normal_log_density(z, mean, std),
                kl_divergence(mean, std, zero, one),
            )
        )
        before = x_t
    return terms


def srnn(p, sizes, x, noise):
    d, dc, ds = x.new_zeros(sizes["hidden"]), x.new_zeros(sizes["hidden"]), []
    for before in [torch.zeros_like(x[0]), *x[:-1]]:
        features = mlp(p, "features", before, clipped)
        d, dc = torch_lstm(p, "forwards.lstm", features, d, dc)
        ds.append(d)
    a, ac, smoothed = x.new_zeros(sizes["smoother"]), x.new_zeros(sizes["smoother"]), []
    for d, x_t in zip(reversed(ds), reversed(x.unbind()), strict=True):
        features = mlp(p, "features", x_t, clipped)
        a, ac = torch_lstm(p, "backwards.lstm", torch.cat([d, features]), a, ac)
        smoothed.insert(0, a)
    z, terms = x.new_zeros(sizes["latent"]), []
    for x_t, eps, d, a in zip(x, noise, ds, smoothed, strict=True):
        first = clipped(linear(p, "prior_d", d) + linear(p, "prior_z", z))
        mean_p, std_p = gaussian(p, "prior_layer", mlp(p, "prior", first, clipped))
        first = clipped(linear(p, "posterior_a", a) + linear(p, "posterior_z", z))
        residual, std = gaussian(p, "posterior_layer", mlp(p, "posterior", first, clipped))
        mean = mean_p + residual
        z = mean + std * eps
        decoded = mlp(p, "decoder", torch.cat([z, d]), clipped)
        terms.append(
            (
                head_log_prob(p, decoded, x_t),
                normal_log_density(z, mean_p, std_p),
                normal_log_density(z, mean, std),
                kl_divergence(mean, std, mean_p, std_p),
            )
        )
    return terms


def tsbn(p, sizes, x, noise):
    z, before, terms = x.new_zeros(sizes["latent"]), torch.zeros_like(x[0]), []
    for x_t, eps in zip(x, noise, strict=True):
        prior = torch.sigmoid(linear(p, "prior_z", z) + known(p, "prior_x", before))
        q = linear(p, "posterior_z", z) + linear(p, "posterior_x", torch.cat([x_t, before]))
        q = torch.sigmoid(q)
        uniform = 0.5 * torch.erfc(-eps / 2**0.5)
        z = (uniform < q.detach()).to(x.dtype)
        features = torch.cat([z, before]) if sizes["previous_x"] else z
        terms.append(
            (
                head_log_prob(p, features, x_t),
                (z * prior.log() + (1 - z) * (1 - prior).log()).sum(),
                (z * q.log() + (1 - z) * (1 - q).log()).sum(),
                (q * (q / prior).log() + (1 - q) * ((1 - q) / (1 - prior)).log()).sum(),
            )
        )
        before = x_t
    return terms


def sbn(p, sizes, x, noise):
    terms, depth = [], len(sizes["layers"])
    for x_t, eps in zip(x, noise, strict=True):
        below, z, q = x_t, [], []
        for i, eps_l in enumerate(eps.split(sizes["layers"])):
            q.append(torch.sigmoid(linear(p, f"up.{i - 1}" if i else "first", below)))
            below = (0.5 * torch.erfc(-eps_l / 2**0.5) < q[-1].detach()).to(x.dtype)
            z.append(below)
        priors = [torch.sigmoid(linear(p, f"down.{i}", z[i + 1])) for i in range(depth - 1)]
        priors.append(torch.sigmoid(p["top"]))
        log_priors = [bernoulli(b, r) for b, r in zip(z, priors, strict=True)]
        log_q = [bernoulli(b, r) for b, r in zip(z, q, strict=True)]
        negative_entropies = [bernoulli(r, r) for r in q]
        last = bernoulli(q[-1], priors[-1])
        terms.append(
            (
                head_log_prob(p, z[0], x_t),
                sum(log_priors),
                sum(log_q),
                sum(negative_entropies) - sum(log_priors[:-1]) - last,
            )
        )
    return terms


def bernoulli(b, r):
    return (b * r.log() + (1 - b) * (1 - r).log()).sum()


def known(p, name, v):
    return linear(p, name, v) if f"{name}.weight" in p else 0.0


def recognition(p, sizes, x):
    """Return the function (t, z_{t-1}) → mean and std of q(z_t)."""
    embedded = x
    if sizes["embedding"]:
        embedded = [torch.relu(linear(p, "inference.embedding", x_t)) for x_t in x]
    structure, _, directions = sizes["inference_network"].partition("-")
    states = [[] for _ in x]
    for k, direction in enumerate(directions):
        h = x.new_zeros(sizes["inference_hidden"])
        c = h + sizes["initial_cell"]
        for t in reversed(range(len(x))) if direction == "r" else range(len(x)):
            if sizes.get("inference_cell") == "relu":
                h = torch_relu_rnn(p, f"inference.rnns.{k}.rnn", embedded[t], h)
            else:
                h, c = torch_lstm(p, f"inference.rnns.{k}.lstm", embedded[t], h, c)
            states[t].append(h)

    def mean_field(t, previous):
        factors = [
            gaussian(p, f"inference.posteriors.{k}", h, variance=True)
            for k, h in enumerate(states[t])
        ]
        precision = sum(1 / std**2 for _, std in factors)
        return sum(mean / std**2 for mean, std in factors) / precision, precision**-0.5

    def structured(t, previous):
        combined = torch.tanh(linear(p, "inference.from_latent", previous)) + sum(states[t])
        combined = combined / (1 + len(directions))
        return gaussian(p, "inference.posterior", combined, variance=True)

    return mean_field if structure == "mf" else structured


def flow(p, name, z):
    """One inverse autoregressive flow, value by value: y, and its log-determinant."""
    size = len(z)
    order = list(range(size))
    if name.endswith(".1"):  # every second flow runs the other way
        order.reverse()
    W, a = p[f"{name}.read.weight"], p[f"{name}.read.bias"]
    V, c = p[f"{name}.write.weight"], p[f"{name}.write.bias"]
    hidden = []
    for k in range(len(a)):
        known = order[: k % max(size - 1, 1) + 1]
        hidden.append(torch.relu(a[k] + sum(W[k, i] * z[i] for i in known)))
    y, log_det = [], 0.0
    for i in range(size):
        earlier = order.index(i)
        units = [k for k in range(len(a)) if k % max(size - 1, 1) + 1 <= earlier]
        shift = c[i] + sum(V[i, k] * hidden[k] for k in units)
        raw = c[size + i] + sum(V[size + i, k] * hidden[k] for k in units)
        log_scale = 3 * torch.tanh(raw / 3)
        y.append(torch.exp(log_scale) * z[i] + shift)
        log_det = log_det + log_scale
    return torch.stack(y), log_det


def dmm(p, sizes, x, noise):
    def with_previous(z, t):
        if not sizes.get("previous_x"):
            return z
        return torch.cat([z, x[t - 1] if t else torch.zeros_like(x[0])])

    posterior = recognition(p, sizes, x)
    previous, terms = x.new_zeros(sizes["latent"]), []
    for t, (x_t, eps) in enumerate(zip(x, noise, strict=True)):
        mean_q, std_q = posterior(t, previous)
        z = mean_q + std_q * eps
        log_q = normal_log_density(z, mean_q, std_q)
        for k in range(sizes.get("flows", 0)):
            z, log_det = flow(p, f"flows.{k}", z)
            log_q = log_q - log_det
        if t == 0:
            mean_p, std_p = torch.zeros_like(z), torch.ones_like(z)
        else:
            mean_p, std_p = gated_transition(p, previous, with_previous(previous, t))
        hidden = mlp(p, "emission", with_previous(z, t))
        log_p = normal_log_density(z, mean_p, std_p)
        kl = log_q - log_p
        if not sizes.get("flows"):
            kl = kl_divergence(mean_q, std_q, mean_p, std_p)
        terms.append((head_log_prob(p, hidden, x_t), log_p, log_q, kl))
        previous = z
    return terms


def fixed_linear(p, sizes, x, noise):
    posterior = recognition(p, sizes, x)
    previous, terms = x.new_zeros(len(p["b"])), []
    for t, (x_t, eps) in enumerate(zip(x, noise, strict=True)):
        mean_q, std_q = posterior(t, previous)
        z = mean_q + std_q * eps
        mean_p = p["A"] @ previous + p["b"]
        terms.append(
            (
                normal_log_density(x_t, p["C"] @ z + p["d"], p["emission_std"]),
                normal_log_density(z, mean_p, p["transition_std"]),
                normal_log_density(z, mean_q, std_q),
                kl_divergence(mean_q, std_q, mean_p, p["transition_std"]),
            )
        )
        previous = z
    return terms


def two_parameters(p, sizes, x, noise):
    posterior = recognition(p, sizes, x)
    previous, terms = x.new_zeros(2), []
    for t, (x_t, eps) in enumerate(zip(x, noise, strict=True)):
        mean_q, std_q = posterior(t, previous)
        z = mean_q + std_q * eps
        mean_p = torch.stack(
            [
                0.2 * previous[0] + torch.tanh(p["alpha"] * previous[1]),
                0.2 * previous[1] + torch.sin(p["beta"] * previous[0]),
            ]
        )
        unit = torch.ones_like(z)
        terms.append(
            (
                normal_log_density(x_t, 0.5 * z, p["emission_std"]),
                normal_log_density(z, mean_p, unit),
                normal_log_density(z, mean_q, std_q),
                kl_divergence(mean_q, std_q, mean_p, unit),
            )
        )
        previous = z
    return terms


def gated_transition(p, z, inputs):
    name = "transition"
    gate = torch.sigmoid(
        linear(p, f"{name}.gate", torch.relu(linear(p, f"{name}.gate_hidden", inputs)))
    )
    proposed = linear(
        p, f"{name}.proposed", torch.relu(linear(p, f"{name}.proposed_hidden", inputs))
    )
    mean = (1 - gate) * linear(p, f"{name}.linear_mean", z) + gate * proposed
    variance = softplus(linear(p, f"{name}.variance", torch.relu(proposed))) + 1e-8
    return mean, variance.sqrt()
