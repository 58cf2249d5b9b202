"""What a preset will cost: jobs, hours, memory and disk, from the timings of stored results.

No torch here: a plan is made from stored results, on any machine.
"""

import heapq
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from repro.config.recipes import cells, resolve, traits_of
from repro.config.traits import SAMPLED
from repro.results.record import Result, read

MEASURED, ELSEWHERE, SCALED, GUESSED = "measured", "measured elsewhere", "scaled", "guessed"


@dataclass(frozen=True)
class Cost:
    """What one run of a cell costs on one worker.

    Attributes:
        train, evaluate: hours.
        memory: MB, the larger of both jobs. disk: MB of the checkpoint.
        basis: measured (stored results of this cell), measured elsewhere (the same, but with
            another processor or number of threads than the plan's), scaled by time steps and epochs
            from the model's other results, or guessed from the median of the preset's results.
    """

    dataset: str
    model: str
    train: float
    evaluate: float
    memory: float
    disk: float
    basis: str


@dataclass(frozen=True)
class Plan:
    """The costs of every cell and how many seeds each has.

    Attributes:
        stack_seeds: whether one job trains all seeds of a cell.
        worker: the hardware and number of threads that the hours refer to.
        unknown: data sets left out, because the number of their steps is not written down.
    """

    preset: str
    costs: list[Cost]
    seeds: int
    stack_seeds: bool
    worker: str
    unknown: list[str]

    @property
    def jobs(self) -> int:
        """Trainings and evaluations."""
        return (self.seeds // self.seeds_per_job + self.seeds) * len(self.costs)

    @property
    def seeds_per_job(self) -> int:
        """How many seeds one training job trains."""
        return self.seeds if self.stack_seeds else 1

    @property
    def hours(self) -> float:
        """Hours of one worker for everything."""
        return self.seeds * sum(cost.train + cost.evaluate for cost in self.costs)

    @property
    def critical_path(self) -> float:
        """Hours of the longest training and its evaluation: no number of workers is faster."""
        seeds = self.seeds_per_job
        return max((seeds * cost.train + cost.evaluate for cost in self.costs), default=0.0)


def stored(root: Path) -> list[Result]:
    """Return every Result under `root`, except those of runs that diverged."""
    return _finished(root.glob("*/*/*/seed*.json"))


def stored_for(config: dict, root: Path) -> list[Result]:
    """Return the stored Results of seed 0 that say what a preset costs.

    These are the preset's own, and those of its models in other presets. Every start of snakemake
    calls this, so no other files are read.
    """
    models = {model for _, model in cells(config)}
    return _finished(
        path
        for path in root.glob("*/*/*/seed0.json")
        if path.parts[-4] == config["preset"] or path.parts[-2] in models
    )


def _finished(paths: Iterable[Path]) -> list[Result]:
    found = [read(path) for path in sorted(paths)]
    return [result for result in found if "diverged" not in result.training]


def plan(config: dict, results: Iterable[Result]) -> Plan:
    """Return the cost of a preset, estimated from results that record their timings.

    The worker is the hardware and thread count of most of the preset's results, or of most others
    if it has none; results of other hardware are used only for a cell that was measured on it
    alone. A cell that was never measured takes its rate per time step (and epoch, or sample) from
    results of the same model at the same sizes, or else from the median of the preset's results
    with a latent variable if it has one, without if not, and is assumed to run all its epochs.
    """
    found = list(results)
    counts = Counter(_worker(r) for r in found if r.preset == config["preset"])
    counts = counts or Counter(map(_worker, found))
    worker = max(counts, key=counts.__getitem__, default="nothing")
    same_worker = [r for r in found if _worker(r) == worker]
    other_workers = [r for r in found if _worker(r) != worker]
    costs, unknown = [], []
    for dataset, model in cells(config):
        steps = _steps(config, dataset)
        if steps is None:
            unknown.append(dataset)
        else:
            costs.append(_cost(config, dataset, model, steps, same_worker, other_workers))
    seeds, stack_seeds = len(config["seeds"]), config.get("stack_seeds", False)
    return Plan(config["preset"], costs, seeds, stack_seeds, worker, sorted(set(unknown)))


def makespan(plan: Plan, workers: int, speedup: float = 1.0, longest_first: bool = True) -> float:
    """Return the hours until the last job ends on a number of workers.

    This simulates the Snakefile's priorities: of the jobs that can start, a free worker takes the
    one with the most hours left until its evaluation ends. An evaluation can start when its
    training has ended.

    Args:
        longest_first: False for the order of the preset, as without priorities.
    """
    numbers = itertools.count()
    ready: list[
        tuple[float, int, float, float]
    ] = []  # (priority, job number, hours, hours of the evaluation)
    for cost in (cost for cost in plan.costs for _ in range(plan.seeds // plan.seeds_per_job)):
        number, hours = next(numbers), plan.seeds_per_job * cost.train
        priority = -(hours + cost.evaluate) if longest_first else float(number)
        heapq.heappush(ready, (priority, number, hours, cost.evaluate))
    running: list[
        tuple[float, int, float, float]
    ] = []  # (end, job number, hours of the evaluation, priority)
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            priority, number, hours, evaluation = heapq.heappop(ready)
            heapq.heappush(running, (now + hours, number, evaluation, priority))
        now, number, evaluation, priority = heapq.heappop(running)
        for _ in range(plan.seeds_per_job if evaluation else 0):
            priority = -evaluation if longest_first else priority
            heapq.heappush(ready, (priority, next(numbers), evaluation, 0.0))
    return now / speedup


def busy_share(plan: Plan, workers: int, longest_first: bool = True) -> float:
    """Return the share of the workers' time, until the last job ends, in which they are busy."""
    return plan.hours / (workers * makespan(plan, workers, longest_first=longest_first))


def priorities(plan: Plan) -> dict[tuple[str, str], dict[str, int]]:
    """Return the priorities of each cell's jobs, "train" and "evaluate", by data set and model.

    A priority is the number of seconds until the cell is done: those of the training include its
    evaluation, so that the jobs that decide when everything ends start first.
    """
    return {
        (cost.dataset, cost.model): {
            "train": math.ceil(3600 * (plan.seeds_per_job * cost.train + cost.evaluate)),
            "evaluate": math.ceil(3600 * cost.evaluate),
        }
        for cost in plan.costs
    }


def as_text(plan: Plan, workers: list[int], speedup: float) -> str:
    """Return the plan as text for people."""
    from repro.reports.tables import as_markdown  # the Snakefile, which plans too, needs no reports

    rows = [
        {
            "Data set": cost.dataset,
            "Model": cost.model,
            "Training": _duration(cost.train),
            "Evaluation": _duration(cost.evaluate),
            "Memory": f"{cost.memory:.0f} MB" if cost.memory else "not recorded",
            "Basis": cost.basis,
        }
        for cost in plan.costs
    ]
    bases = [cost.basis for cost in plan.costs]
    counts = ", ".join(
        f"{bases.count(b)} {b}" for b in (MEASURED, ELSEWHERE, SCALED, GUESSED) if b in bases
    )
    disk = plan.seeds * sum(cost.disk for cost in plan.costs)
    lines = [
        as_markdown(pd.DataFrame(rows)),
        "",
        f"{plan.preset}: {len(bases)} cells ({counts}), {plan.seeds} seed(s), {plan.jobs} jobs",
        f"work: {_duration(plan.hours)} of one worker ({plan.worker})",
        f"checkpoints: {disk:.0f} MB",
    ]
    if speedup != 1.0:
        lines.append(f"assumed: a worker is {speedup:g} times as fast as that")
    lines += [
        f"wall time on {n} worker(s): {_duration(makespan(plan, n, speedup))}, "
        f"{100 * busy_share(plan, n):.0f} % of it busy"
        for n in workers
    ]
    lines.append(
        f"longest training and evaluation, which no number of workers can shorten: "
        f"{_duration(plan.critical_path / speedup)}"
    )
    if plan.unknown:
        lines.append(f"left out, of unknown length: {', '.join(plan.unknown)}")
    return "\n".join(lines)


def _duration(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.1f} d"
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def _worker(result: Result) -> str:
    trained = result.environment["training"]
    return f"{trained['device']}, {trained['threads']} thread(s)"


def _cost(
    config: dict,
    dataset: str,
    model: str,
    steps: dict,
    same_worker: list[Result],
    other_workers: list[Result],
) -> Cost:
    recipe = resolve(config, dataset, model)["model"]
    basis, used = _basis(config["preset"], dataset, recipe, same_worker, other_workers)
    if basis in (MEASURED, ELSEWHERE):
        seconds = _median(_training(r) for r in used)
    else:
        rate = _median(
            _training(r) / max(1, r.training["epochs"]) / r.data["steps"]["train"] for r in used
        )
        seconds = rate * recipe["training"]["max_epochs"] * steps["train"]
    return Cost(
        dataset,
        model,
        seconds / 3600,
        _evaluation(config, used, same_worker) * steps["test"] / 3600,
        max((_memory(r) for r in used), default=0.0),
        4e-6 * _median(r.training["parameters"] for r in used),
        basis,
    )


def _basis(
    preset: str, dataset: str, recipe: dict, same_worker: list[Result], other_workers: list[Result]
) -> tuple[str, list[Result]]:
    """Return the best kind of basis with any results, and these results."""

    def of_model(results: list[Result]) -> list[Result]:
        same = (r for r in results if r.model == recipe["name"])
        return [r for r in same if r.recipe["model"]["sizes"] == recipe["sizes"]]

    def of_cell(results: list[Result]) -> list[Result]:
        same = (r for r in of_model(results) if r.dataset == dataset)
        return [r for r in same if r.recipe["model"]["training"] == recipe["training"]]

    latent = traits_of(recipe["family"]).latent
    alike = [r for r in same_worker if (r.likelihood == SAMPLED) == latent]
    candidates = (
        (MEASURED, of_cell(same_worker)),
        (ELSEWHERE, of_cell(other_workers)),
        (SCALED, of_model(same_worker)),
        (SCALED, of_model(other_workers)),
        (GUESSED, [r for r in alike if r.preset == preset] or alike or same_worker),
    )
    return next((basis, used) for basis, used in candidates if used or basis == GUESSED)


def _evaluation(config: dict, used: list[Result], results: list[Result]) -> float:
    """Return seconds per test step, in proportion to the samples (one for exact models)."""
    sampled = all(r.likelihood == SAMPLED for r in used)
    samples = config["evaluation"]["num_samples"] if sampled else 1
    for found in (used, results):
        rates = [
            _working_seconds(r.environment, r.environment["threads"])
            / r.data["steps"]["test"]
            / r.evaluation["num_samples"]
            for r in found
            if "seconds" in r.environment
        ]
        if rates:
            return statistics.median(rates) * samples
    return 0.0


def _training(result: Result) -> float:
    """Return the seconds that a training took."""
    return _working_seconds(result.training, result.environment["training"]["threads"])


def _working_seconds(record: dict, threads: int) -> float:
    # A job that shared its core, or was paused, took longer than its CPU time (which older records
    # lack).
    return min(record["seconds"], record.get("cpu_seconds", math.inf) / threads)


def _memory(result: Result) -> float:
    return max(part.get("peak_memory_mb", 0.0) for part in (result.training, result.environment))


def _median(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.median(found) if found else 0.0


def _steps(config: dict, dataset: str) -> dict[str, int] | None:
    entry = config["datasets"][dataset]
    if "steps" in entry.get("expected", {}):
        return entry["expected"]["steps"]
    options = entry["options"]
    if not {"sequences", "steps"} <= options.keys():
        return None
    return {part: options["steps"] * count for part, count in options["sequences"].items()}
