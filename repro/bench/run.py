"""Medians of interleaved repeats, and the ratios that follow from them."""

import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from repro.bench.plain import plain_terms
from repro.bench.products import products_of
from repro.bench.workloads import WORKLOADS, Workload, make
from repro.data.batches import Batch
from repro.errors import NumericalError
from repro.evaluation.evaluate import by_sequence
from repro.inference.objectives import annealed_elbo
from repro.kernels.dispatch import plain_linear, vmap_compatible
from repro.kernels.matmul import product
from repro.models.base import SequenceModel
from repro.models.dmm import DMM
from repro.models.terms import Terms
from repro.nn.recurrent import DirectedReLU
from repro.runtime.devices import use_threads
from repro.runtime.files import write_text
from repro.runtime.provenance import environment, peak_memory_mb
from repro.training.optimizers import build_optimizers

SAMPLES = (40, 1000, 2000)  # importance samples of the evaluations that are timed
SLOW_WORKLOADS = ("VRNN 500, handwriting", "RNN-GMM 500, handwriting")  # more than half of the time
PLAIN_SAMPLES = 5  # samples that the plain implementation draws, one by one, to be timed

PRODUCTS_ALONE = "its products"
OTHER = "autograd, Python, the rest"
KINDS = {  # by parts of the names that torch's profiler gives operations
    "matrix products": ("mm", "_linear_pointwise", "mkldnn_rnn", "aten::linear", "embedding_bag"),
    "laying out weights": ("_reorder_linear_weight",),
    "copies": ("copy_", "aten::cat", "index", "gather", "scatter", "stack", "clone", "fill_"),
    "elementwise": ("aten::add", "aten::mul", "aten::sub", "aten::div", "tanh", "sigmoid", "sqrt",
        "softplus", "log", "exp", "sum", "pow", "threshold", "clamp", "where", "lerp", "norm"),
    OTHER: (),
}  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """One implementation of one workload: milliseconds per call, and how they compare.

    Attributes:
        spread: half the distance between the quartiles, ms.
        steps, sequences: number per second, without padding; for evaluations, times the samples.
        ratio: how many times as long as ours it takes; 1 for ours.
        gflops: rate of the matrix products of valid steps alone, in 10⁹ operations per second;
            None if that was not counted.
    """

    workload: str
    what: str
    milliseconds: float
    spread: float
    repeats: int
    steps: float
    sequences: float
    ratio: float
    gflops: float | None


