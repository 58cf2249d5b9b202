"""The one interface between models and everything else.

Axes, everywhere in this order: T time, K samples, B batch, then D data, Z latent or H hidden.
All log-densities are in nats.
"""

import warnings
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repro.config.traits import Traits
from repro.data.checks import Moments
from repro.errors import ConfigError
from repro.heads.made import MadeHead
from repro.heads.rbm import RbmHead
from repro.kernels import dispatch
from repro.kernels.packing import Packing
from repro.models import time_loop
from repro.models.terms import Layer, Terms, gaussian_terms, without_latent
from repro.nn.dropout import Dropout

# Everything that a family's file needs, a user's own too.
__all__ = ["Layer", "ModelSpec", "SequenceModel", "Terms", "gaussian_terms", "without_latent"]
RENAMED_METHODS = {"watched": "logged_scalars", "draw_masks_from": "set_generator"}


class ModelSpec(NamedTuple):
    """What is needed to build a model: its entry in the configuration, and its data.

    Attributes:
        name, family, head, sizes: of the model; `head` is the one that fits the data's kind.
        dim: D. mean, std: normalisation of each dimension, (D,). options: of the data set.
    """

    name: str
    family: str
    head: str
    sizes: dict
    dim: int
    mean: list[float]
    std: list[float]
    options: dict


