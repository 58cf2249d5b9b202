"""Models as somebody else would write them: nothing of the package's, none of its classes.

Each takes the true parameters of `linear_gaussian` or is small and untrained; all are proper
densities. test_audit.py plants bugs into them.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

A, B0, Q, C, D0, R = 1.0, 0.05, 10.0, 0.5, 0.0, 20.0  # linear_gaussian in config/datasets.yaml
LOG_2PI = math.log(2 * math.pi)


def kalman(x, lengths, q=Q, r=R):
    """Log p(x_t | x_<t) of linear_gaussian, (T, B), by the Kalman filter in NumPy."""
    steps, batch, _ = x.shape
    mean, variance, terms = np.zeros(batch), 0.0, np.zeros((steps, batch))
    for t in range(steps):
        mean, variance = A * mean + B0, A * A * variance + q
        spread = C * C * variance + r
        error = x[t, :, 0] - (C * mean + D0)
        terms[t] = -0.5 * (LOG_2PI + np.log(spread) + error**2 / spread)
        gain = variance * C / spread
        mean, variance = mean + gain * error, (1 - gain * C) * variance
    return terms


class HMM:
    """Two states, independent bits: log p(x) of each sequence, by the forward algorithm."""

    def __init__(self, dim, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.bits = torch.rand(2, dim, generator=g) * 0.8 + 0.1
        self.transition = torch.tensor([[0.9, 0.1], [0.3, 0.7]]).log()
        self.first = torch.tensor([0.6, 0.4]).log()

    def log_prob(self, x, lengths):
        emission = x @ self.bits.log().T + (1 - x) @ (1 - self.bits).log().T  # (T, B, 2)
        alpha = self.first + emission[0]
        for t in range(1, len(x)):
            after = torch.logsumexp(alpha.unsqueeze(-1) + self.transition, 1) + emission[t]
            alpha = torch.where((t < lengths).unsqueeze(-1), after, alpha)
        return torch.logsumexp(alpha, -1)


class Transformer(nn.Module):
    """A causal transformer over binary frames, one layer: log p(x_t | x_<t), (T, B)."""

    def __init__(self, dim, width=8):
        super().__init__()
        torch.manual_seed(0)
        self.into, self.out = nn.Linear(dim, width), nn.Linear(width, dim)
        self.layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0)

    def log_prob(self, x, lengths):
        before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
        mask = nn.Transformer.generate_square_subsequent_mask(len(x))
        logits = self.out(self.layer(self.into(before), src_mask=mask))
        return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)


class Frames:
    """A Gaussian of each frame, without time: log p(x_t), (T, B)."""

    def __init__(self, mean, std):
        self.mean, self.std = mean, std

    def log_prob(self, x, lengths):
        return torch.distributions.Normal(self.mean, self.std).log_prob(x).sum(-1)


class StateSpace:
    """linear_gaussian as a latent variable model that proposes from its prior."""

    proposal_std = transition_std = math.sqrt(Q)
    emission_std = math.sqrt(R)

    def initial(self, x, lengths, num_samples):
        return (torch.zeros(num_samples, x.shape[1], 1),)

    def step(self, state, x, t, generator):
        mean = A * state[0] + B0
        noise = torch.randn(mean.shape, generator=generator)
        return self.score(mean, mean + self.proposal_std * noise, x[t])

    def score(self, mean, z, x):
        p = torch.distributions.Normal(mean, self.transition_std).log_prob(z)
        q = torch.distributions.Normal(mean, self.proposal_std).log_prob(z)
        likelihood = torch.distributions.Normal(C * z + D0, self.emission_std).log_prob(x)
        return (z,), (p + likelihood).squeeze(-1), q.squeeze(-1)


class WholeSequences:
    """The same as whole sequences: log p and log q of all steps, (T, K, B)."""

    def __init__(self, steps=StateSpace):
        self.steps = steps()

    def propose(self, x, lengths, num_samples, generator):
        state, terms = self.steps.initial(x, lengths, num_samples), []
        for t in range(len(x)):
            state, *drawn = self.steps.step(state, x, t, generator)
            terms.append(drawn)
        return tuple(torch.stack(field) for field in zip(*terms, strict=True))


class FactorAnalysis:
    """Bits of frames from one latent number a sequence: log p and log q, (K, B)."""

    def __init__(self, dim):
        self.weights = torch.linspace(-2.0, 2.0, dim)

    def propose(self, x, lengths, num_samples, generator):
        z = 1.2 * torch.randn(num_samples, x.shape[1], generator=generator)
        logits = z.unsqueeze(-1) * self.weights  # (K, B, D)
        inside = torch.arange(len(x)).unsqueeze(1) < lengths
        bits = (x.unsqueeze(1) * logits - F.softplus(logits)).sum(-1)  # (T, K, B)
        likelihood = bits.where(inside.unsqueeze(1), 0.0).sum(0)
        normal = torch.distributions.Normal
        return likelihood + normal(0.0, 1.0).log_prob(z), normal(0.0, 1.2).log_prob(z)
