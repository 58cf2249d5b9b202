"""What a model from outside the package must be able to do. It subclasses nothing of ours.

Axes in this order: T time, K samples, B batch, then D data. x (T, B, D) is float32 in the units of
the task, zero past the end of each sequence; lengths (B,) is int64; both are on the CPU. A model
may return tensors on any device or NumPy arrays: log-densities in nats, of x in those units. Steps
past a sequence's end are ignored. A model that has the methods of several protocols is scored by
the first of `ExactModel`, `StepwiseModel` and `SampledModel`.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


class LogProb(Protocol):
    """An exact log-likelihood as a plain function."""

    def __call__(self, x: Tensor, lengths: Tensor, /) -> Tensor:
        """Return log p(x) of each sequence, (B,), or log p(x_t | x_<t) of each step, (T, B)."""
        ...


@runtime_checkable
class ExactModel(Protocol):
    """An exact log-likelihood as a method."""

    def log_prob(self, x: Tensor, lengths: Tensor, /) -> Tensor:
        """Return log p(x) of each sequence, (B,), or log p(x_t | x_<t) of each step, (T, B)."""
        ...


@runtime_checkable
class SampledModel(Protocol):
    """A latent variable model with a proposal over whole sequences."""

    def propose(
        self, x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator, /
    ) -> tuple[Tensor, Tensor]:
        """Draw z_k ~ q(z | x), k = 1 … K, and return log p(x, z_k) and log q(z_k | x).

        Both (K, B), or per step (T, K, B). Every random number comes from `generator`; K is
        `num_samples`, and what is returned of one sample does not depend on K.
        """
        ...


@runtime_checkable
class StepwiseModel(Protocol):
    """A latent variable model that proposes step by step, as the particle filter needs."""

    def initial(self, x: Tensor, lengths: Tensor, num_samples: int, /) -> tuple[Tensor, ...]:
        """Return the state before the first step: a tuple of tensors (K, B, ·)."""
        ...

    def step(
        self, state: tuple[Tensor, ...], x: Tensor, t: int, generator: torch.Generator, /
    ) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Draw z_t ~ q(z_t | z_<t, x) and return the next state, log p and log q, (K, B) each.

        log p is log p(x_t, z_t | x_<t, z_<t), log q is log q(z_t | z_<t, x). x is the whole batch,
        (T, B, D), and t counts from 0: q may look ahead, p may not.
        """
        ...


class NumpyLogProb(Protocol):
    """`LogProb` of NumPy arrays, for `repro.from_numpy`."""

    def __call__(self, x: np.ndarray, lengths: np.ndarray, /) -> Any:
        """Return log p(x), (B,), or log p(x_t | x_<t), (T, B)."""
        ...


@runtime_checkable
class NumpySampledModel(Protocol):
    """`SampledModel` of NumPy arrays, for `repro.from_numpy`."""

    def propose(
        self, x: np.ndarray, lengths: np.ndarray, num_samples: int, rng: np.random.Generator, /
    ) -> tuple[Any, Any]:
        """Return log p(x, z) and log q(z | x), (K, B) or (T, K, B); all randomness from `rng`."""
        ...
