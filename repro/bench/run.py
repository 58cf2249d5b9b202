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
from repro.bench.workloads import WORKLOADS, Workload, make
from repro.data.batches import Batch
from repro.errors import NumericalError
from repro.evaluate import bound_sequences
from repro.files import write_text
from repro.models.base import SequenceModel
from repro.models.dmm import DMM
from repro.nn.linear import torchs_own_way
from repro.nn.products import product
from repro.objectives import annealed_elbo
from repro.provenance import environment, peak_memory_mb

SAMPLES = 200  # importance samples of the evaluation that is timed


@dataclass(frozen=True)
class Timing:
    """One implementation of one workload: milliseconds a call, and how they compare.

    Attributes:
        spread: half the distance of the quartiles, ms.
        ratio: how many times longer than ours it takes; 1 for ours.
        floor: how many times longer than its matrix products alone, of valid steps at the
            machine's rate, would take; None where that was not counted.
    """

    workload: str
    what: str
    milliseconds: float
    spread: float
    repeats: int
    ratio: float
    floor: float | None


def run(quick: bool, threads: int, path: Path) -> dict:
    """Time every workload, ours and its peers in turn; write and return the record.

    Args:
        quick: three repeats instead of seven.
        path: of the JSON file.
    """
    torch.set_num_threads(threads)
    repeats = 3 if quick else 7
    rate = matrix_rate()
    timings: list[Timing] = []
    for workload in WORKLOADS:
        timings += train_timings(workload, rate, repeats)
    timings += evaluation_timings(WORKLOADS[0], repeats)
    record = {
        "environment": environment("cpu", threads),
        "matrix_gflops": rate / 1e9,
        "peak_memory_mb": peak_memory_mb(),
        "timings": [asdict(timing) for timing in timings],
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def matrix_rate() -> float:
    """Return the machine's rate of large float32 matrix products, in operations a second.

    That of the faster of the two libraries that torch carries.
    """
    a = torch.randn(2000, 2000)
    times = interleaved({"MKL": lambda: a @ a, "oneDNN": lambda: product(a, a)}, 7)
    return 2 * 2000**3 / min(statistics.median(each) for each in times.values())


def train_timings(workload: Workload, rate: float, repeats: int) -> list[Timing]:
    """Return the timings of one training step: forward, backward, clipping, Adam."""
    model, batch, noise = make(workload)
    _require_equal(model, batch, noise)
    calls = {"ours": _training_step(model, batch, lambda: model(batch.x, batch.lengths, noise))}
    twin, batch, noise = make(workload)
    peers = {
        "plain, step by step": _training_step(
            twin, batch, lambda: plain_terms(twin, batch.x, batch.lengths, noise)
        )
    }
    if isinstance(model, DMM):
        peers |= _pyro(model, batch)
    calls |= {name: torchs_own_way()(peer) for name, peer in peers.items()}
    times = interleaved(calls, repeats)
    operations = _operations(workload) / rate
    return _timings(workload.name, times, operations)


def evaluation_timings(workload: Workload, repeats: int) -> list[Timing]:
    """Return the timings of the importance-sampled estimate, per sample of the whole batch."""
    model, batch, _ = make(workload)
    model.eval()

    def one_by_one() -> None:
        for _ in range(5):
            with torch.no_grad():
                noise = torch.randn(len(batch.x), 1, len(batch.ids), model.latent)
                plain_terms(model, batch.x, batch.lengths, noise)

    calls = {
        "ours": lambda: bound_sequences(model, batch, SAMPLES, [], 0),
        "plain, one sample at a time": torchs_own_way()(one_by_one),
    }
    times = interleaved(calls, repeats)
    samples = {"ours": SAMPLES, "plain, one sample at a time": 5}
    each = {name: [t / samples[name] for t in found] for name, found in times.items()}
    return _timings(f"IS with {SAMPLES} samples, a sample: {workload.name}", each, None)


def interleaved(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each call, taken in turn; one round before is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if i:
                times[name].append(time.perf_counter() - start)
    return times


def _training_step(model: SequenceModel, batch: Batch, terms: Callable) -> Callable[[], object]:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        (-annealed_elbo(terms(), 1.0)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def _pyro(model: DMM, batch: Batch) -> dict[str, Callable[[], object]]:
    try:
        from repro.bench.pyro_dmm import svi_step
    except ImportError:
        return {}  # an optional peer: pip install -e '.[bench]'
    return {"Pyro SVI": svi_step(copy.deepcopy(model), batch.x, batch.lengths)}


def _require_equal(model: SequenceModel, batch: Batch, noise: Tensor) -> None:
    with torch.no_grad():
        ours, plain = (
            f(batch.x, batch.lengths, noise).log_weight.sum(0)
            for f in (model, lambda *a: plain_terms(model, *a))
        )
    if not torch.allclose(ours, plain, rtol=1e-4):
        raise NumericalError("the fast and the plain implementation differ; time neither.")


def _operations(workload: Workload) -> float:
    # Of valid steps: counted on one sequence and scaled, without padding. In double precision
    # nothing takes a fused way that hides its products from the counter.
    model, batch, noise = make(workload)
    steps = min(8, int(batch.lengths.min()))
    x, lengths = batch.x[:steps, :1].double(), torch.tensor([steps])
    with FlopCounterMode(display=False) as counter:
        terms = model.double()(x, lengths, noise[:steps, :, :1].double())
        (-annealed_elbo(terms, 1.0)).backward()
    return counter.get_total_flops() / steps * int(batch.lengths.sum())


def _timings(name: str, times: dict[str, list[float]], floor: float | None) -> list[Timing]:
    ours = statistics.median(times["ours"])
    found = []
    for what, seconds in times.items():
        quarters = statistics.quantiles(seconds, n=4)
        middle = statistics.median(seconds)
        found.append(
            Timing(
                name,
                what,
                1e3 * middle,
                1e3 * (quarters[2] - quarters[0]) / 2,
                len(seconds),
                middle / ours,
                middle / floor if floor else None,
            )
        )
    return found
