"""How time grows with length, batch, width and samples, and memory with samples."""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from repro.bench.run import interleaved, training_step
from repro.bench.workloads import DMM, Workload, make
from repro.evaluation.evaluate import bound_sequences
from repro.reports.sequence_plots import use_style
from repro.runtime.devices import use_threads
from repro.runtime.files import write_text
from repro.runtime.provenance import environment, peak_memory_mb

BASE = Workload("DMM", "dmm", "bernoulli", DMM, [60], 20, 88)
SETTINGS = {
    "length T": (50, 100, 200, 400, 800),
    "batch B": (5, 10, 20, 40, 80),
    "width H": (100, 200, 400, 800),
    "samples K": (50, 100, 200, 400, 800),
}
REPEATS = 3


def run(threads: int, path: Path) -> dict:
    """Measure how cost grows; write and return the record."""
    use_threads(threads)
    record = {
        "environment": environment("cpu", threads),
        "memory": _evaluation_memory(),  # first: a process's peak never falls again
        "growth": {what: _growth(what, values) for what, values in SETTINGS.items()},
    }
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def as_text(record: dict) -> str:
    """Return the exponents and the memory in words."""
    lines = [
        f"time grows as {what}^{row['exponent']:.2f} over {row['values']}"
        for what, row in record["growth"].items()
    ]
    memory = zip(record["memory"]["samples"], record["memory"]["peak_mb"], strict=True)
    peaks = ", ".join(f"{peak} MB with K = {count}" for count, peak in memory)
    return "\n".join([*lines, f"peak memory of an evaluation: {peaks}"])


def draw(record: dict) -> plt.Figure:
    """Return time against each setting, both logarithmic, with the fitted exponent."""
    use_style()
    found = record["growth"]
    figure, grid = plt.subplots(1, len(found), figsize=(3 * len(found), 3), layout="constrained")
    for axes, (what, row) in zip(grid, found.items(), strict=True):
        axes.loglog(row["values"], row["seconds"], marker="o", color="C0")
        axes.set(xlabel=what, title=f"exponent {row['exponent']:.2f}")
        axes.set_xticks(row["values"], [str(v) for v in row["values"]])
        axes.minorticks_off()
    grid[0].set_ylabel("seconds")
    return figure


def exponent(values: Sequence[float], seconds: Sequence[float]) -> float:
    """Return the slope of log seconds over log values at the last three.

    There constant costs weigh least.
    """
    return float(np.polyfit(np.log(values[-3:]), np.log(seconds[-3:]), 1)[0])


def _growth(what: str, values: tuple[int, ...]) -> dict:
    times = interleaved({str(value): _call(what, value) for value in values}, REPEATS)
    seconds = [statistics.median(times[str(value)]) for value in values]
    return {"values": values, "seconds": seconds, "exponent": exponent(values, seconds)}


def _evaluation_memory() -> dict[str, list[int]]:
    samples, peaks = [200, 2000, 8000], []
    for count in samples:
        _call("samples K", count)()
        peaks.append(peak_memory_mb())
    return {"samples": samples, "peak_mb": peaks}


def _call(what: str, value: int) -> Callable[[], object]:
    if what == "samples K":
        model, batch, _ = make(BASE)
        model.eval()
        return lambda: bound_sequences(model, batch, value, [], 0)
    changes: dict[str, dict] = {
        "length T": {"lengths": [value]},
        "batch B": {"batch": value},
        "width H": {"sizes": {**DMM, "embedding": value, "inference_hidden": value}},
    }
    model, batch, noise = make(replace(BASE, **changes[what]))
    return training_step(model, lambda: model(batch.x, batch.lengths, noise))