class SequenceModel(nn.Module):
    """A deterministic function of data and noise.

    A latent family implements `encode`, `initial`, `propose` and `score`; only `propose` runs in
    the time loop. A family without latent variables sets `latent = 0` and overrides `advance`.
    `traits` says what the family is like; `true_latents` is True if z means the same as in the
    generator of the data, so that both can be compared; `can_continue` is False if `advance` cannot
    take a state, because recurrences over x would have to continue too; `always_from_data` is True
    if training calls `initialise_from_data` whatever the settings are.
    """

    latent: int = 0
    traits = Traits()
    true_latents: bool = False
    can_continue: bool = True
    always_from_data: bool = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for old, new in RENAMED_METHODS.items():  # users' own files may still define them
            if old in vars(cls):
                message = f"{cls.__name__}.{old} is now called {new}; the old name goes in 0.3."
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                setattr(cls, new, vars(cls)[old])

    @property
    def can_stack(self) -> bool:
        """Whether models of different seeds can train as one (`repro.training.stacked`).

        They cannot if z is trained by a score function, or if a module has `can_stack = False`: its
        computation depends on values, draws random numbers, or has no rule for `torch.vmap`.
        """
        inside = (module for module in self.modules() if module is not self)
        return not self.traits.discrete and all(getattr(m, "can_stack", True) for m in inside)

    @property
    def estimates_z(self) -> bool:
        """Whether its likelihood depends on an estimated normaliser, which takes long."""
        inside = (module for module in self.modules() if module is not self)
        return any(getattr(module, "estimates_z", False) for module in inside)

    def set_generator(self, generator: torch.Generator) -> None:
        """Set the generator of dropout masks, MADE's orders and Gibbs steps.

        These are the random numbers of training that are not in the `noise` of `forward`.
        """
        for module in self.modules():
            if isinstance(module, Dropout | MadeHead | RbmHead):
                module.generator = generator

    def initialise_from_data(self, train: Iterable[Tensor]) -> None:
        """Initialise the observation distribution at the moments of the training part.

        Args:
            train: its sequences, (T, D) each.
        Raises:
            ConfigError: the family has no head that can be initialised in this way.
        """
        head: Any = getattr(self, "head", None)
        if not hasattr(head, "initialise_from_data"):
            raise ConfigError(
                f"{type(self).__name__} has no head that can be initialised from data: "
                "remove `initialise_from_data` from its training."
            )
        moments = Moments()
        for x in train:  # one at a time: the training part may not fit into memory
            moments.add(x.double().cpu().numpy(), axis=0)
        variance = moments.variance * moments.count / max(moments.count - 1, 1)
        mean, std = (torch.from_numpy(m).to(x) for m in (moments.mean, np.sqrt(variance)))
        head.initialise_from_data(mean, std, moments.count)

    @property
    def logged_scalars(self) -> dict[str, float]:
        """Learned numbers by name, such as a physical parameter, to be logged at each epoch."""
        return {}

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return what needs no z, all steps at once: a NamedTuple of (T, 1, B, ·) tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no latent variables to encode for")

    def encode_after(self, state: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return what `encode` returns, for steps that follow a state of `advance`.

        A family whose encoding looks back overrides it: the step before x is in `state`.
        """
        return self.encode(x, lengths)

    def encode_rows(self, x: Tensor, lengths: Tensor, rows: Packing) -> Any:
        """Return `encode`'s result without padding, (1, N, ·) tensors; `rows` has their indices."""
        return time_loop.pack(self.encode(x, lengths), rows)

    def initial(self, num_samples: int, x: Tensor) -> tuple[Tensor, ...]:
        """Return the state before the first step, (K, B, ·) tensors; x (T, B, D)."""
        raise NotImplementedError(f"{type(self).__name__} has no state")

    def propose(
        self, context: Any, state: Any, noise: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Draw z_t ~ q and advance: return the next state and what `score` needs of this step.

        Args:
            context: one step of `encode`'s result, (1, B, ·).
            state: (K, B, ·).
            noise: standard normal (K, B, Z).
        """
        raise NotImplementedError(f"{type(self).__name__} proposes nothing")

    def score(self, context: Any, steps: Any) -> Terms:
        """Return the terms of any number of steps at once, from (T, ·, B, ·) tensors."""
        raise NotImplementedError(f"{type(self).__name__} scores in forward")

    def propose_rows(
        self, context: Any, state: Any, noise: Tensor, sizes: list[int]
    ) -> tuple[Any, Any]:
        """Run the time loop over packed rows; return all steps and each sequence's last state.

        Here `propose` is called step by step; a family may have a hand-written recurrence.

        Args:
            context, noise: (·, N, ·), the rows of one step after those of another (`packing`).
            state: (K, B, ·), longest sequence first.
            sizes: rows of each step; they never grow.
        """
        return time_loop.propose_rows(self, context, state, noise, sizes)

    def surrogate(self, x: Tensor, lengths: Tensor, terms: Terms, weight: float) -> Tensor | None:
        """Return what training maximises besides the ELBO; None for a reparameterised family.

        A scalar whose gradient is the part of the ELBO's that does not flow through `terms`; its
        value means nothing.

        Args:
            x, lengths: as for `forward`. terms: of this x. weight: β of the KL.
        """
        return None

    def sample(self, num: int, steps: int, generator: torch.Generator) -> Tensor:
        """Return `num` sequences drawn from the model, (T, B, D), in normalised units."""
        raise NotImplementedError(f"{type(self).__name__} cannot sample")

    def forward(
        self, x: Tensor, lengths: Tensor, noise: Tensor, steps_at_once: int | None = None
    ) -> Terms:
        """Return the per-step terms of each sequence for K samples.

        Args:
            x: (T, B, D), zero past each length.
            lengths: (B,).
            noise: standard normal (T, K, B, Z).
            steps_at_once: how many steps `score` handles together; None for all. The result is
                the same; few steps bound the memory of many samples.
        """
        return self.advance(x, lengths, noise, None, steps_at_once)[0]

    def advance(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: Any = None,
        steps_at_once: int | None = None,
    ) -> tuple[Terms, Any]:
        """Return the terms of a segment of each sequence, and the state after it.

        Args:
            state: what the call on the segment before returned, a NamedTuple of (K, B, ·) tensors;
                None at the start of the sequences. The others as for `forward`.
        """
        if state is not None and not self.can_continue:
            raise ConfigError(
                f"{type(self).__name__} cannot continue from the state of an earlier segment: its "
                "recurrences over x start again in each. Give it whole sequences."
            )
        if steps_at_once is None and x.device.type == "cpu" and not dispatch.current().plain:
            return time_loop.packed_terms(self, x, lengths, noise, state)
        return time_loop.padded_terms(self, x, lengths, noise, state, steps_at_once)
