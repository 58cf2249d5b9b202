"""Plans: simulated wall times against their bounds, hours against the results they come from."""

import dataclasses
import math
import statistics
from collections import Counter

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from repro.config import recipes as configuration
from repro.planning import (
    ELSEWHERE,
    GUESSED,
    MEASURED,
    SCALED,
    Cost,
    Plan,
    busy_share,
    makespan,
    plan,
    priorities,
    stored,
    stored_for,
)

HOURS = st.floats(0.01, 10.0)


def plan_of(times, seeds=1, stack_seeds=False):
    costs = [Cost("d", f"m{i}", a, b, 0.0, 0.0, MEASURED) for i, (a, b) in enumerate(times)]
    return Plan("p", costs, seeds, stack_seeds, "w", [])


@given(
    st.lists(st.tuples(HOURS, HOURS), min_size=1, max_size=12),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
)
def test_wall_time_lies_between_its_bounds(times, workers, stack_seeds, longest_first):
    """Graham's bound: a list schedule takes at most work ÷ workers + the critical path."""
    made = plan_of(times, seeds=2, stack_seeds=stack_seeds)
    wall = makespan(made, workers, longest_first=longest_first)
    assert wall >= max(made.hours / workers, made.critical_path) - 1e-9
    assert wall <= made.hours / workers + made.critical_path + 1e-9


def test_one_worker_does_all_the_work_and_many_take_the_critical_path():
    made = plan_of([(3.0, 1.0), (2.0, 0.5), (0.5, 0.5)], seeds=3)
    assert makespan(made, 1) == pytest.approx(made.hours) == pytest.approx(22.5)
    assert makespan(made, 100) == pytest.approx(made.critical_path) == pytest.approx(4.0)
    assert makespan(made, 4, speedup=2.0) == pytest.approx(makespan(made, 4) / 2)


def test_the_longest_job_begins_first_or_runs_alone_at_the_end():
    """Three jobs of 2, 2 and 4 hours on two workers: 6 hours in this order, 4 at best."""
    made = plan_of([(1.5, 0.5), (1.5, 0.5), (3.0, 1.0)])
    assert makespan(made, 2, longest_first=False) == pytest.approx(6.0)
    assert makespan(made, 2) == pytest.approx(4.0)
    assert busy_share(made, 2, longest_first=False) == pytest.approx(8 / 12)
    assert busy_share(made, 2) == pytest.approx(1.0)


def test_priorities_keep_a_machine_busy_to_the_end_of_paper_music():
    """By the stored timings, on as many cores as machines have: 98 % and more of the time."""
    config = configuration.load("paper-music")
    made = plan(config, stored(ROOT / "results"))
    for workers in (8, 16, 32):
        assert busy_share(made, workers) > 0.98 > busy_share(made, workers, longest_first=False)


def test_a_priority_is_the_seconds_until_a_jobs_last_evaluation_is_done():
    made = plan_of([(3.0, 1.0), (2.0, 0.5)], seeds=3)
    first, second = priorities(made)["d", "m0"], priorities(made)["d", "m1"]
    assert first == {"train": 4 * 3600, "evaluate": 3600} and second["train"] == 2.5 * 3600
    together = plan_of([(3.0, 1.0)], seeds=3, stack_seeds=True)
    assert priorities(together)["d", "m0"]["train"] == 10 * 3600
    instant = priorities(plan_of([(0.0, 0.0), (1e-9, 1e-9)]))
    assert all(isinstance(p, int) for jobs in instant.values() for p in jobs.values())


def test_seeds_that_train_together_are_one_job():
    made = plan_of([(3.0, 1.0), (2.0, 0.5)], seeds=3, stack_seeds=True)
    assert made.jobs == 2 + 6 and makespan(made, 1) == pytest.approx(made.hours)
    assert makespan(made, 100) == pytest.approx(made.critical_path) == pytest.approx(10.0)


