"""Models of other frameworks, and the glue by which the package scores them.

The first part is what users of Pyro, JAX, Hugging Face's transformers, statsmodels, hmmlearn and
scikit-learn have already. The second part is what they add: at most 15 lines each, which
test_foreign.py counts. The third part is wrong.
"""

from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from foreign_models import B0, D0, A, C, Q, R
from hmmlearn.hmm import CategoricalHMM
from pyro import poutine
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter
from torch import nn
from torch.nn import functional as F

# What users have


class PyroDMM(nn.Module):
    """A deep Markov model of bits: gated transition, backward RNN in the guide. Batch second."""

    def __init__(self, dim, latent=2, hidden=5, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.latent = latent
        self.gate, self.proposed = nn.Linear(latent, latent), nn.Linear(latent, latent)
        self.spread, self.emission = nn.Linear(latent, latent), nn.Linear(latent, dim)
        self.backwards = nn.GRU(dim, hidden)
        self.combine, self.posterior = nn.Linear(latent, hidden), nn.Linear(hidden, 2 * latent)

    def model(self, x, lengths):
        with pyro.plate("sequences", x.shape[1]):
            z = torch.zeros(x.shape[1], self.latent)
            for t in range(len(x)):
                with poutine.mask(mask=t < lengths):
                    gate = torch.sigmoid(self.gate(z))
                    mean = (1 - gate) * z + gate * torch.tanh(self.proposed(z))
                    std = F.softplus(self.spread(z)) + 0.1
                    z = pyro.sample(f"z_{t}", dist.Normal(mean, std).to_event(1))
                    bits = dist.Bernoulli(logits=self.emission(z)).to_event(1)
                    pyro.sample(f"x_{t}", bits, obs=x[t])

    def guide(self, x, lengths):
        hidden = self.backwards(x.flip(0))[0].flip(0)
        with pyro.plate("sequences", x.shape[1]):
            z = torch.zeros(x.shape[1], self.latent)
            for t in range(len(x)):
                with poutine.mask(mask=t < lengths):
                    combined = torch.tanh(self.combine(z)) + hidden[t]
                    mean, raw = self.posterior(combined).chunk(2, -1)
                    q = dist.Normal(mean, F.softplus(raw) + 0.5).to_event(1)
                    z = pyro.sample(f"z_{t}", q)


class CausalLM(nn.Module):
    """A decoder of tokens with the call of Hugging Face's: batch first, `.logits` and `.loss`."""

    def __init__(self, vocabulary, width=8, positions=64, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.token, self.place = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        self.attend, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, input_ids, attention_mask, labels=None):
        hidden = self.token(input_ids) + self.place.weight[: input_ids.shape[1]]
        q, k, v = self.attend(self.norm(hidden)).chunk(3, -1)
        causal = torch.ones(len(q[0]), len(q[0]), dtype=torch.bool).tril()
        mask = causal & attention_mask.bool().unsqueeze(1)
        heard = F.scaled_dot_product_attention(q, k, v, mask | torch.eye(len(q[0])).bool())
        logits = self.head(hidden + self.dropout(self.merge(heard)))
        if labels is None:
            return SimpleNamespace(logits=logits)
        losses = F.cross_entropy(logits[:, :-1].mT, labels[:, 1:], reduction="none")
        return SimpleNamespace(logits=logits, loss=losses.mean())


def jax_kalman():
    """The Kalman filter of linear_gaussian as users of JAX write it: log p(x_t | x_<t), (T, B)."""
    import jax
    import jax.numpy as jnp

    def step(carry, x):
        mean, variance = carry
        mean, variance = A * mean + B0, A * A * variance + Q
        spread = C * C * variance + R
        error = x - (C * mean + D0)
        gain = variance * C / spread
        log_p = jax.scipy.stats.norm.logpdf(error, scale=jnp.sqrt(spread))
        return (mean + gain * error, (1 - gain * C) * variance), log_p

    @jax.jit
    def log_prob(x):
        start = (jnp.zeros(x.shape[1]), jnp.zeros(x.shape[1]))
        return jax.lax.scan(step, start, x[:, :, 0])[1]

    return log_prob


def statsmodels_kalman(series, **changes):
    """linear_gaussian for statsmodels, bound to a series (T, 1)."""
    filter = KalmanFilter(k_endog=1, k_states=1, **changes)
    filter["transition"], filter["state_intercept"] = [[A]], [B0]
    filter["design"], filter["obs_intercept"] = [[C]], [D0]
    filter["selection"], filter["state_cov"], filter["obs_cov"] = [[1.0]], [[Q]], [[R]]
    filter.initialize_known(np.array([B0]), np.array([[Q]]))
    filter.bind(series.astype(float))
    return filter


def hmmlearn_hmm(start, transition, emission):
    """An HMM of tokens with given tables."""
    found = CategoricalHMM(n_components=len(start), n_features=emission.shape[1])
    found.startprob_, found.transmat_, found.emissionprob_ = start, transition, emission
    return found


def gaussian_of_frames(frames, scaled):
    """A pipeline of scikit-learn's, fitted to frames (N, D)."""
    scalers = [StandardScaler()] if scaled else []
    return make_pipeline(*scalers, GaussianMixture(1)).fit(frames)


def kernels_of_frames(frames):
    """A kernel density of frames (N, D)."""
    return KernelDensity(bandwidth=3.0).fit(frames)


# What they add


class FromPyro:
    def __init__(self, model, guide):
        self.model, self.guide = model, guide

    def propose(self, x, lengths, num_samples, generator):
        with torch.random.fork_rng(devices=[]), pyro.plate("samples", num_samples, dim=-2):
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            q = poutine.trace(self.guide).get_trace(x, lengths)
            p = poutine.trace(poutine.replay(self.model, q)).get_trace(x, lengths)
        return self.total(p), self.total(q)

    def total(self, trace):
        trace.compute_log_prob()
        own = (site for name, site in trace.nodes.items() if name[:2] in ("x_", "z_"))
        return sum(site["log_prob"] for site in own)


class FromTokens:
    def __init__(self, language_model, start):
        self.language_model, self.start = language_model, start  # start: a token of no frame

    def log_prob(self, x, lengths):
        tokens = (x @ 2.0 ** torch.arange(x.shape[-1])).long().T  # (B, T)
        before = torch.cat([torch.full_like(tokens[:, :1], self.start), tokens[:, :-1]], 1)
        mask = torch.arange(len(x)) < lengths.unsqueeze(1)
        logits = self.language_model(before, attention_mask=mask).logits[..., : self.start]
        return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1))[..., 0].T


