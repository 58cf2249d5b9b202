"""The one interface between models and everything else.

Axes, everywhere in this order: T time, K samples, B batch, then D data, Z latent or H hidden.
All log-densities are in nats.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from repro.config.traits import Traits
from repro.data.checks import Moments
from repro.errors import ConfigError
from repro.heads.made import MadeHead
from repro.heads.rbm import RbmHead
from repro.kernels import dispatch
from repro.kernels.linear import deferred_weight_gradients
from repro.kernels.packing import Packing, packing
from repro.nn.dropout import Dropout
from repro.nn.gaussian import Gaussian, kl

RENAMED = {"watched": "logged_scalars", "draw_masks_from": "set_generator"}


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


class Layer(NamedTuple):
    """One layer's share of a step's `kl` and `log_proposal`, (T, K, B) each."""

    kl: Tensor
    log_proposal: Tensor


class Terms(NamedTuple):
    """Per-step terms of log p(x), (T, K, B) each, zero past each sequence's end.

    Attributes:
        log_likelihood: log p(x_t | z_≤t, x_<t).
        log_prior: log p(z_t | z_<t, x_<t) at the sample.
        log_proposal: log q(z_t | z_<t, x) at the sample.
        kl: analytic KL(q ‖ p) of the step given the sampled past, or None where there is none.
        layers: where a step has several layers of discrete latents, the shares of each in turn as
            they are drawn; a layer is in no share before its own.
        distributions: q(z_t | ·) and p(z_t | ·) of the steps that `score` was given, where the
            family shows them: Gaussians, or logits of binary z, of (T, ·, B, Z). What is done to
            the terms (`each`) is not done to them: they are left behind.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_proposal: Tensor
    kl: Tensor | None
    layers: tuple[Layer, ...] = ()
    distributions: tuple[Gaussian, Gaussian] | tuple[Tensor, Tensor] | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Terms":
        """Return the terms changed one by one; an absent KL stays absent."""
        return Terms(
            change(self.log_likelihood),
            change(self.log_prior),
            change(self.log_proposal),
            None if self.kl is None else change(self.kl),
            tuple(Layer(*(change(share) for share in layer)) for layer in self.layers),
        )

    @property
    def log_weight(self) -> Tensor:
        """log p(x_t, z_t | ·) − log q(z_t | ·), (T, K, B)."""
        return self.log_likelihood + self.log_prior - self.log_proposal


