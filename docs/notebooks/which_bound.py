# %% [markdown]
# # Which bound should I report?
#
# A latent variable model has no exact likelihood, and three estimates of it: the ELBO, the
# importance-sampled bound (IS) and the particle filter's (FIVO). All three are below log p(x) on
# average. How far below depends on the length of the sequences, and for sequences of hundreds of
# steps by far more than models differ. Here the truth is known: the model is linear and Gaussian.

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import repro
from repro.data.prepared import save
from repro.tasks.task import of_file

LENGTHS, SAMPLES, SEQUENCES = (10, 30, 100, 250), (10, 30, 100, 300), 6

# %% [markdown]
# z_t = 0.9 z_{t−1} + noise, x_t = z_t + noise, both of standard deviation 1. A few sequences of
# each length are a task of their own.


# %%
def series(steps, rng):
    """Return x, (T, 1)."""
    z, found = 0.0, []
    for _ in range(steps):
        z = 0.9 * z + rng.standard_normal()
        found.append([z + rng.standard_normal()])
    return np.array(found)


def task_of(steps, folder):
    """Return a task whose sequences have so many steps."""
    rng = np.random.default_rng(steps)
    parts = {p: [series(steps, rng) for _ in range(SEQUENCES)] for p in ("train", "valid", "test")}
    path = Path(folder, str(steps), "sequences.safetensors")
    save(parts, f"steps_{steps}", {"kind": "real", "normalise": "per_dimension"}, path)
    return of_file(path, "none needed (simulated)")


# %% [markdown]
# The same model twice: exact, by the Kalman filter in NumPy; and with a proposal that knows x_t but
# not what follows, as an inference network that reads forwards does.


# %%
def exact(x, lengths):
    """Return log p(x_t | x_<t), (T, B)."""
    mean, variance, terms = 0.0, 0.0, []
    for now in x[..., 0]:
        mean, variance = 0.9 * mean, 0.81 * variance + 1.0
        error, spread = now - mean, variance + 1.0
        terms.append(-0.5 * (math.log(2 * math.pi * spread) + error**2 / spread))
        mean, variance = mean + variance / spread * error, variance / spread
    return np.stack(terms)


class Filtering:
    """q(z_t | z_{t−1}, x_t), a little wider than the best one."""

    def initial(self, x, lengths, num_samples):
        return (torch.zeros(num_samples, x.shape[1], 1),)

    def step(self, state, x, t, generator):
        prior = torch.distributions.Normal(0.9 * state[0], 1.0)
        q = torch.distributions.Normal((prior.mean + x[t]) / 2, 0.8)
        z = q.mean + q.stddev * torch.randn(q.mean.shape, generator=generator)
        log_p = prior.log_prob(z) + torch.distributions.Normal(z, 1.0).log_prob(x[t])
        return (z,), log_p.squeeze(-1), q.log_prob(z).squeeze(-1)


# %% [markdown]
# Before any bound is looked at, the model is audited:

# %%
with tempfile.TemporaryDirectory() as folder:
    tasks = {steps: task_of(steps, folder) for steps in LENGTHS}
    audit = repro.audit(Filtering(), tasks[30])
    truth = {n: repro.evaluate(repro.from_numpy(exact), tasks[n]) for n in LENGTHS}
    found = {
        (n, k): repro.evaluate(Filtering(), tasks[n], samples=k, particles=k)
        for n in LENGTHS
        for k in SAMPLES
        if n == LENGTHS[-1] or k == 100
    }

# %% [markdown]
# What is missing of log p(x), per sequence. Ten times as many steps lose ten times as much by the
# ELBO, and by IS as well, once no sample is good at all steps. The particle filter replaces bad
# samples as it goes along.

# %%
METRICS = {"bound": "ELBO", "is": "IS", "fivo": "FIVO"}


def missing(n, k, metric):
    """Return log p(x) less an estimate, in nats per sequence."""
    return truth[n].per_sequence_mean("is") - found[n, k].per_sequence_mean(metric)


for n in LENGTHS:
    short = ", ".join(f"{title} {missing(n, 100, m):.2f}" for m, title in METRICS.items())
    print(f"{n:4} steps, nats missing per sequence with K = 100: {short}")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
for metric, title in METRICS.items():
    left.plot(LENGTHS, [missing(n, 100, metric) for n in LENGTHS], "o-", label=title)
    right.plot(SAMPLES, [missing(LENGTHS[-1], k, metric) for k in SAMPLES], "o-", label=title)
left.set(xscale="log", xlabel="steps of a sequence (K = 100)", ylabel="nats missing per sequence")
right.set(xscale="log", xlabel=f"samples or particles K ({LENGTHS[-1]} steps)")
left.legend(frameon=False)
figure  # noqa: B018

# %% [markdown]
# On real data the truth is not known. The effective sample size is: where it is near 1, one sample
# makes the whole estimate, and more samples would still raise it.

# %%
sizes = {n: float(np.median(found[n, 100].values("ess"))) for n in LENGTHS}
for n, size in sizes.items():
    print(f"{n:4} steps: effective sample size {size:5.1f} of 100")

# %% [markdown]
# So: report the exact likelihood where there is one. Else report the ELBO, which other papers have
# too, beside the better of IS and FIVO, with K and the effective sample size. The tables of this
# repository mark an estimate with † below an effective sample size of 2. For sequences of hundreds
# of steps, FIVO is the number to look at. Compare two models at the same K only.