def test_stored_cells_are_measured_others_scaled_by_steps_or_guessed():
    results = stored(ROOT / "results")
    config = configuration.load("paper-music")
    own = [r for r in results if (r.preset, r.dataset, r.model) == ("paper-music", *CELL)]
    made = plan(config, own)
    cost = {(c.dataset, c.model): c for c in made.costs}
    measured = cost[CELL]
    assert measured.basis == MEASURED
    assert all(r.training["cpu_seconds"] < r.training["seconds"] for r in own)  # of one thread
    seconds = sorted(r.training["cpu_seconds"] for r in own)
    assert measured.train == pytest.approx(seconds[len(seconds) // 2] / 3600)
    scaled = cost["piano_midi", CELL[1]]
    assert scaled.basis == SCALED and cost["piano_midi", "srnn"].basis == GUESSED
    per_epoch_and_step = sorted(
        r.training["cpu_seconds"] / r.training["epochs"] / r.data["steps"]["train"] for r in own
    )[len(own) // 2]
    steps = config["datasets"]["piano_midi"]["expected"]["steps"]["train"]
    epochs = configuration.resolve(config, "piano_midi", CELL[1])["model"]["training"]["max_epochs"]
    assert scaled.train == pytest.approx(per_epoch_and_step * steps * epochs / 3600)
    assert made.jobs == 2 * len(config["seeds"]) * len(made.costs)


@pytest.mark.parametrize(("model", "likelihood"), [("srnn", "sampled"), ("tcn", "exact")])
def test_a_model_that_was_never_run_costs_what_its_kind_does_on_the_presets_machine(
    model, likelihood
):
    results = [r for r in stored(ROOT / "results") if r.preset == "music" and r.model != model]
    (device, _), *_ = Counter(r.environment["training"]["device"] for r in results).most_common()
    results = [r for r in results if r.environment["training"]["device"] == device]
    alike = [r for r in results if r.likelihood == likelihood]
    elsewhere = [r for r in stored(ROOT / "results") if r.preset == "paper-music"]
    config = configuration.load("music")
    made = plan(config, [*elsewhere, *results])
    (found,) = [c for c in made.costs if (c.dataset, c.model) == ("musedata", model)]
    per_step = statistics.median(
        r.training["cpu_seconds"] / r.training["epochs"] / r.data["steps"]["train"] for r in alike
    )
    steps = config["datasets"]["musedata"]["expected"]["steps"]
    recipe = configuration.resolve(config, "musedata", model)["model"]
    hours = per_step * steps["train"] * recipe["training"]["max_epochs"] / 3600
    assert found.train == pytest.approx(hours) and found.basis == GUESSED
    per_sample = statistics.median(
        min(r.environment["seconds"], r.environment.get("cpu_seconds", math.inf))
        / r.data["steps"]["test"]
        / r.evaluation["num_samples"]
        for r in alike
    )
    samples = config["evaluation"]["num_samples"] if likelihood == "sampled" else 1
    assert found.evaluate == pytest.approx(per_sample * steps["test"] * samples / 3600)


def test_what_the_snakefile_reads_is_one_seed_of_the_preset_and_of_its_models():
    config = configuration.load("starter")
    models = {model for _, model in configuration.cells(config)}
    expected = [
        r
        for r in stored(ROOT / "results")
        if r.seed == 0 and (r.preset == "starter" or r.model in models)
    ]
    found = stored_for(config, ROOT / "results")
    assert {r.preset for r in found} > {"starter"}
    assert found == expected and plan(config, found) == plan(config, expected)


def test_hours_of_one_kind_of_machine_are_not_mixed_with_another():
    own = [r for r in stored(ROOT / "results") if (r.dataset, r.model) == CELL]
    training = own[0].environment["training"] | {"device": "another"}
    slow = own[0].training | {"seconds": 1e9}
    other = dataclasses.replace(
        own[0], training=slow, environment=own[0].environment | {"training": training}
    )
    config = configuration.load("paper-music")
    assert plan(config, [*own, other]) == plan(config, own)


def test_an_evaluation_that_waited_for_its_core_is_planned_by_its_cpu_time():
    own = [r for r in stored(ROOT / "results") if (r.dataset, r.model) == CELL]

    def took(**seconds):
        environments = (r.environment | {"threads": 2, **seconds} for r in own)
        return [
            dataclasses.replace(r, environment=e) for r, e in zip(own, environments, strict=True)
        ]

    config = configuration.load("paper-music")
    waited, alone = took(seconds=1e9, cpu_seconds=240.0), took(seconds=120.0)
    assert plan(config, waited) == plan(config, alone) != plan(config, took(seconds=240.0))


def test_a_cell_that_only_another_machine_has_run_takes_what_it_took_there():
    results = [r for r in stored(ROOT / "results") if r.preset == "paper-music"]
    own = [r for r in results if (r.dataset, r.model) == CELL]
    there = next(r for r in results if (r.dataset, r.model) == ("jsb_chorales", "rnn"))
    training = there.environment["training"] | {"device": "another"}
    there = dataclasses.replace(there, environment=there.environment | {"training": training})
    made = plan(configuration.load("paper-music"), [*own, there])
    cost = {(c.dataset, c.model): c for c in made.costs}
    assert made.worker == plan(configuration.load("paper-music"), own).worker
    measured = cost["jsb_chorales", "rnn"]
    assert measured.basis == ELSEWHERE
    assert measured.train == pytest.approx(there.training["cpu_seconds"] / 3600)
    assert cost["nottingham", "rnn"].basis == SCALED and cost[CELL].basis == MEASURED


def test_without_any_result_everything_is_guessed_as_zero():
    made = plan(configuration.load("smoke"), [])
    assert {c.basis for c in made.costs} == {GUESSED} and made.hours == 0.0


CELL = ("jsb_chorales", "vrnn")


@pytest.mark.parametrize("preset", configuration.presets())
def test_every_preset_has_a_plan_and_names_data_of_unknown_length(preset):
    config = configuration.load(preset)
    found = plan(config, [])
    planned = {cost.dataset for cost in found.costs}
    assert planned | set(found.unknown) == {dataset for dataset, _ in configuration.cells(config)}
    assert not planned & set(found.unknown)
