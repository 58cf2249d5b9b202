"""A training step on a GPU: kernel by kernel, replayed from a CUDA graph, seeds stacked."""

import copy
import json
import statistics
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch

from repro.bench.run import interleaved, training_step
from repro.bench.workloads import WORKLOADS, Workload, make
from repro.reports.tables import as_markdown
from repro.runtime.devices import prepare_device
from repro.runtime.files import write_text
from repro.runtime.provenance import environment
from repro.training.stacked import StackedModels

NAMES = (
    "DMM, JSB, similar lengths",
    "DMM, Nottingham",
    "VRNN 500, music",
    "VRNN 500, speech",
    "RNN-GMM 500, handwriting",
)
REPEATS = 5
SEEDS = (1, 3, 10)


def run(path: Path) -> str:
    """Time a step of some workloads on this machine's GPU; return a table.

    The record at `path` is written after every workload, so that a run that is cut off keeps what
    it measured: milliseconds per step of all stacked seeds, forward, backward, clipping and Adam.

    Raises:
        ConfigError: there is no GPU.
    """
    rows: list[dict] = []
    for workload in (w for w in WORKLOADS if w.name in NAMES):
        alone = _milliseconds(_launched(workload, torch.device("cpu")))
        row = {"Workload": workload.name, "CPU, one thread": alone}
        for precision in ("float32", "tf32"):
            device = prepare_device("cuda", 1, precision)
            row[f"{precision}, kernel by kernel"] = _milliseconds(_launched(workload, device))
            for seeds in SEEDS:
                step = _stacked(workload, seeds, device)
                row[f"{precision}, graph, {seeds} seed(s)"] = _milliseconds(step)
                torch.cuda.empty_cache()
        rows.append(row)
        record = {"environment": environment("cuda", 1), "milliseconds": rows}
        write_text(path, json.dumps(record, indent=1) + "\n")
    return as_markdown(pd.DataFrame(rows).set_index("Workload").T.round(1).reset_index())


def _launched(workload: Workload, device: torch.device) -> Callable[[], object]:
    model, batch, noise = make(workload)
    model, inputs = model.to(device), [t.to(device) for t in (batch.x, batch.lengths, noise)]
    return training_step(model, lambda: model(*inputs))


def _stacked(workload: Workload, seeds: int, device: torch.device) -> Callable[[], object]:
    model, batch, noise = make(workload)
    models = [copy.deepcopy(model).to(device) for _ in range(seeds)]
    stack = StackedModels(models, graphs=True)
    optimizers = [torch.optim.Adam(m.parameters(), lr=1e-5, fused=True) for m in models]
    inputs = [t.to(device).expand(seeds, *t.shape) for t in (batch.x, batch.lengths, noise)]
    weight = torch.ones((), device=device)
    counts = torch.full((seeds,), len(batch.ids), device=device)

    def step() -> None:
        _, _, *gradients = stack.gradients(weight, counts, *inputs)
        for s, (one, optimizer) in enumerate(zip(models, optimizers, strict=True)):
            for parameter, gradient in zip(one.parameters(), gradients, strict=True):
                parameter.grad = gradient[s]
            torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
            optimizer.step()

    return step


def _milliseconds(step: Callable[[], object]) -> float:
    def waited() -> None:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return 1e3 * statistics.median(interleaved({"step": waited}, REPEATS)["step"])
