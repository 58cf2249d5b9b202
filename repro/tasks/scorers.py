"""One interface to every kind of model that `repro.evaluate` and `repro.audit` accept.

A scorer calls the model and checks the type and shape of what it returns; `protocols` defines them.
"""

import inspect
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repro.config.traits import EXACT, SAMPLED
from repro.data.batches import real_steps
from repro.errors import ConfigError, ReproError
from repro.evaluation.evaluate import likelihood_of
from repro.inference.particle_filter import particle_filter
from repro.models.base import SequenceModel, Terms
from repro.models.time_loop import State
from repro.tasks.protocols import ExactModel, SampledModel, StepwiseModel
from repro.tasks.task import Task


class Scorer:
    """A model's likelihood: by `exact` or, where it is sampled, by `log_densities`.

    Attributes:
        name: of the model, for tables.
        likelihood: "exact" or "sampled" (a SequenceModel's may be "Z by AIS").
        can_filter: whether `filter_estimate` is available.
    """

    likelihood = EXACT
    can_filter = False

    def __init__(self, name: str) -> None:
        self.name = name

    def exact(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return log p(x), (B,), or log p(x_t | x_<t), (T, B), zero past each end.

        In nats, float64.
        """
        raise NotImplementedError

    def log_densities(
        self, x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return log p(x, z) and log q(z | x) of K samples of each whole sequence, (K, B), nats."""
        raise NotImplementedError

    def filter_estimate(
        self, x: Tensor, lengths: Tensor, particles: int, generator: torch.Generator
    ) -> Tensor:
        """Return the particle filter's estimate of log p(x), (B,), in nats."""
        raise NotImplementedError

    @property
    def sampled(self) -> bool:
        """Whether to call `log_densities` rather than `exact`."""
        return self.likelihood == SAMPLED


class ExactScorer(Scorer):
    """A function of x and lengths that returns an exact log-likelihood."""

    def __init__(self, function: Callable[[Tensor, Tensor], Any], name: str) -> None:
        super().__init__(name)
        self._function = function

    @torch.no_grad()
    def exact(self, x: Tensor, lengths: Tensor) -> Tensor:
        # Copies, here and below: a model may write into its input.
        found = _tensor(self._function(x.clone(), lengths.clone()), f"log_prob of {self.name}")
        steps, batch = x.shape[:2]
        allowed = {(batch,): "of each sequence", (steps, batch): "of each step"}
        _require_shape(found, allowed, f"log_prob of {self.name}", x)
        return found if found.ndim == 1 else _masked(found, lengths)


class SampledScorer(Scorer):
    """A method that draws z ~ q(z | x) and returns log p and log q."""

    likelihood = SAMPLED

    def __init__(self, propose: Callable[..., Any], name: str) -> None:
        super().__init__(name)
        self._propose = propose

    @torch.no_grad()
    def log_densities(
        self, x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        found = self._propose(x.clone(), lengths.clone(), num_samples, generator)
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ConfigError(
                f"propose of {self.name} must return two tensors, log p(x, z) and log q(z | x), "
                f"not {_type_and_shape(found)}."
            )
        steps, batch = x.shape[:2]
        allowed = {
            (num_samples, batch): "of each sequence",
            (steps, num_samples, batch): "of each step",
        }
        totals = []
        for what, value in zip(("log p", "log q"), found, strict=True):
            where = f"{what} of propose of {self.name}"
            value = _tensor(value, where)
            _require_shape(value, allowed, where, x, num_samples)
            totals.append(value if value.ndim == 2 else _masked(value, lengths).sum(0))
        return totals[0], totals[1]


class _StepNumber(NamedTuple):
    """The index of the step, (T, 1, 1, 1)."""

    t: Tensor


class _StepDensities(NamedTuple):
    """log p(x_t, z_t | ·) and log q(z_t | ·) of a step, (K, B)."""

    log_p: Tensor
    log_q: Tensor


class _StepwiseSequenceModel(SequenceModel):
    """A `StepwiseModel` behind the interface that the particle filter needs."""

    def __init__(
        self, scorer: "StepwiseScorer", x: Tensor, lengths: Tensor, generator: torch.Generator
    ) -> None:
        super().__init__()
        self._scorer, self._x, self._lengths, self._generator = scorer, x, lengths, generator

    def encode(self, x: Tensor, lengths: Tensor) -> _StepNumber:
        return _StepNumber(torch.arange(len(x)).reshape(-1, 1, 1, 1))

    def initial(self, num_samples: int, x: Tensor) -> State:
        return self._scorer.initial(self._x, self._lengths, num_samples)

    def propose(
        self, context: _StepNumber, state: State, noise: Tensor
    ) -> tuple[State, _StepDensities]:
        return self._scorer.step(state, self._x, int(context.t), self._generator)

    def score(self, context: _StepNumber, steps: _StepDensities) -> Terms:
        return Terms(steps.log_p, torch.zeros_like(steps.log_p), steps.log_q, None)


class StepwiseScorer(Scorer):
    """A model that proposes step by step."""

    likelihood = SAMPLED
    can_filter = True

    def __init__(self, model: StepwiseModel, name: str) -> None:
        super().__init__(name)
        self._model = model

    @torch.no_grad()
    def log_densities(
        self, x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        x, ends = x.clone(), lengths.clone()
        state, drawn = self.initial(x, ends, num_samples), []
        for t in range(len(x)):
            state, step = self.step(state, x, t, generator)
            drawn.append(step)
        log_p, log_q = (torch.stack(field) for field in zip(*drawn, strict=True))
        return _masked(log_p, lengths).sum(0), _masked(log_q, lengths).sum(0)

    @torch.no_grad()
    def filter_estimate(
        self, x: Tensor, lengths: Tensor, particles: int, generator: torch.Generator
    ) -> Tensor:
        shape = (len(x), particles, x.shape[1])
        uniforms = torch.rand(shape, generator=generator)
        loop = _StepwiseSequenceModel(self, x.clone(), lengths.clone(), generator)
        *_, last = particle_filter(loop, x, lengths, x.new_zeros(*shape, 0), uniforms)
        return last.estimate

    def initial(self, x: Tensor, lengths: Tensor, num_samples: int) -> State:
        """Return the model's first state, checked."""
        return self._state(self._model.initial(x, lengths, num_samples), "initial", x, num_samples)

    def step(
        self, state: State, x: Tensor, t: int, generator: torch.Generator
    ) -> tuple[State, _StepDensities]:
        """Return the next state and the terms of a step, checked."""
        count = state[0].shape[0]
        found = self._model.step(tuple(state), x, t, generator)
        if not isinstance(found, tuple | list) or len(found) != 3:
            raise ConfigError(
                f"step of {self.name} must return the next state, log p and log q, not "
                f"{_type_and_shape(found)}."
            )
        terms = []
        for what, value in zip(("log p", "log q"), found[1:], strict=True):
            value = _tensor(value, f"{what} of step of {self.name}")
            allowed = {(count, x.shape[1]): "of step t"}
            _require_shape(value, allowed, f"{what} of step of {self.name}", x, count)
            terms.append(value)
        return self._state(found[0], "step", x, count), _StepDensities(*terms)

    def _state(self, found: Any, method: str, x: Tensor, count: int) -> State:
        is_valid = isinstance(found, tuple | list) and len(found) > 0
        leading_axes = (count, x.shape[1])
        for part in found if is_valid else ():
            is_valid = (
                is_valid
                and isinstance(part, Tensor)
                and part.ndim == 3
                and part.shape[:2] == leading_axes
            )
        if not is_valid:
            raise ConfigError(
                f"the state that {method} of {self.name} returns must be a tuple of tensors "
                f"(K, B, ·) with K = {count}, B = {leading_axes[1]}, not {_type_and_shape(found)}."
            )
        return State(*found)


class PackageScorer(Scorer):
    """A model of the package, which takes normalised data and scores them."""

    def __init__(self, model: SequenceModel, task: Task) -> None:
        super().__init__(type(model).__name__)
        self._model, self._task = model.eval(), task
        self.likelihood = likelihood_of(model)

    def _terms(self, x: Tensor, lengths: Tensor, noise: Tensor) -> Terms:
        terms = self._model(self._task.normalised(x, lengths), lengths, noise, steps_at_once=8)
        return terms.each(Tensor.double)

    @torch.no_grad()
    def exact(self, x: Tensor, lengths: Tensor) -> Tensor:
        terms = self._terms(x, lengths, x.new_zeros(*x.shape[:1], 1, x.shape[1], 0))
        return _masked(terms.log_likelihood[:, 0] - self._task.log_scale, lengths)

    @torch.no_grad()
    def log_densities(
        self, x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        shape = (len(x), num_samples, x.shape[1], self._model.latent)
        terms = self._terms(x, lengths, torch.randn(shape, generator=generator))
        log_p = terms.log_likelihood + terms.log_prior - self._task.log_scale
        return _masked(log_p, lengths).sum(0), _masked(terms.log_proposal, lengths).sum(0)


def from_numpy(model: Any) -> Scorer:
    """Return a model that works on NumPy arrays in a form that can be evaluated and audited.

    >>> repro.evaluate(repro.from_numpy(my_log_prob), repro.task("jsb_chorales"))

    Args:
        model: a function or an object with `log_prob` (`protocols.NumpyLogProb`), or an object
            with `propose` (`protocols.NumpySampledModel`). It may return JAX arrays.
    Raises:
        ConfigError: it has neither.
    """
    name, log_prob = name_of(model), getattr(model, "log_prob", None)
    if hasattr(model, "propose") and log_prob is None:

        def propose(x: Tensor, lengths: Tensor, num_samples: int, g: torch.Generator) -> Any:
            rng = np.random.default_rng(int(torch.randint(2**62, (), generator=g)))
            return model.propose(x.numpy(), lengths.numpy(), num_samples, rng)

        return SampledScorer(propose, name)
    function = log_prob or model
    if not callable(function):
        raise ConfigError(f"{name} has neither log_prob nor propose, and is not a function.")
    return ExactScorer(lambda x, lengths: function(x.numpy(), lengths.numpy()), name)


def from_command(command: Sequence[str], latent: bool = False) -> Scorer:
    """Return a program in any language in a form that can be evaluated and audited.

    The program is started once per batch with two more arguments: the path of an npz file to read
    and the path of one to write. The first holds `x` (T, B, D) float32 and `lengths` (B,) int64;
    the second must hold `log_prob`, (B,) or (T, B), in nats. With `latent`, the first also holds
    `num_samples` and `seed`, from which all random numbers must come, and the second must hold
    `log_p` and `log_q`, (K, B) or (T, K, B), instead.

    >>> repro.evaluate(repro.from_command(["julia", "score.jl"]), repro.task("jsb_chorales"))

    Args:
        command: the program and its arguments, such as ["julia", "score.jl"].
        latent: whether the model is sampled.
    Raises:
        ConfigError: `command` is not a list of strings, or is empty.
    """
    if isinstance(command, str) or not all(isinstance(part, str) for part in command):
        raise ConfigError(f'command: {command!r} must be a list, such as ["julia", "score.jl"].')
    if not command:
        raise ConfigError("command: the list is empty; it begins with the program to start.")
    command = list(command)
    name = Path(command[-1]).stem

    def run(arrays: dict[str, Any], expected: tuple[str, ...]) -> list[np.ndarray]:
        with tempfile.TemporaryDirectory() as folder:
            input_file, output_file = Path(folder, "in.npz"), Path(folder, "out.npz")
            np.savez(input_file, **arrays)
            return _output_of([*command, str(input_file), str(output_file)], output_file, expected)

    def propose(x: Tensor, lengths: Tensor, num_samples: int, generator: torch.Generator) -> Any:
        seed = int(torch.randint(2**62, (), generator=generator))
        arrays = {"num_samples": num_samples, "seed": seed}
        return run({"x": x.numpy(), "lengths": lengths.numpy(), **arrays}, ("log_p", "log_q"))

    def log_prob(x: Tensor, lengths: Tensor) -> Any:
        return run({"x": x.numpy(), "lengths": lengths.numpy()}, ("log_prob",))[0]

    return SampledScorer(propose, name) if latent else ExactScorer(log_prob, name)


def _output_of(
    command: list[str], output_file: Path, expected: tuple[str, ...]
) -> list[np.ndarray]:
    program = " ".join(command[:-2])
    try:
        run = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ConfigError(f"{program} cannot be started ({error.strerror}).") from None
    if run.returncode:
        message = (run.stderr.strip() or run.stdout.strip() or "no message").splitlines()[-1]
        raise ReproError(f"{program} failed with exit status {run.returncode}: {message}")
    try:
        with np.load(output_file, allow_pickle=False) as arrays:
            return [arrays[key] for key in expected]
    except FileNotFoundError:
        raise ReproError(
            f"{program} did not write the file that its last argument names."
        ) from None
    except KeyError:
        raise ReproError(f"{program} wrote no array called {' or '.join(expected)}.") from None
    except (OSError, ValueError) as error:
        raise ReproError(f"{program} wrote something that is not an npz file ({error}).") from None


def scorer_of(model: Any, task: Task) -> Scorer:
    """Return the scorer of a model.

    Raises:
        ConfigError: it is of no kind that can be scored, or the task is not a Task.
    """
    name = name_of(model)
    if not isinstance(task, Task):
        example = f"repro.task({task!r})" if isinstance(task, str) else 'repro.task("jsb_chorales")'
        raise ConfigError(f"task: {_type_and_shape(task)} is not a task; give {example}.")
    if isinstance(model, Scorer):
        return model
    if isinstance(model, type):
        raise ConfigError(f"{name} is a class: give an instance of it, such as {name}(…).")
    if isinstance(model, SequenceModel):
        return PackageScorer(model, task)
    if isinstance(model, ExactModel):
        _require_arguments(model.log_prob, ("x", "lengths"), f"log_prob of {name}")
        return ExactScorer(model.log_prob, name)
    if isinstance(model, StepwiseModel):
        _require_arguments(model.initial, ("x", "lengths", "num_samples"), f"initial of {name}")
        _require_arguments(model.step, ("state", "x", "t", "generator"), f"step of {name}")
        return StepwiseScorer(model, name)
    if isinstance(model, SampledModel):
        arguments = ("x", "lengths", "num_samples", "generator")
        _require_arguments(model.propose, arguments, f"propose of {name}")
        return SampledScorer(model.propose, name)
    if callable(model) and not isinstance(model, nn.Module):
        _require_arguments(model, ("x", "lengths"), name)
        return ExactScorer(model, name)
    raise ConfigError(
        f"{name} cannot be scored: it needs log_prob(x, lengths), propose(x, lengths, num_samples, "
        "generator), or initial and step; or give a function of x and lengths (repro.evaluate also "
        "takes the path of a checkpoint)."
    )


def _require_arguments(function: Callable, names: tuple[str, ...], where: str) -> None:
    # Otherwise a density's log_prob(x), for example, would fail inside with a traceback.
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions in C have none that can be known
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise ConfigError(
            f"{where} takes {signature}; it is called with {len(names)} arguments: "
            f"{', '.join(names)}."
        ) from None


def require_count(what: str, value: object, least: int) -> None:
    """Refuse what is not a whole number, `least` or more.

    Raises:
        ConfigError: names the argument.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{what}: {value!r} must be a whole number, {least} or more.")


def name_of(model: Any) -> str:
    """Return what tables call a model: its own name or that of its class."""
    return str(getattr(model, "__name__", None) or type(model).__name__)


def _tensor(value: Any, where: str) -> Tensor:
    try:
        # A copy: arrays of JAX cannot be written to, which torch warns of.
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.array(value))
        if not found.is_floating_point():
            raise ConfigError(f"{where} holds {found.dtype}, not floating-point numbers.")
        return found.detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"{where} is {_type_and_shape(value)}, not a tensor of numbers."
        ) from None


def _require_shape(
    value: Tensor,
    allowed: Mapping[Any, str],
    where: str,
    x: Tensor,
    count: int | None = None,
) -> None:
    if tuple(value.shape) not in allowed:
        expected = " or ".join(f"{shape} {what}" for shape, what in allowed.items())
        samples = "" if count is None else f"K = {count}, "
        raise ConfigError(
            f"{where} has the shape {tuple(value.shape)}, expected {expected} "
            f"(T = {x.shape[0]}, {samples}B = {x.shape[1]})."
        )


def _masked(terms: Tensor, lengths: Tensor) -> Tensor:
    # Zeros past each sequence's end, in (T, B) or (T, K, B).
    inside = real_steps(lengths, len(terms))
    return terms.where(inside if terms.ndim == 2 else inside.unsqueeze(1), 0.0)


def _type_and_shape(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" of shape {tuple(shape)}" if shape is not None else "")
