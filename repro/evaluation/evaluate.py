"""Evaluates a checkpoint on test data: bounds on log p(x) of each sequence."""

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from repro.config.traits import EXACT, SAMPLED, Z_BY_AIS
from repro.data import batches, prepared
from repro.data.batches import Batch, Sequences
from repro.errors import NumericalError
from repro.inference.bounds import effective_sample_size, elbo, importance_weighted
from repro.inference.pareto import pareto_k
from repro.inference.particle_filter import particle_filter
from repro.kernels import dispatch
from repro.models.base import SequenceModel
from repro.models.time_loop import propose_all
from repro.results.record import SCHEMA, Result
from repro.results.reliability import is_doubtful
from repro.runtime.provenance import environment, peak_memory_mb
from repro.runtime.seeding import generator
from repro.training.checkpoints import load_checkpoint, require_same_data, weights_digest

NOISE_BLOCK = 20  # samples that share one noise stream; chunks are whole blocks
MAX_ROWS = 2000  # samples × sequences in one pass; more would not fit into a CPU's cache
MAX_ROW_STEPS = 1_000_000  # samples × sequences × steps in one pass; bounds memory
STEPS_AT_ONCE = 4  # steps scored together
FIRST_SAMPLES = 5 * NOISE_BLOCK  # drawn before the error is first estimated; then doubled


def evaluate(
    checkpoint: Path,
    data_file: Path,
    num_samples: int,
    curve: list[int],
    device: torch.device,
    particles: int = 0,
    expected: dict | None = None,
    until_error: float | None = None,
) -> Result:
    """Return the Result of a checkpoint on the test part.

    Args:
        checkpoint: the weights, chosen on validation.
        data_file: the prepared data set. The test part is read here and nowhere else.
        num_samples: importance samples K of each sequence (1 is used for models without z).
        curve: smaller numbers of samples to report the estimate for.
        particles: number of particles of the filter (FIVO); 0 for no filter.
        expected: model, dataset and seed that the checkpoint must belong to.
        until_error: stop drawing samples once the estimate's error (`estimation_error`) is this
            small, in nats per step; `num_samples` is then the maximum. None to draw all of them.
    Raises:
        CheckpointError: the checkpoint is damaged, or belongs to another cell or other data.
        NumericalError: a log weight is NaN or infinite; names the sequence.
    """
    start_time, start_cpu = time.perf_counter(), time.process_time()
    model, info = load_checkpoint(checkpoint, expected)
    spec, parts = prepared.load(data_file, ("test", "test.latents"))
    require_same_data(checkpoint, info, data_file, spec)
    model = model.to(device).eval()
    test = batches.to_tensors(parts["test"], device)
    latents = batches.to_tensors(parts["test.latents"], device) if model.true_latents else []
    samples = num_samples if model.latent else 1
    particles = particles if model.latent else 0
    adaptive = None
    if until_error is not None and model.latent:
        groups = _groups(test, min(samples, FIRST_SAMPLES))
        adaptive = draw_until(model, test, groups, samples, info.seed, until_error)
        samples = adaptive.drawn[0].count
    curve = [n for n in curve if n <= samples] if model.latent else []
    drawn = adaptive.drawn if adaptive else None
    rows = by_sequence(model, test, latents, samples, curve, particles, info.seed, drawn)
    recipe = info.recipe
    return Result(
        schema=SCHEMA,
        preset=recipe["preset"],
        dataset=spec.name,
        model=recipe["model"]["name"],
        title=recipe["model"]["name"],
        seed=info.seed,
        likelihood=likelihood_of(model),
        true_parameters=model.traits.true_parameters,
        data=asdict(spec),
        evaluation={
            "num_samples": samples,
            "curve": curve,
            **({"particles": particles} if particles else {}),
            **(
                {"until": _precision_record(adaptive, until_error, num_samples)} if adaptive else {}
            ),
        },
        training={**info.training, "weights_sha256": weights_digest(model.state_dict())},
        environment={
            **environment(device.type, torch.get_num_threads()),
            "kernels": dispatch.current().kernels,
            "seconds": round(time.perf_counter() - start_time, 1),
            "cpu_seconds": round(time.process_time() - start_cpu, 1),
            "peak_memory_mb": peak_memory_mb(),
            "training": info.environment,
        },
        recipe=recipe,
        per_sequence=rows,
    )


