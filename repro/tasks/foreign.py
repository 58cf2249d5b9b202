"""Evaluates anyone's model on a task, with a Result like those of the package's own models."""

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from repro.data import batches, prepared
from repro.errors import ConfigError, NumericalError
from repro.evaluation import evaluate as checkpoint_evaluation
from repro.evaluation.evaluate import (
    MAX_ROW_STEPS,
    MAX_ROWS,
    by_sequence,
    in_order,
    weight_statistics,
)
from repro.models.base import SequenceModel
from repro.results.record import FOREIGN, SCHEMA, Result
from repro.runtime.devices import prepare_device
from repro.runtime.provenance import environment, peak_memory_mb
from repro.runtime.seeding import generator
from repro.tasks.scorers import Scorer, require_count, scorer_of
from repro.tasks.task import Ragged, Task, part_of

REPEAT_TOLERANCE = 1e-4  # by how much two calls may differ, relative: sums in another order
MAX_STANDARD_ERRORS = (
    5.0  # standard errors by which a sampled log-probability is positive beyond doubt
)


def evaluate(
    model: Any, task: Task, samples: int = 200, particles: int = 0, seed: int = 0, name: str = ""
) -> Result:
    """Return the Result of any model on the test part of a task, in nats of normalised data.

    >>> repro.evaluate(my_log_prob, repro.task("jsb_chorales")).per_step("is")

    Args:
        model: a function of (x, lengths), or an object with `log_prob`, with `propose`, or with
            `initial` and `step` (see `repro.tasks.protocols`); what `from_numpy` or `from_command`
            returns; a model of the package; or the path of a checkpoint of the package.
        samples: importance samples K of each sequence; exact models use none.
        particles: of the particle filter (FIVO), for models that propose step by step.
        seed: of the random numbers. A checkpoint is evaluated with the seed of its training.
        name: what tables call the model; "" for the name of its function or class. A checkpoint
            has a name already.
    Raises:
        ConfigError: the model is of no such kind, or what it returns has a wrong shape, changes
            from call to call, or is a probability above 1 where data are discrete.
        NumericalError: it returns NaN or an infinite number; names the sequence.
        CheckpointError: the checkpoint is damaged, or was trained on other data than the task's.
        DataError: the prepared file is missing or damaged, or has changed since the task was made.
    """
    for what, value, least in (
        ("samples", samples, 1),
        ("particles", particles, 0),
        ("seed", seed, 0),
    ):
        require_count(what, value, least)
    if not isinstance(name, str) or not name.isprintable():
        raise ConfigError(f"name: {name!r} must be text of one line.")
    if isinstance(model, str | Path) and isinstance(task, Task):
        device = prepare_device("auto", torch.get_num_threads())
        return checkpoint_evaluation.evaluate(
            Path(model), task.file, samples, [], device, particles
        )
    begin, scorer = time.perf_counter(), scorer_of(model, task)
    test = part_of(task, "test")
    if isinstance(model, SequenceModel):
        rows = _evaluate_package_model(model, task, samples, particles, seed)
    else:
        if particles and not scorer.can_filter:
            raise ConfigError(
                f"particles: {scorer.name} does not propose step by step (initial and step), as a "
                "particle filter needs; set particles=0."
            )
        rows = _evaluate_scorer(scorer, test, samples, particles, seed, task)
    samples = samples if scorer.sampled else 1
    name = name or scorer.name
    return Result(
        schema=SCHEMA,
        preset=FOREIGN,
        dataset=task.name,
        model=name,
        title=name,
        seed=seed,
        likelihood=scorer.likelihood,
        true_parameters=False,
        data=asdict(prepared.load(task.file, ())[0]),
        evaluation={
            "num_samples": samples,
            "curve": [],
            **({"particles": particles} if particles and scorer.sampled else {}),
            "task": task.version,
            "model_units": task.units,
            "units": "nats of normalised data",
        },
        training={},
        environment={
            **environment("cpu", torch.get_num_threads()),
            "seconds": round(time.perf_counter() - begin, 1),
            "peak_memory_mb": peak_memory_mb(),
        },
        recipe={
            "preset": FOREIGN,
            "dataset": {"name": task.name, "kind": task.kind},
            "model": {"name": name, "kind": scorer.name},
        },
        per_sequence=rows,
    )


def _evaluate_package_model(
    model: SequenceModel, task: Task, samples: int, particles: int, seed: int
) -> dict[str, list[float]]:
    # Its own noise and its own units: the same bits as those of a checkpoint of it.
    _, parts = prepared.load(task.file, ("test", "test.latents"))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    test = batches.to_tensors(parts["test"], device)
    latents = batches.to_tensors(parts["test.latents"], device) if model.true_latents else []
    if not model.latent:
        samples, particles = 1, 0
    return by_sequence(model.eval(), test, latents, samples, [], particles, seed)


