"""What models with a Markov chain of latent states share: how q(z_t | z_{t-1}, x) is drawn."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from repro.models.base import SequenceModel
from repro.nn.inference import MeanFieldInference, StructuredInference
from repro.nn.packing import Packing, as_samples, as_sequences, last_rows


class Context(NamedTuple):
    """x and the data's share of q(z_t), (T, 1, B, ·)."""

    x: Tensor
    posterior_share: Tensor


class State(NamedTuple):
    """z_{t-1}, (K, B, Z)."""

    z: Tensor


class Step(NamedTuple):
    """q(z_t)'s mean and std, z_t and z_{t-1}, (T, K, B, Z)."""

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor


class MarkovModel(SequenceModel):
    """A chain z_1, z_2, … from z_0 = 0 with a recognition network `self.inference`.

    A family gives `score`, and where that needs more than x its own `observe` and `context`, whose
    last field is `posterior_share`.
    """

    inference: StructuredInference | MeanFieldInference
    context: Callable[..., Any] = Context

    def observe(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the context's fields before `posterior_share`, of x (T, B, D), (T, 1, B, ·)."""
        return (x.unsqueeze(1),)

    def encode(self, x: Tensor, lengths: Tensor) -> Any:
        return self.context(*self.observe(x), self.inference.encode(x, lengths).unsqueeze(1))

    def encode_rows(self, x: Tensor, lengths: Tensor, rows: Packing) -> Any:
        share = self.inference.encode_rows(rows.pack(x.unsqueeze(1))[0], rows).unsqueeze(0)
        return self.context(*(rows.pack(field) for field in self.observe(x)), share)

    def initial(self, num_samples: int, x: Tensor) -> State:
        return State(x.new_zeros(num_samples, x.shape[1], self.latent))

    def propose(self, context: Any, state: State, noise: Tensor) -> tuple[State, Step]:
        q = self.inference.posterior_at(context.posterior_share, state.z)
        z = q.sample(noise)
        return State(z), Step(q.mean, q.std, z, state.z)

    def propose_rows(
        self, context: Any, state: State, noise: Tensor, sizes: list[int]
    ) -> tuple[Step, State]:
        if not isinstance(self.inference, StructuredInference):
            return super().propose_rows(context, state, noise, sizes)
        samples = len(noise)
        share, rows_noise, start = (
            as_sequences(rows, samples) for rows in (context.posterior_share, noise, state.z)
        )
        sizes = [size * samples for size in sizes]
        steps = self.inference.chain(share, rows_noise, start, sizes)
        last = as_samples(last_rows(steps.z, sizes), samples)
        return Step(*(as_samples(rows, samples) for rows in steps)), State(last)