def by_sequence(
    model: SequenceModel,
    test: Sequences,
    latents: Sequences,
    samples: int,
    curve: list[int],
    particles: int,
    seed: int,
    drawn: list["Draws"] | None = None,
) -> dict[str, list[float]]:
    """Return the lists of `Result.per_sequence`, in the order of `test`.

    Args:
        test: sequences (T, D), normalised. latents: the z behind them; empty where unknown.
        samples, curve, particles: as for `evaluate`; 1, [] and 0 for a model without z.
        drawn: the samples, if they were drawn before (`draw_until`).
    Raises:
        NumericalError: a log weight is NaN or infinite.
    """
    rows: dict[str, list[float]] = {}
    groups = _groups(test, samples) if drawn is None else [draws.ids for draws in drawn]
    for i, ids in enumerate(groups):
        batch = batches.collate(test, ids)
        draws = draw(model, batch, samples, seed) if drawn is None else drawn[i]
        statistics = draws.statistics(batch, curve)
        if len(latents):
            true = batches.collate(latents, batch.ids).x
            statistics["squared_error"] = squared_error(model, batch, true, samples, seed)
        for name, values in statistics.items():
            rows.setdefault(name, []).extend(values.tolist())
    order = [identity for ids in groups for identity in ids]
    if particles:
        filtered = [batches.collate(test, ids) for ids in _groups(test, particles)]
        estimates = [filter_sequences(model, batch, particles, seed) for batch in filtered]
        rows["fivo"] = torch.cat(estimates).tolist()
    return in_order(rows, order)


