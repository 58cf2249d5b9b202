"""Common to models with a Markov chain of latent states: how q(z_t | z_{t-1}, x) is drawn."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from repro.kernels.packing import Packing, as_samples, as_sequences, last_rows
from repro.models.base import SequenceModel, Terms, gaussian_terms
from repro.nn.flows import InverseAutoregressiveFlow, apply_flows
from repro.nn.gaussian import Gaussian
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


class FlowStep(NamedTuple):
    """A step with flows: q's base Gaussian, z_t, z_{t-1}, and the base Gaussian's own sample.

    (T, K, B, Z) each; `log_det`, the sum of the flows' log-determinants, is (T, K, B, 1).
    """

    mean: Tensor
    std: Tensor
    z: Tensor
    previous: Tensor
    base: Tensor
    log_det: Tensor


class MarkovModel(SequenceModel):
    """A chain z_1, z_2, … from z_0 = 0 with a recognition network `self.inference`.

    If `self.flows` has any, they change the Gaussian's sample into z_t.

    A family implements `score` and, if that needs more than x, its own `observe` and `context`,
    whose last field is `posterior_share`.
    """

    inference: StructuredInference | MeanFieldInference
    flows: Sequence[InverseAutoregressiveFlow]
    context: Callable[..., Any] = Context

    def __init__(self) -> None:
        super().__init__()
        self.flows = nn.ModuleList()  # type: ignore[assignment]

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

    def propose(self, context: Any, state: State, noise: Tensor) -> tuple[State, Step | FlowStep]:
        q = self.inference.posterior_at(context.posterior_share, state.z)
        z = base = q.sample(noise)
        step: Step | FlowStep = Step(q.mean, q.std, z, state.z)
        if self.flows:
            z, log_det = apply_flows(self.flows, base)
            step = FlowStep(q.mean, q.std, z, state.z, base, log_det.unsqueeze(-1))
        return State(z, context.x.expand(len(z), -1, -1)), step

    def propose_rows(
        self, context: Any, state: State, noise: Tensor, sizes: list[int]
    ) -> tuple[Step | FlowStep, State]:
        if self.flows or not isinstance(self.inference, StructuredInference):
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


def latent_terms(log_likelihood: Tensor, steps: Step | FlowStep, p: Gaussian) -> Terms:
    """Return the terms of steps whose prior is `p`; without an analytic KL if there are flows."""
    q = Gaussian(steps.mean, steps.std)
    if isinstance(steps, Step):
        return gaussian_terms(log_likelihood, q, p, steps.z)
    log_proposal = q.log_prob(steps.base) - steps.log_det.squeeze(-1)
    return Terms(log_likelihood, p.log_prob(steps.z), log_proposal, None)
