"""Two trainings at once: ours as the workflow runs them, and a peer at its defaults."""

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from threading import Barrier

from repro.bench.run import training_step
from repro.bench.workloads import WORKLOADS, make
from repro.errors import ConfigError
from repro.models.dmm import DMM
from repro.runtime.devices import use_threads
from repro.runtime.files import write_text
from repro.runtime.provenance import environment

JOBS = 2
STEPS = 10
BARRIER_TIMEOUT = 300  # seconds that one job waits for the other, which may have died
OURS, PYRO, PYRO_TUNED = (
    "ours, 1 thread per job",
    "Pyro SVI, torch's threads",
    "Pyro SVI, 1 thread per job",
)


def run(path: Path) -> dict:
    """Measure the training steps per second that two jobs reach together; write the record.

    Raises:
        ConfigError: Pyro is not installed.
    """
    try:
        from repro.bench import pyro_dmm  # noqa: F401
    except ImportError:
        raise ConfigError(
            "`repro bench --sweep` needs Pyro, which is not installed: run `pip install pyro-ppl`."
        ) from None
    rates = {name: _steps_per_second(name) for name in (OURS, PYRO, PYRO_TUNED)}
    cores = multiprocessing.cpu_count()
    record = {"environment": environment("cpu", 1), "cores": cores, "jobs": JOBS, "rates": rates}
    write_text(path, json.dumps(record, indent=1) + "\n")
    return record


def as_text(record: dict) -> str:
    """Return rates and ratios in words."""
    rates = record["rates"]
    lines = [f"{record['jobs']} trainings at once on {record['cores']} cores, {WORKLOADS[0].name}:"]
    lines += [
        f"{name}: {rate:.2f} steps/s together, {rates[OURS] / rate:.1f} times fewer than ours"
        if name != OURS
        else f"{name}: {rate:.2f} steps/s together"
        for name, rate in rates.items()
    ]
    return "\n".join(lines)


def _steps_per_second(name: str) -> float:
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(JOBS, context) as pool:
        start = manager.Barrier(JOBS, timeout=BARRIER_TIMEOUT)
        slowest = max(pool.map(_job, [name] * JOBS, [start] * JOBS))
    return JOBS * STEPS / slowest


def _job(name: str, start: Barrier) -> float:
    if name != PYRO:
        use_threads(1)
    model, batch, noise = make(WORKLOADS[0])
    assert isinstance(model, DMM)
    if name == OURS:
        step = training_step(model, lambda: model(batch.x, batch.lengths, noise))
    else:
        from repro.bench.pyro_dmm import svi_step

        step = svi_step(model, batch.x, batch.lengths)
    step()  # warm-up
    start.wait()
    start_time = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - start_time