def _groups(test: Sequences, samples: int) -> list[list[int]]:
    """Return the ids of the sequences that are evaluated side by side, similar lengths together.

    Samples fill a pass as well as sequences do, and need no padding.
    """
    order, size = batches.by_length(test), max(1, MAX_ROWS // samples)
    return [order[start : start + size] for start in range(0, len(order), size)]


def in_order(rows: dict[str, list[float]], order: list[int]) -> dict[str, list[float]]:
    """Return lists whose entries are those of sequences `order` by the sequences' own order."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    return {name: [column[i] for i in inverse] for name, column in rows.items()}


def likelihood_of(model: SequenceModel) -> str:
    """Return how log p(x) of a model is computed: "exact", "sampled" or "Z by AIS"."""
    if model.latent:
        return SAMPLED
    return Z_BY_AIS if model.estimates_z else EXACT


def bound_sequences(
    model: SequenceModel, batch: Batch, num_samples: int, curve: list[int], seed: int
) -> dict[str, Tensor]:
    """Return the per-sequence statistics of `Result.per_sequence` for a batch, (B,) each.

    The noise of a sequence depends on `seed` and the sequence's id alone, so an estimate does not
    depend on its neighbours, on padding, or on how the samples are cut into chunks.

    Raises:
        NumericalError: a log weight is NaN or infinite.
    """
    return draw(model, batch, num_samples, seed).statistics(batch, curve)


@dataclass
class Draws:
    """Statistics of the samples drawn for the sequences with these ids, in chunks of (·, B)."""

    ids: list[int]
    count: int = 0  # K so far
    log_weights: list[Tensor] = field(default_factory=list)
    elbos: list[Tensor] = field(default_factory=list)
    likelihoods: list[Tensor] = field(default_factory=list)
    first_log_likelihoods: list[Tensor] = field(default_factory=list)  # log p(x_1 | z_1)

    def log_weight(self) -> Tensor:
        """Return all log weights, (K, B)."""
        return torch.cat(self.log_weights)

    def statistics(self, batch: Batch, curve: list[int]) -> dict[str, Tensor]:
        """Return the per-sequence statistics of `Result.per_sequence`, (B,) each."""
        bounds, log_likelihood = torch.cat(self.elbos), torch.cat(self.likelihoods).mean(0)
        return {
            "length": batch.lengths,
            **weight_statistics(self.log_weight(), bounds, curve),
            "log_likelihood": log_likelihood,
            "kl": log_likelihood - bounds.mean(0),
            "first_log_likelihood": torch.cat(self.first_log_likelihoods).mean(0),
        }


@torch.no_grad()
def draw(
    model: SequenceModel, batch: Batch, num_samples: int, seed: int, drawn: Draws | None = None
) -> Draws:
    """Return `num_samples` samples of a batch: those in `drawn`, and as many more as are needed.

    Raises:
        NumericalError: a log weight is NaN or infinite.
    """
    drawn = drawn or Draws(batch.ids)
    rows = max(NOISE_BLOCK, min(MAX_ROWS, MAX_ROW_STEPS // len(batch.x)) // len(batch.ids))
    chunk = max(1, rows // NOISE_BLOCK) * NOISE_BLOCK
    for first in range(drawn.count, num_samples, chunk):
        count = min(chunk, num_samples - first)
        noise = sequence_noise(batch, first, count, model.latent, seed)
        terms = model(batch.x, batch.lengths, noise, steps_at_once=STEPS_AT_ONCE)
        terms = terms.each(Tensor.double)
        drawn.log_weights.append(terms.log_weight.sum(0))
        drawn.elbos.append(elbo(terms))
        drawn.likelihoods.append(terms.log_likelihood.sum(0))
        drawn.first_log_likelihoods.append(terms.log_likelihood[0])
    drawn.count = num_samples
    _check_finite(drawn.log_weight(), batch)
    return drawn


@dataclass(frozen=True)
class AdaptiveDraw:
    """The samples of an evaluation that stops at an error.

    Attributes:
        drawn: the samples of every group of sequences.
        error: of the estimate from these samples (`estimation_error`), nats per step.
        reached: whether that is at most the error asked for, and the weights can be trusted.
    """

    drawn: list[Draws]
    error: float
    reached: bool


def draw_until(
    model: SequenceModel,
    test: Sequences,
    groups: list[list[int]],
    max_samples: int,
    seed: int,
    error: float,
) -> AdaptiveDraw:
    """Return as many samples as the error requires: 100 per sequence, 200, … up to `max_samples`.

    All sequences get the same number, decided by the error of the whole test part: a sequence that
    stopped by its own weights would stop before the rare large ones were seen. Drawing also goes on
    while the weights are doubtful (`results.reliability`): the error is estimated from their
    spread, most of which has then not been seen yet.

    Args:
        error: of the estimate, see `estimation_error`; nats per step.
    Raises:
        NumericalError: a log weight is NaN or infinite.
    """
    drawn, num_samples = [Draws(ids) for ids in groups], min(FIRST_SAMPLES, max_samples)
    steps = sum(batches.lengths_of(test))
    while True:
        for draws in drawn:
            draw(model, batches.collate(test, draws.ids), num_samples, seed, draws)
        log_weights = [draws.log_weight() for draws in drawn]
        estimated_error = estimation_error(log_weights, steps)
        reached = estimated_error <= error and not _doubtful(log_weights)
        if reached or num_samples == max_samples:
            return AdaptiveDraw(drawn, estimated_error, reached)
        num_samples = min(2 * num_samples, max_samples)


def estimation_error(log_weights: list[Tensor], steps: int) -> float:
    """Return how far Σ log p̂(x) ÷ Σ T is from its limit of many samples, in nats per step.

    √(standard error² + bias²). As the bias of K samples we take what the estimate gains from K / 4
    to K samples, which is three times the bias where that falls as 1 / K.

    Args:
        log_weights: of each group of sequences, (K, B). steps: Σ T.
    """
    variance = bias = 0.0
    for log_weight in log_weights:
        count, size = len(log_weight), effective_sample_size(log_weight)
        variance += (1.0 / size - 1.0 / count).clamp(min=0.0).sum().item()
        gain = importance_weighted(log_weight) - _estimate_with_fewer(
            log_weight, max(1, count // 4)
        )
        bias += gain.sum().item()
    return math.hypot(math.sqrt(variance), bias) / steps


def _doubtful(log_weights: list[Tensor]) -> bool:
    sizes = torch.cat([effective_sample_size(log_weight) for log_weight in log_weights])
    shapes = [pareto_k(log_weight.cpu().numpy()) for log_weight in log_weights]
    known = [torch.from_numpy(shape) for shape in shapes if shape is not None]
    k = torch.cat(known).median().item() if known else math.nan
    return is_doubtful(sizes.median().item(), k, len(log_weights[0]))


def _precision_record(adaptive: AdaptiveDraw, error: float | None, max_samples: int) -> dict:
    """Return the precision that was asked for and reached, as a Result stores it."""
    return {
        "error": error,
        "num_samples": max_samples,
        "found": adaptive.error,
        "reached": adaptive.reached,
    }


def weight_statistics(log_weight: Tensor, bounds: Tensor, curve: list[int]) -> dict[str, Tensor]:
    """Return statistics of log weights (K, B), (B,) each: bound, IS, their errors, ESS, Pareto k.

    Args:
        bounds: the ELBO at each sample, (K, B): the log weights themselves, where no step has an
            analytic KL.
        curve: smaller numbers of samples to report the estimate for.
    """
    num_samples = len(log_weight)
    bound, size = bounds.mean(0), effective_sample_size(log_weight)
    spread = bounds.std(0) if num_samples > 1 else torch.zeros_like(bound)
    statistics = {
        "bound": bound,
        "bound_error": spread / math.sqrt(num_samples),
        "is": importance_weighted(log_weight),
        # Delta method: Var log(mean w) ≈ Var(w) / (K mean(w)²) = 1/ESS − 1/K.
        "is_error": (1.0 / size - 1.0 / num_samples).clamp(min=0.0).sqrt(),
        "ess": size,
    }
    for n in curve:
        statistics[f"is_{n}"] = _estimate_with_fewer(log_weight, n)
    if num_samples >= 10:
        statistics["is_tenth"] = _estimate_with_fewer(log_weight, num_samples // 10)
        shape = pareto_k(log_weight.cpu().numpy())
        statistics |= {} if shape is None else {"pareto_k": torch.from_numpy(shape)}
    return statistics


def _estimate_with_fewer(log_weight: Tensor, count: int) -> Tensor:
    # The mean over disjoint groups of `count` samples has less noise than one group.
    groups = log_weight[: len(log_weight) // count * count].split(count)
    return torch.stack([importance_weighted(group) for group in groups]).mean(0)


@torch.no_grad()
def filter_sequences(model: SequenceModel, batch: Batch, particles: int, seed: int) -> Tensor:
    """Return the particle filter's estimate of log p(x) of a batch, (B,), in nats.

    Its random numbers depend on seed and sequence alone, as those of `bound_sequences` do.
    """
    return filter_steps(model, batch, particles, seed)[-1]


@torch.no_grad()
def filter_steps(model: SequenceModel, batch: Batch, particles: int, seed: int) -> Tensor:
    """Return the particle filter's estimates of log p(x_≤t) of a batch, (T, B), in nats."""
    group_size = max(1, min(MAX_ROWS, MAX_ROW_STEPS // len(batch.x)) // particles)
    estimates_by_group = []
    for start in range(0, len(batch.ids), group_size):
        ids = batch.ids[start : start + group_size]
        lengths = batch.lengths[start : start + group_size]
        steps = int(lengths.max())
        part = Batch(batch.x[:steps, start : start + group_size], lengths, ids)
        noise = sequence_noise(part, 0, particles, model.latent, seed)
        uniforms = torch.zeros(steps, particles, len(ids))
        for b, (identity, length) in enumerate(zip(ids, lengths.tolist(), strict=True)):
            stream = generator(seed, "resampling", identity)
            uniforms[:length, :, b] = torch.rand(length, particles, generator=stream)
        filtered = particle_filter(model, part.x, lengths, noise, uniforms.to(part.x.device))
        estimates = torch.stack([step.estimate for step in filtered])
        held = estimates[-1].expand(len(batch.x) - steps, -1)  # past the group's longest sequence
        estimates_by_group.append(torch.cat([estimates, held]))
    return torch.cat(estimates_by_group, dim=1)


@torch.no_grad()
def squared_error(
    model: SequenceModel, batch: Batch, true: Tensor, num_samples: int, seed: int
) -> Tensor:
    """Return Σ_t ‖E_q z_t − z_t‖² of each sequence, (B,), for z (T, B, Z) known from generation.

    The posterior mean is the mean of the samples of q.
    """
    total, chunk = torch.zeros_like(true, dtype=torch.float64), 5 * NOISE_BLOCK
    for first in range(0, num_samples, chunk):
        noise = sequence_noise(batch, first, min(chunk, num_samples - first), model.latent, seed)
        proposed = propose_all(model, batch.x, batch.lengths, noise, None, STEPS_AT_ONCE)
        total += torch.cat([steps.z.double().sum(1) for _, steps, _ in proposed])
    steps = torch.arange(len(true), device=true.device).unsqueeze(1)
    inside = (steps < batch.lengths).unsqueeze(-1)  # (T, B, 1)
    return (total / num_samples - true).square().where(inside, 0.0).sum((0, 2))


def sequence_noise(batch: Batch, first: int, count: int, latent: int, seed: int) -> Tensor:
    """Return the noise of samples first … first + count − 1, (T, count, B, Z).

    `first` is a multiple of BLOCK. Drawn on the CPU, so that a GPU sees the same numbers.
    """
    if latent == 0:
        return batch.x.new_zeros(len(batch.x), count, len(batch.ids), 0)
    noise = torch.zeros(len(batch.x), count, len(batch.ids), latent)
    for column, (identity, length) in enumerate(
        zip(batch.ids, batch.lengths.tolist(), strict=True)
    ):
        for offset in range(0, count, NOISE_BLOCK):
            stream = generator(seed, "evaluation", identity, (first + offset) // NOISE_BLOCK)
            block = torch.randn(length, NOISE_BLOCK, latent, generator=stream)
            noise[:length, offset : offset + NOISE_BLOCK, column] = block[:, : count - offset]
    return noise.to(batch.x.device)


def _check_finite(log_weight: Tensor, batch: Batch) -> None:
    broken = (~log_weight.isfinite()).any(0).nonzero().flatten().tolist()
    if broken:
        names = ", ".join(str(batch.ids[i]) for i in broken[:5])
        raise NumericalError(
            f"log weights of test sequence {names} are NaN or infinite: the model diverged on it; "
            "lower learning_rate or clip_norm and train again."
        )