def _evaluate_scorer(
    scorer: Scorer, test: Ragged, samples: int, particles: int, seed: int, task: Task
) -> dict[str, list[float]]:
    order = batches.by_length(test)
    rows: dict[str, list[float]] = {}
    size = max(1, MAX_ROWS // min(samples, 100)) if scorer.sampled else 100
    for start in range(0, len(order), size):
        batch = batches.collate(test, order[start : start + size])
        streams = partial(generator, seed, "foreign", start)
        if scorer.sampled:
            statistics = _sampled(scorer, batch, samples, streams, first=start == 0)
        else:
            statistics = _exact(scorer, batch, first=start == 0)
        if particles:
            fivo = scorer.filter_estimate(batch.x, batch.lengths, particles, streams("filter"))
            statistics["fivo"] = _finite(fivo, batch, scorer)
        if task.kind == "binary":
            _require_probability(statistics, batch, scorer)
        for name in {"bound", "is", "is_tenth", "fivo", "log_likelihood"} & set(statistics):
            statistics[name] = statistics[name] + batch.lengths * task.log_scale
        if "first_log_likelihood" in statistics:
            statistics["first_log_likelihood"] = statistics["first_log_likelihood"] + task.log_scale
        for name, values in {"length": batch.lengths, **statistics}.items():
            rows.setdefault(name, []).extend(values.tolist())
    return in_order(rows, order)


def _exact(scorer: Scorer, batch: batches.Batch, first: bool) -> dict[str, Tensor]:
    terms = scorer.exact(batch.x, batch.lengths)
    total = _finite(terms if terms.ndim == 1 else terms.sum(0), batch, scorer)
    if first:
        again = scorer.exact(batch.x, batch.lengths)
        _require_same(total, again if again.ndim == 1 else again.sum(0), batch, scorer)
    zero = torch.zeros_like(total)
    return {
        "bound": total,
        "bound_error": zero,
        "is": total,
        "is_error": zero,
        "ess": zero + 1.0,
        "log_likelihood": total,
        "kl": zero,
        **({} if terms.ndim == 1 else {"first_log_likelihood": terms[0]}),
    }


def _sampled(
    scorer: Scorer, batch: batches.Batch, samples: int, streams: Any, first: bool
) -> dict[str, Tensor]:
    chunk = max(1, min(MAX_ROWS, MAX_ROW_STEPS // len(batch.x)) // len(batch.ids))
    weights = []
    for begin in range(0, samples, chunk):
        count = min(chunk, samples - begin)
        log_p, log_q = scorer.log_densities(batch.x, batch.lengths, count, streams(begin))
        weights.append(_finite(log_p - log_q, batch, scorer))
        if first and begin == 0:
            again = scorer.log_densities(batch.x, batch.lengths, count, streams(begin))
            _require_same(weights[0], again[0] - again[1], batch, scorer)
    log_weight = torch.cat(weights)
    return weight_statistics(log_weight, log_weight, [])


def _finite(values: Tensor, batch: batches.Batch, scorer: Scorer) -> Tensor:
    # (B,) or (K, B)
    broken = (~values.isfinite()).reshape(-1, len(batch.ids))
    if broken.any():
        row, column = broken.nonzero()[0].tolist()
        value = values.reshape(-1, len(batch.ids))[row, column].item()
        others = int(broken.any(0).sum()) - 1
        also = f", and of {others} more in its batch" if others else ""
        raise NumericalError(
            f"{scorer.name}: the log-probability of test sequence {batch.ids[column]} is {value}"
            f"{also}; every one must be a finite number."
        )
    return values


def _require_same(one: Tensor, two: Tensor, batch: batches.Batch, scorer: Scorer) -> None:
    differs = (
        ((one - two).abs() > REPEAT_TOLERANCE * (1.0 + one.abs()))
        .reshape(-1, len(batch.ids))
        .any(0)
    )
    if differs.any():
        remedy = (
            "draw every random number from the generator that propose is given"
            if scorer.sampled
            else "switch dropout off (`model.eval()`), or give a sampled model as propose"
        )
        raise ConfigError(
            f"{scorer.name}: two calls with the same input differ for test sequence "
            f"{batch.ids[int(differs.nonzero()[0])]}: {remedy}."
        )


def _require_probability(
    statistics: dict[str, Tensor], batch: batches.Batch, scorer: Scorer
) -> None:
    # A bound may be above 0 by chance, p(x) of discrete data never.
    above = statistics["bound"] - MAX_STANDARD_ERRORS * statistics["bound_error"] > REPEAT_TOLERANCE
    if above.any():
        column = int(above.nonzero()[0])
        raise ConfigError(
            f"{scorer.name}: log p of test sequence {batch.ids[column]} is "
            f"{statistics['bound'][column]:.4f}, and the data are 0 or 1: a probability above 1. "
            "repro.audit says what is wrong."
        )