class SequenceModel(nn.Module):
    """A deterministic function of data and noise.

    A latent family implements `encode`, `initial`, `propose` and `score`; only `propose` runs in
    the time loop. A family without latent variables sets `latent = 0` and overrides `advance`.
    `traits` says what the family is like; `true_latents` is True where z means what it meant to the
    generator of the data, so that it can be compared; `can_continue` is False where `advance`
    cannot take a state, because recurrences over x would have to go on, too; `always_from_data` is
    True where training calls `initialise_from_data` unasked.
    """

    latent: int = 0
    traits = Traits()
    true_latents: bool = False
    can_continue: bool = True
    always_from_data: bool = False

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        for old, new in RENAMED.items():  # users' own files may still define them
            if old in vars(cls):
                message = f"{cls.__name__}.{old} is now called {new}; the old name goes in 0.3."
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                setattr(cls, new, vars(cls)[old])

    @property
    def can_stack(self) -> bool:
        """Whether several of it, of different seeds, can train as one (`repro.training.stacked`).

        Not where z needs a score function, and not where a module says `can_stack = False`: its
        computation depends on values, it draws random numbers, or it needs a kernel of torch's.
        """
        inside = (module for module in self.modules() if module is not self)
        return not self.traits.discrete and all(getattr(m, "can_stack", True) for m in inside)

    @property
    def estimates_z(self) -> bool:
        """Whether its likelihood rests on an estimate of a normaliser, which takes long."""
        inside = (module for module in self.modules() if module is not self)
        return any(getattr(module, "estimates_z", False) for module in inside)

    def set_generator(self, generator: torch.Generator) -> None:
        """Let dropout, the choice of MADE's order and Gibbs steps come from it, beside `noise`."""
        for module in self.modules():
            if isinstance(module, Dropout | MadeHead | RbmHead):
                module.generator = generator

    def initialise_from_data(self, train: Iterable[Tensor]) -> None:
        """Let the observation distribution begin at the moments of the training part.

        Args:
            train: its sequences, (T, D) each.
        Raises:
            ConfigError: the family has no head that can.
        """
        head: Any = getattr(self, "head", None)
        if not hasattr(head, "initialise_from_data"):
            raise ConfigError(
                f"{type(self).__name__} has no head whose distribution can begin at the data: "
                "remove `initialise_from_data` from its training."
            )
        moments = Moments()
        for x in train:  # one at a time: they may be more than memory holds
            moments.add(x.double().cpu().numpy(), axis=0)
        variance = moments.variance * moments.count / max(moments.count - 1, 1)
        mean, std = (torch.from_numpy(m).to(x) for m in (moments.mean, np.sqrt(variance)))
        head.initialise_from_data(mean, std, moments.count)

    @property
    def logged_scalars(self) -> dict[str, float]:
        """Return learned numbers that mean something by themselves, to be logged each epoch."""
        return {}

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return what needs no z, all steps at once: a NamedTuple of (T, 1, B, ·) tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no latent variables to encode for")

    def encode_after(self, state: Any, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
        """Return the same for steps that follow a state of `advance`.

        For a family whose encoding looks back: there the first step of x has one before it.
        """
        return self.encode(x, lengths)

    def encode_rows(self, x: Tensor, lengths: Tensor, rows: Packing) -> Any:
        """Return `encode`'s result without padding, (1, N, ·) tensors; `rows` has the places."""
        return _rows(self.encode(x, lengths), rows.pack)

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

    def surrogate(self, x: Tensor, lengths: Tensor, terms: Terms, weight: float) -> Tensor | None:
        """Return what training maximises beside the ELBO; None for a reparameterised family.

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
        """Return the terms of a stretch of each sequence, and the state after it.

        Args:
            state: what the call on the stretch before returned, a NamedTuple of (K, B, ·) tensors;
                None at the start of the sequences. The others as for `forward`.
        """
        if state is not None and not self.can_continue:
            raise ConfigError(
                f"{type(self).__name__} cannot go on from the state of an earlier segment: its "
                "recurrences over x begin anew in each. Give it whole sequences."
            )
        if steps_at_once is None and x.device.type == "cpu" and not dispatch.current().plain:
            return self._advance_packed(x, lengths, noise, state)
        scored = []
        for block in self.propose_all(x, lengths, noise, state, steps_at_once):
            context, steps, state = block
            scored.append(self.score(context, steps))
        return masked(concatenate(scored), lengths), state

    def _advance_packed(
        self, x: Tensor, lengths: Tensor, noise: Tensor, state: Any
    ) -> tuple[Terms, Any]:
        # Only the steps that are there: a step has the rows of the sequences that still go on, and
        # `score` sees all rows side by side as if they were sequences of one step. Without padding
        # too: `propose_rows` is where a family may have its time loop by hand.
        rows = packing(lengths, len(x))
        if state is None:
            context, state = self.encode_rows(x, lengths, rows), self.initial(noise.shape[1], x)
        else:
            context = _rows(self.encode_after(state, x, lengths), rows.pack)
        state = _rows(state, lambda s: s[:, rows.order])
        steps, state = self.propose_rows(context, state, rows.pack(noise), rows.sizes)
        scored = self.score(*(_rows(part, lambda t: t.unsqueeze(0)) for part in (context, steps)))
        back = rows.order.argsort()
        return scored.each(lambda term: rows.unpack(term[0])), _rows(state, lambda s: s[:, back])

    def propose_rows(
        self, context: Any, state: Any, noise: Tensor, sizes: list[int]
    ) -> tuple[Any, Any]:
        """Run the time loop over packed rows; return all steps and each sequence's last state.

        Args:
            context, noise: (·, N, ·), the rows of one step after those of another (`packing`).
            state: (K, B, ·), longest sequence first.
            sizes: rows of each step; they never grow.
        """
        ended, steps = [], []
        parts = (tensor.split(sizes, dim=1) for tensor in (*context, noise))
        with deferred_weight_gradients(self):
            for *context_t, noise_t in zip(*parts, strict=True):
                going = noise_t.shape[1]
                if going < state[0].shape[1]:
                    ended.append([s[:, going:] for s in state])
                    state = _rebuild(state, [s[:, :going] for s in state])
                state, step = self.propose(_rebuild(context, context_t), state, noise_t)
                steps.append(step)
        last = (torch.cat(field, dim=1) for field in zip(state, *reversed(ended), strict=True))
        drawn = (torch.cat(field, dim=1) for field in zip(*steps, strict=True))
        return _rebuild(steps[0], list(drawn)), _rebuild(state, list(last))

    def propose_all(
        self,
        x: Tensor,
        lengths: Tensor,
        noise: Tensor,
        state: Any = None,
        steps_at_once: int | None = None,
    ) -> Iterator[tuple[Any, Any, Any]]:
        """Run the time loop; yield context, drawn steps and the state after them, by blocks.

        Arguments as for `advance`. Context and steps are (T', ·, B, ·); `steps.z` has the samples
        of q.
        """
        if state is None:
            context, state = self.encode(x, lengths), self.initial(noise.shape[1], x)
        else:
            context = self.encode_after(state, x, lengths)
        block = len(x) if steps_at_once is None else steps_at_once
        # unbind and split, never context[t]: the backward pass of an index is quadratic in T.
        for part, part_noise in zip(_blocks(context, block), noise.split(block), strict=True):
            steps = []
            with deferred_weight_gradients(self):
                for context_t, noise_t in zip(unbind_steps(part), part_noise.unbind(), strict=True):
                    state, step = self.propose(context_t, state, noise_t)
                    steps.append(step)
            yield part, stack_steps(steps), state


def one_step_back(x: Tensor, before: Tensor | None = None) -> Tensor:
    """Return x_{t-1} for every step of x (T, B, D); `before`, (B, D), at the first, or zeros."""
    if before is None:
        return F.pad(x[:-1], (0, 0, 0, 0, 1, 0))
    return torch.cat([before.unsqueeze(0), x[:-1]])


def beside(z: Tensor, x: Tensor) -> Tensor:
    """Return z (..., Z) with x beside it, (..., Z + D); the leading axes of x broadcast."""
    return torch.cat([z, x.expand(*z.shape[:-1], -1)], dim=-1)


def masked(terms: Terms, lengths: Tensor) -> Terms:
    """Return the terms with zeros past each sequence's end."""
    steps = torch.arange(len(terms.log_likelihood), device=lengths.device)
    inside = (steps.unsqueeze(1) < lengths).unsqueeze(1)  # (T, 1, B)
    return terms.each(lambda term: term.where(inside, 0.0))


def gaussian_terms(log_likelihood: Tensor, q: Gaussian, p: Gaussian, z: Tensor) -> Terms:
    """Return the terms of a step whose proposal q and prior p over z (T, K, B, Z) are Gaussian."""
    return Terms(log_likelihood, p.log_prob(z), q.log_prob(z), kl(q, p), distributions=(q, p))


def without_latent(log_likelihood: Tensor, lengths: Tensor) -> Terms:
    """Return the terms of an exact model: (T, B) log-likelihoods, no latent terms, K = 1."""
    log_likelihood = log_likelihood.unsqueeze(1)  # (T, 1, B)
    zero = torch.zeros_like(log_likelihood)
    return masked(Terms(log_likelihood, zero, zero, zero), lengths)


def unbind_steps(context: tuple[Tensor, ...]) -> list[Any]:
    """Return a context of T steps as T contexts of one, without the time axis."""
    parts = zip(*(tensor.unbind() for tensor in context), strict=True)
    return [_rebuild(context, part) for part in parts]


def stack_steps(steps: list[tuple[Tensor, ...]]) -> Any:
    """Return steps, or contexts, of one step each as one of (T, ·, B, ·) tensors."""
    return _rebuild(steps[0], [torch.stack(field) for field in zip(*steps, strict=True)])


def _rebuild(like: tuple[Tensor, ...], tensors: Sequence[Tensor]) -> Any:
    return type(like)(*tensors)  # `like` is a NamedTuple


def _rows(like: tuple[Tensor, ...], change: Callable[[Tensor], Tensor]) -> Any:
    return _rebuild(like, [change(tensor) for tensor in like])


def _blocks(context: tuple[Tensor, ...], block: int) -> list[Any]:
    parts = zip(*(tensor.split(block) for tensor in context), strict=True)
    return [_rebuild(context, part) for part in parts]


def concatenate(scored: list[Terms]) -> Terms:
    """Return the terms of stretches, one after the other, as those of the whole."""
    if len(scored) == 1:
        return scored[0]
    kl = [terms.kl for terms in scored if terms.kl is not None]
    layers = zip(*(terms.layers for terms in scored), strict=True)
    return Terms(
        torch.cat([terms.log_likelihood for terms in scored]),
        torch.cat([terms.log_prior for terms in scored]),
        torch.cat([terms.log_proposal for terms in scored]),
        torch.cat(kl) if kl else None,
        tuple(Layer(*map(torch.cat, zip(*parts, strict=True))) for parts in layers),
    )