def from_jax(log_prob):
    return lambda x, lengths: log_prob(x)


def from_statsmodels(filter_of):
    def log_prob(x, lengths):
        found = np.zeros(x.shape[:2])
        for b, length in enumerate(lengths):
            found[:length, b] = filter_of(x[:length, b]).loglikeobs()
        return found

    return log_prob


def from_hmmlearn(hmm):
    def log_prob(x, lengths):
        tokens = (x @ 2 ** np.arange(x.shape[-1])).astype(int)  # (T, B)
        return np.array([hmm.score(tokens[:n, b : b + 1]) for b, n in enumerate(lengths)])

    return log_prob


def from_scikit_learn(density):
    return lambda x, n: density.score_samples(x.reshape(-1, x.shape[-1])).reshape(x.shape[:2])


# The same with mistakes that they make


class NotShifted(FromTokens):
    """The logits of token t are scored against token t."""

    def log_prob(self, x, lengths):
        tokens = (x @ 2.0 ** torch.arange(x.shape[-1])).long().T
        logits = self.language_model(tokens, torch.ones_like(tokens)).logits[..., : self.start]
        return logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1))[..., 0].T


class MeanLoss(FromTokens):
    """The loss of transformers is a mean over tokens, and of the batch."""

    def log_prob(self, x, lengths):
        tokens = (x @ 2.0 ** torch.arange(x.shape[-1])).long().T
        tokens = torch.cat([torch.full_like(tokens[:, :1], self.start), tokens], 1)
        one = torch.ones_like(tokens)
        return -self.language_model(tokens, one, labels=tokens).loss.expand(len(lengths))


class Unseeded(FromPyro):
    """Pyro draws from torch's own generator, whatever generator is given."""

    def propose(self, x, lengths, num_samples, generator):
        with pyro.plate("samples", num_samples, dim=-2):
            q = poutine.trace(self.guide).get_trace(x, lengths)
            p = poutine.trace(poutine.replay(self.model, q)).get_trace(x, lengths)
        return self.total(p), self.total(q)


class OneSeed(FromPyro):
    """The seed is set in the model, so that every call draws the same samples."""

    def propose(self, x, lengths, num_samples, generator):
        return super().propose(x, lengths, num_samples, torch.Generator().manual_seed(0))


class Unmasked(PyroDMM):
    """The mask is forgotten, in model and guide."""

    def model(self, x, lengths):
        super().model(x, torch.full_like(lengths, len(x)))

    def guide(self, x, lengths):
        super().guide(x, torch.full_like(lengths, len(x)))


def language_model(task):
    return CausalLM(2**task.dim + 1)
