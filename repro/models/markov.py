"""Common to models with a Markov chain of latent states: how q(z_t | z_{t-1}, x) is drawn."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from repro.kernels.packing import Packing, as_samples, as_sequences, last_rows
from repro.models.base import SequenceModel
from repro.nn.recognition import MeanFieldInference, StructuredInference


class Context(NamedTuple):
    """x and the data's share of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    posterior_share: Tensor


class State(NamedTuple):
    """z_{t-1} and x_{t-1}, (K, B, ·)."""

    z: Tensor
    x: Tensor


class Step(NamedTuple):
    """q(z_t)'s mean and std, z_t and z_{t-1}, (T, K, B, Z)."""

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor


class MarkovModel(SequenceModel):
    """A chain z_1, z_2, … from z_0 = 0 with a recognition network `self.inference`.

    A family implements `score` and, if that needs more than x, its own `observe` and `context`,
    whose last field is `posterior_share`.
    """

    inference: StructuredInference | MeanFieldInference
    context: Callable[..., Any] = Context

    def observe(self, x: Tensor, state: State | None) -> tuple[Tensor, ...]:
        """Return the context's fields before `posterior_share`, (T, 1, B, ·).

        Args:
            x: (T, B, D). state: before the first step; None at the start of the sequences.
        """
        return (x.unsqueeze(1),)

    def encode(self, x: Tensor, lengths: Tensor) -> Any:
        return self.encode_after(None, x, lengths)

    def encode_after(self, state: State | None, x: Tensor, lengths: Tensor) -> Any:
        return self.context(*self.observe(x, state), self.inference.encode(x, lengths).unsqueeze(1))

    def encode_rows(self, x: Tensor, lengths: Tensor, rows: Packing) -> Any:
        observed = [rows.pack(field) for field in self.observe(x, None)]
        share = self.inference.encode_rows(rows.pack(x.unsqueeze(1))[0], rows).unsqueeze(0)
        return self.context(*observed, share)

    def initial(self, num_samples: int, x: Tensor) -> State:
        batch = x.shape[1]
        return State(
            x.new_zeros(num_samples, batch, self.latent), x.new_zeros(num_samples, *x.shape[1:])
        )

    def propose(self, context: Any, state: State, noise: Tensor) -> tuple[State, Step]:
        q = self.inference.posterior_at(context.posterior_share, state.z)
        z = q.sample(noise)
        return State(z, context.x.expand(len(z), -1, -1)), Step(q.mean, q.std, z, state.z)

    def propose_rows(
        self, context: Any, state: State, noise: Tensor, sizes: list[int]
    ) -> tuple[Step, State]:
        if not isinstance(self.inference, StructuredInference):
            return super().propose_rows(context, state, noise, sizes)
        samples = len(noise)
        share, rows_noise, start = (
            as_sequences(rows, samples) for rows in (context.posterior_share, noise, state.z)
        )
        x = last_rows(context.x[0], sizes).expand(samples, -1, -1)
        sizes = [size * samples for size in sizes]
        steps = self.inference.chain(share, rows_noise, start, sizes)
        z = as_samples(last_rows(steps.z, sizes), samples)
        return Step(*(as_samples(rows, samples) for rows in steps)), State(z, x)