def run(quick: bool, threads: int, path: Path) -> dict:
    """Time every workload, ours and its peers in turn; write and return the record.

    Args:
        quick: three repeats instead of seven, long evaluations once, and no handwriting.
        path: the JSON file to write.
    """
    use_threads(threads)
    repeats = 3 if quick else 7
    rates = matrix_rates()
    timings: list[Timing] = []
    profiles = []
    for workload in (w for w in WORKLOADS if not (quick and w.name in SLOW_WORKLOADS)):
        timings += train_timings(workload, repeats)
        profiles.append({"workload": workload.name, **profile(workload)})
    for samples in SAMPLES[::2] if quick else SAMPLES:
        timings += evaluation_timings(WORKLOADS[0], samples, repeats if samples < 1000 else 1)
    record = {
        "environment": environment("cpu", threads),
        "matrix_gflops": rates,
        "peak_memory_mb": peak_memory_mb(),
        "timings": [asdict(timing) for timing in timings],
        "profiles": profiles,
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def matrix_rates() -> dict[str, float]:
    """Return the machine's rate of large float32 matrix products, 10⁹ operations per second."""
    a = torch.randn(2000, 2000)
    times = interleaved({"torch": lambda: a @ a, "repro": lambda: product(a, a)}, 7)
    return {name: 2 * 2000**3 / 1e9 / statistics.median(each) for name, each in times.items()}


def train_timings(workload: Workload, repeats: int) -> list[Timing]:
    """Return the timings of one training step: forward, backward, clipping, Adam."""
    model, batch, noise = make(workload)
    _require_equal(model, batch, noise)
    step = _step_of(workload, model, batch, noise)
    has_products = workload.head != "nade"
    calls = {"ours": step, **({PRODUCTS_ALONE: products_of(step)} if has_products else {})}
    twin = copy.deepcopy(model)

    def plain() -> Terms:
        return plain_terms(twin, batch.x, batch.lengths, noise)

    peers = {"Plain": training_step(twin, plain, workload.muon)}
    if isinstance(model, DMM):
        peers |= _pyro(model, batch)
    calls |= {name: plain_linear()(peer) for name, peer in peers.items()}
    times = interleaved(calls, repeats)
    operations = _operations(workload) if has_products else None
    return _timings(workload.name, times, batch, operations)


def evaluation_timings(workload: Workload, samples: int, repeats: int) -> list[Timing]:
    """Return the timings of the importance-sampled estimate, per sample of the whole batch."""
    model, batch, _ = make(workload)
    model.eval()

    def one_by_one() -> None:
        for _ in range(PLAIN_SAMPLES):
            with torch.no_grad():
                noise = torch.randn(len(batch.x), 1, len(batch.ids), model.latent)
                plain_terms(model, batch.x, batch.lengths, noise)

    test = [batch.x[:length, i] for i, length in enumerate(batch.lengths.tolist())]

    def ours() -> None:
        by_sequence(model, test, [], samples, [], 0, 0)

    calls = {"ours": ours, "Plain": plain_linear()(one_by_one)}
    times = interleaved(calls, repeats, warm_up=repeats > 1)
    drawn = {"ours": samples, "Plain": PLAIN_SAMPLES}
    each = {name: [t / drawn[name] for t in found] for name, found in times.items()}
    return _timings(f"IS, K = {samples}, a sample: {workload.name}", each, batch, None)


def profile(workload: Workload) -> dict[str, float]:
    """Return what our training step spends its time on, in shares of the CPU time."""
    step = _step_of(workload, *make(workload))
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    totals, optimizers = dict.fromkeys(KINDS, 0.0), 0.0
    for row in found.key_averages():
        if row.key.startswith("Optimizer.step"):
            optimizers += row.cpu_time_total
        kind = next((k for k, names in KINDS.items() if any(n in row.key for n in names)), OTHER)
        totals[kind] += row.self_cpu_time_total
    whole = sum(totals.values())
    shares = {kind: time / whole for kind, time in totals.items()}
    return {**shares, "optimisers, of all of these": optimizers / whole}


def interleaved(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm_up: bool = True
) -> dict[str, list[float]]:
    """Return the seconds of each call, taken in turn; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + warm_up):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def _step_of(
    workload: Workload, model: SequenceModel, batch: Batch, noise: Tensor
) -> Callable[[], object]:
    return training_step(model, lambda: model(batch.x, batch.lengths, noise), workload.muon)


def training_step(
    model: SequenceModel, terms: Callable, muon: bool = False
) -> Callable[[], object]:
    settings = {"learning_rate": 1e-5, "adam_betas": (0.9, 0.999)}
    if muon:
        settings |= {"optimizer": "muon", "muon_learning_rate": 1e-5, "muon_momentum": 0.95}
    optimizers = build_optimizers(model, settings)

    def step() -> None:
        model.zero_grad()
        (-annealed_elbo(terms(), 1.0)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()

    return step


def _pyro(model: DMM, batch: Batch) -> dict[str, Callable[[], object]]:
    try:
        from repro.bench.pyro_dmm import svi_step
    except ImportError:
        return {}  # an optional peer: pip install pyro-ppl
    names = {"Pyro SVI": False}
    if isinstance(model.inference.rnns[0], DirectedReLU):
        names["Pyro SVI, packed"] = True  # as in Pyro's example; an LSTM is slower that way
    return {
        name: svi_step(copy.deepcopy(model), batch.x, batch.lengths, packed)
        for name, packed in names.items()
    }


def _require_equal(model: SequenceModel, batch: Batch, noise: Tensor) -> None:
    with torch.no_grad():
        ours, plain = (
            f(batch.x, batch.lengths, noise).log_weight.sum(0)
            for f in (model, lambda *a: plain_terms(model, *a))
        )
    if not torch.allclose(ours, plain, rtol=1e-4):
        raise NumericalError(
            "the fast and the plain implementation give different log weights; neither is timed."
        )


def _operations(workload: Workload) -> float:
    """Return how many operations the matrix products of a training step take."""
    # Operations of valid steps: counted on one sequence without padding, and scaled.
    model, batch, noise = make(workload)
    steps = min(32, int(batch.lengths.min()))
    return operations_per_step(model, batch.x[:steps, :1], noise[:steps, :, :1]) * int(
        batch.lengths.sum()
    )


def operations_per_step(model: SequenceModel, x: Tensor, noise: Tensor) -> float:
    """Return how many operations the matrix products of a time step take, forward and backward.

    Args:
        model: is changed to float64. x: one sequence, (T, 1, D). noise: (T, K, 1, Z).
    """
    # On the plain path nothing is fused or done in place, which would hide products from the
    # counter.
    with vmap_compatible(), FlopCounterMode(display=False) as counter:
        terms = model.double()(x.double(), torch.tensor([len(x)]), noise.double())
        (-annealed_elbo(terms, 1.0)).backward()
    return counter.get_total_flops() / len(x)


def _timings(
    name: str, times: dict[str, list[float]], batch: Batch, operations: float | None
) -> list[Timing]:
    ours = statistics.median(times["ours"])
    found = []
    for what, seconds in times.items():
        middle = statistics.median(seconds)
        quarters = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [middle] * 3
        found.append(
            Timing(
                name,
                what,
                1e3 * middle,
                1e3 * (quarters[2] - quarters[0]) / 2,
                len(seconds),
                int(batch.lengths.sum()) / middle,
                len(batch.ids) / middle,
                middle / ours,
                operations / middle / 1e9 if operations else None,
            )
        )
    return found
