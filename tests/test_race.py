"""Races to a printed number: targets, records, the rule for "faster", and what is refused."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from scipy.stats import mannwhitneyu
from test_results import result
from test_training import recipe

from repro.bench import race as racing
from repro.data import prepared
from repro.errors import ConfigError, DataError
from repro.reports.race import as_table, caption, draw, write_race
from repro.results import race
from repro.results.record import read_cell

TARGETS = yaml.safe_load((ROOT / "config" / "targets.yaml").read_text())
CELLS = [(dataset, model) for dataset, models in TARGETS.items() for model in models]
DIGEST = "0" * 64
GOAL = race.Target("d", "m", 7.0, -6.9, "paper", DIGEST, "Because.")


def a_race(contender="fast", seed=0, bounds=(-9.0, -8.0, -6.8), seconds=10.0, **changes):
    """A race that validates every five epochs of `seconds` each."""
    epochs = [5 * i for i in range(len(bounds))]
    made = race.Race(
        schema=race.SCHEMA,
        contender=contender,
        dataset="d",
        model="m",
        seed=seed,
        target={"printed": 7.0, "valid_bound": -6.9},
        part="valid",
        data_sha256=DIGEST,
        recipe={"preset": contender},
        curve={
            "epoch": epochs,
            "updates": [12 * epoch for epoch in epochs],
            "cpu_seconds": [seconds * epoch for epoch in epochs],
            "valid_bound": list(bounds),
        },
        epochs_in_turn={},
        environment={"device": "a processor", "threads": 1, "date": "2026-11-28"},
        note="",
    )
    return dataclasses.replace(made, **changes)


# Targets


@pytest.mark.parametrize(("dataset", "model"), CELLS)
def test_a_target_is_what_the_stored_results_of_the_papers_recipe_give(dataset, model, monkeypatch):
    monkeypatch.chdir(ROOT)
    target = race.target_of(dataset, model)
    results = read_cell(ROOT / "results", target.preset, dataset, model)
    gaps = [r.per_step("bound") - r.training["best_validation_bound"] for r in results]
    bound, error = race.equivalent_bound(target.printed, results)
    assert bound == pytest.approx(-target.printed - sum(gaps) / len(gaps))
    assert round(bound, 3) == target.valid_bound
    assert f"{abs(np.mean(gaps)):.3f} ± {error:.3f}" in target.reason
    assert {r.data["sha256"] for r in results} == {target.data_sha256}
    printed = (ROOT / "paper_tables").glob("*/published.csv")
    assert any(f",{target.printed}," in path.read_text() for path in printed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nottingham", "dmm"), "no target for dmm on nottingham"),
        (("jsb_chorales", "rnn"), "no target for rnn on jsb_chorales"),
        (
            ("jsb_chorales", "dmm", 6.388),
            "no validation bound is known for the printed 6.388 of dmm",
        ),
    ],
)
def test_a_race_without_a_target_is_refused(arguments, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message) as caught:
        race.target_of(*arguments)
    assert "\n" not in str(caught.value)


# The rule for "faster"


def test_the_rule_is_the_exact_test_of_mann_and_whitney():
    rng = np.random.default_rng(0)
    for sizes in ((3, 3), (3, 1), (4, 3), (5, 5)):
        new, old = rng.random(sizes[0]), rng.random(sizes[1]) + 0.3
        exact = mannwhitneyu(new, old, alternative="less", method="exact").pvalue
        assert race.wins_by_chance(new, old) == pytest.approx(exact)


def test_three_seeds_are_faster_only_if_each_is_faster_than_all():
    assert race.wins_by_chance([1, 2, 3], [4, 5, math.inf]) == pytest.approx(0.05)
    assert race.wins_by_chance([1, 2, 4.5], [4, 5, 6]) > race.SIGNIFICANCE_LEVEL
    assert (
        race.wins_by_chance([1, 2, 4], [4, 5, 6]) > race.SIGNIFICANCE_LEVEL
    )  # a tie proves nothing
    assert race.wins_by_chance([1, 2, math.inf], [4, 5, math.inf]) > race.SIGNIFICANCE_LEVEL


@pytest.mark.parametrize("missed", [0.0, 0.3], ids=["all arrive", "some never arrive"])
@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_equal_recipes_are_called_faster_as_seldom_as_stated(spread, missed):
    rng, trials = np.random.default_rng(1), 600
    times = np.exp(spread * rng.standard_normal((trials, 2, 3)))
    times[rng.random(times.shape) < missed] = math.inf
    alarms = np.mean([race.wins_by_chance(*pair) <= race.SIGNIFICANCE_LEVEL for pair in times])
    error = math.sqrt(race.SIGNIFICANCE_LEVEL * (1 - race.SIGNIFICANCE_LEVEL) / trials)
    assert alarms <= race.SIGNIFICANCE_LEVEL + 3 * error
    if not missed:  # without ties the test is exact
        assert alarms >= race.SIGNIFICANCE_LEVEL - 3 * error


def test_twice_as_fast_is_found():
    rng = np.random.default_rng(2)
    new, old = np.exp(0.1 * rng.standard_normal((2, 200, 3)))
    found = [
        race.wins_by_chance(a, 2 * b) <= race.SIGNIFICANCE_LEVEL
        for a, b in zip(new, old, strict=True)
    ]
    assert np.mean(found) > 0.99


# Running


def goal_for(walk, bound):
    digest = prepared.load(walk, ())[0].sha256
    return race.Target("walk", "dmm", 1.0, bound, "paper", digest, "Because.")


def in_turn(*_):
    return {"test": {"cpu_seconds": 1.0, "flops": 1e9}}


@pytest.fixture
def alone(monkeypatch):
    """No other contenders are timed."""
    monkeypatch.setattr(racing, "epochs_in_turn", in_turn)


def test_a_race_ends_at_the_first_validation_that_meets_the_target(walk, tmp_path, alone):
    settings = recipe(max_epochs=8, learning_rate=0.02)
    [whole] = racing.run(settings, walk, [0], goal_for(walk, math.inf), 1, tmp_path / "whole")
    bounds = whole.curve["valid_bound"]
    best = max(bounds[:6])
    first = next(i for i, bound in enumerate(bounds) if bound >= best)
    target = goal_for(walk, best)
    [one] = racing.run(settings, walk, [0], target, 1, tmp_path / "one")
    assert one.curve["valid_bound"] == bounds[: first + 1]
    assert one.at_target(best) == one.last() and one.last()["epoch"] == first
    path = race.race_path(tmp_path / "one", "walk", "dmm", "test", 0)
    assert race.read(path, target) == one
    log = [json.loads(line) for line in race.log_of(path).read_text().splitlines()]
    assert [row["valid_bound"] for row in log] == one.curve["valid_bound"]


def test_a_finished_race_is_kept_and_one_to_another_target_is_run(
    walk, tmp_path, alone, monkeypatch
):
    settings, target = recipe(max_epochs=2), goal_for(walk, math.inf)
    first = racing.run(settings, walk, [0], target, 1, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(racing, "Training", None)
        assert racing.run(settings, walk, [0], target, 1, tmp_path) == first
    [other] = racing.run(settings, walk, [0], goal_for(walk, -1e9), 1, tmp_path)
    assert other.curve["epoch"] == [0]


def test_the_test_part_is_not_read(walk, tmp_path, alone, monkeypatch):
    asked = set()
    whole = prepared.load

    def load(path, parts):
        asked.update(parts)
        return whole(path, parts)

    monkeypatch.setattr(prepared, "load", load)
    racing.run(recipe(max_epochs=1), walk, [0], goal_for(walk, math.inf), 1, tmp_path)
    assert asked == {"train", "valid"}


def test_other_data_than_the_targets_are_refused_before_training(walk, tmp_path):
    target = dataclasses.replace(goal_for(walk, 0.0), data_sha256=DIGEST)
    with pytest.raises(DataError, match="holds other data"):
        racing.run(recipe(), walk, [0], target, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


def multiplied_by_muon(shape):
    """Operations of five steps X ← a X + (b G + c G²) X with G = X Xᵀ, (m, n) with m ≤ n.

    If X is wide, polynomials and G are multiplied instead, and X once at each end.
    """
    m, n = sorted(shape)
    if n < 2 * m:
        return 5 * (2 * m * m * n + 2 * m**3 + 2 * m * m * n)
    return 2 * m * m * n + 2 * m**3 * (5 + 4 + 4 * 2) + 2 * m * m * n


def test_operations_of_an_epoch_are_those_on_paper(walk, monkeypatch):
    """Three products per matrix and valid step, and what Muon multiplies."""
    monkeypatch.setattr(racing, "stored_races", lambda target: [])
    monkeypatch.setattr(racing, "_pyro_example", no_pyro)
    settings = recipe(optimizer="muon", muon_learning_rate=0.01, muon_momentum=0.9)
    found = [
        racing.epochs_in_turn(one, walk, goal_for(walk, 0.0))["test"]["flops"]
        for one in (recipe(), settings)
    ]
    training = racing.Training(recipe(), walk, 0, walk.parent, racing.CPU, 0)
    matrices = [p for p in training.model.parameters() if p.ndim == 2]
    steps = sum(len(sequence) for sequence in training.train_part)
    # First and last steps need fewer products, and the walks are short.
    assert found[0] == pytest.approx(6 * sum(p.numel() for p in matrices) * steps, rel=0.3)
    updates = len(list(training.batches()))
    assert found[1] - found[0] == updates * sum(multiplied_by_muon(p.shape) for p in matrices)


def no_pyro():
    raise ConfigError("Pyro is not installed.")


# Pyro's example


@pytest.fixture
def example(tmp_path):
    """Pyro's example on a few short sequences of 88 notes."""
    pyro_example = pytest.importorskip("repro.bench.pyro_example")
    rng = np.random.default_rng(0)
    parts = {
        part: [(rng.random((n, 88)) < 0.05).astype(float) for n in (4, 1, 6, 3, 2)]
        for part in ("train", "valid", "test")
    }
    path = tmp_path / "rolls" / "sequences.safetensors"
    prepared.save(parts, "rolls", {"kind": "binary", "normalise": "none"}, path)
    return lambda folder: pyro_example.PyroTraining(path, 0, tmp_path / folder)


def test_pyros_loss_is_the_elbo_with_a_weighted_kl(example):
    """Every factor written out for the z that the guide drew, without padding."""
    import pyro
    from torch.distributions import Bernoulli, Normal
    from torch.nn import functional as F

    one, weight = example("a").example, 0.3
    x = example("a").train_part[0].unsqueeze(1)  # (T, 1, 88)
    given = x, torch.tensor([len(x)]), weight
    drawn = pyro.poutine.trace(one.guide).get_trace(*given)
    traced = pyro.poutine.trace(pyro.poutine.replay(one.model, drawn)).get_trace(*given)
    elbo = traced.log_prob_sum() - drawn.log_prob_sum()
    with torch.no_grad():
        hidden = one.rnn(x.flip(0), one.rnn_start)[0].flip(0)
        previous, guess, expected = one.z_start, one.q_start, 0.0
        for t in range(len(x)):
            gate, proposed = one.gate(previous), one.proposed(previous)
            mean = (1 - gate) * one.linear_mean(previous) + gate * proposed
            prior = Normal(mean, F.softplus(one.deviation(proposed.relu())))
            combined = 0.5 * (one.from_latent(guess).tanh() + hidden[t, 0])
            q = Normal(one.q_mean(combined), F.softplus(one.q_deviation(combined)))
            z = drawn.nodes[f"z_{t}"]["value"][0]
            notes = Bernoulli(probs=one.emission(z)).log_prob(x[t, 0]).sum()
            expected += notes + weight * (prior.log_prob(z) - q.log_prob(z)).sum()
            previous = guess = z
    assert elbo.item() == pytest.approx(expected.item(), rel=1e-5)


def test_pyros_example_stopped_and_resumed_has_the_same_bits(example):
    whole = example("whole")
    for _ in range(2):
        whole.run_epochs(1)
    example("parts").run_epochs(1)
    resumed = example("parts")
    resumed.run_epochs(1)
    names = ("epoch", "updates", "valid_bound")
    assert len(whole.history) == 2
    for row, again in zip(whole.history, resumed.history, strict=True):
        assert [row[name] for name in names] == [again[name] for name in names]


def test_pyros_example_ends_with_its_time_or_at_its_target(example):
    one = example("a")
    assert len(one.run(minutes=1e-9, target=None)) == 1
    assert len(one.run(minutes=1e-9, target=None)) == 1  # the time is of all calls together
    assert len(one.run(minutes=math.inf, target=-1e9)) == 1


def test_the_kl_of_pyros_example_is_annealed_as_published():
    pyro_example = pytest.importorskip("repro.bench.pyro_example")
    weights = [pyro_example.kl_weight(*which, 12) for which in ((0, 0), (499, 11), (999, 11))]
    assert weights == pytest.approx([0.2 + 0.8 / 12000, 0.6, 1.0])
    assert pyro_example.kl_weight(1000, 0, 12) == 1.0


def test_operations_of_pyros_example_are_those_on_paper(example):
    one = example("a")
    matrices = sum(p.numel() for p in one.example.parameters() if p.ndim == 2)
    steps = sum(len(sequence) for sequence in one.train_part)
    assert one.operations() == pytest.approx(6 * matrices * steps, rel=0.25)


# Records


def test_records_survive_writing_and_reading_and_changed_ones_are_refused(tmp_path):
    path = tmp_path / "seed0.json"
    race.write(a_race(), path)
    assert race.read(path, GOAL) == a_race()
    path.write_text(path.read_text().replace("-6.8", "-6.7"))
    with pytest.raises(DataError, match="was changed after it was written"):
        race.read(path, GOAL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "test"}, "was made on the test part"),
        ({"data_sha256": "1" * 64}, "was made on other data"),
        ({"model": "another"}, "is a race of another on d"),
        ({"schema": 99}, "another schema"),
    ],
)
def test_records_that_cannot_count_are_refused(changes, message, tmp_path):
    path = tmp_path / "seed0.json"
    race.write(a_race(**changes), path)
    with pytest.raises(DataError, match=message) as caught:
        race.read(path, GOAL)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}'])
def test_what_is_not_a_record_is_refused(text, tmp_path):
    path = tmp_path / "seed0.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is not a race"):
        race.read(path, GOAL)


def store(folder, *races):
    for one in races:
        path = race.race_path(folder, "d", "m", one.contender, one.seed)
        race.write(one, path)
        race.log_of(path).write_text("{}\n")


def test_a_record_needs_three_seeds_with_logs_and_a_peer_one(tmp_path):
    runs, kept = tmp_path / "runs", tmp_path / "races"
    with pytest.raises(DataError, match="no races in"):
        race.accept_races(GOAL, runs, kept)
    store(runs, a_race(), a_race(seed=1))
    with pytest.raises(DataError, match=r"has 2 seed\(s\), and 3 are needed"):
        race.accept_races(GOAL, runs, kept)
    store(runs, a_race(seed=2), a_race(race.PYRO))
    race.accept_races(GOAL, runs, kept)
    groups = race.stored(GOAL, kept, tmp_path / "results")
    assert groups == [[a_race(seed=seed) for seed in range(3)], [a_race(race.PYRO)]]
    race.log_of(race.race_path(runs, "d", "m", "fast", 1)).unlink()
    with pytest.raises(DataError, match="lacks the log"):
        race.accept_races(GOAL, runs, kept)


def test_a_stored_training_is_a_race_with_its_own_seconds_or_with_its_total_spread():
    validations = {"epoch": [0, 10, 20], "valid_bound": [-9.0, -7.0, -6.5]}
    training = {"epochs": 40, "updates": 400, "cpu_seconds": 80.0, "validations": validations}
    goal = dataclasses.replace(GOAL, data_sha256=result().data["sha256"])
    spread = race.from_result(result(training=training), goal)
    assert spread.curve["cpu_seconds"] == [0.0, 20.0, 40.0]
    assert spread.curve["updates"] == [0, 100, 200] and "spread evenly" in spread.note
    own = {**validations, "cpu_seconds": [0.0, 1.0, 5.0], "updates": [0, 9, 19]}
    exact = race.from_result(result(training={**training, "validations": own}), goal)
    assert exact.curve["cpu_seconds"] == [0.0, 1.0, 5.0] and exact.note == ""
    with pytest.raises(DataError, match="was made on other data"):
        race.from_result(result(training=training), GOAL)


# Table and figure


def three_contenders():
    epochs = {
        "fast": {"cpu_seconds": 2.0, "flops": 1e11},
        "slow": {"cpu_seconds": 4.0, "flops": 2e11},
    }
    fast = [a_race(seed=seed, seconds=1.0, epochs_in_turn=epochs) for seed in range(3)]
    late = (-9.0, -8.0, -7.5, -7.0, -6.85)
    slow = [a_race("slow", seed, late) for seed in range(2)]
    never = a_race("slow", 2, (*late[:-1], -6.95), note="N.")
    return [[*slow, never], fast, [a_race("untimed")]]


def test_the_table_says_who_needs_how_much():
    first, slow, untimed = as_table(three_contenders(), GOAL).fillna("").to_dict("records")
    assert [row["Recipe"] for row in (first, slow, untimed)] == ["fast", "slow", "untimed"]
    assert (first["Met"], slow["Met"]) == ("3 of 3", "2 of 3")
    assert (first["CPU seconds"], slow["CPU seconds"]) == ("10", "≥ 200")
    assert (first["CPU seconds, in turn"], slow["CPU seconds, in turn"]) == ("20", "≥ 80")
    assert (first["TFLOP"], slow["TFLOP"]) == ("1", "≥ 4")
    assert (first["Times the first"], slow["Times the first"]) == ("1.0", "≥ 4.0")
    assert (first["p"], slow["p"]) == ("", "0.05") and untimed["p"] == ""
    text = caption(three_contenders(), GOAL)
    assert "slow: N." in text and "a processor, 1 thread" in text and "Because." in text


def test_only_the_first_row_has_no_p_even_if_nobody_arrives():
    epochs = {name: {"cpu_seconds": 2.0, "flops": 1e11} for name in ("one", "other")}
    short = (-9.0, -8.0)
    groups = [
        [a_race(name, seed, short, epochs_in_turn=epochs) for seed in range(3)]
        for name in ("one", "other")
    ]
    first, second = as_table(groups, GOAL).fillna("").to_dict("records")
    assert (first["p"], second["p"]) == ("", "1.00")


def test_the_figure_has_a_line_per_seed_and_marks_who_arrived():
    [axes] = draw(three_contenders(), GOAL).axes
    lines = [
        line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) > 1
    ]
    assert len(lines) == 7 and axes.get_xscale() == "log"
    marks = sorted(x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
    assert marks == [10.0] * 3 + [100.0] + [200.0] * 2


@pytest.mark.parametrize(("dataset", "model"), CELLS)
def test_stored_races_render_to_the_committed_table(dataset, model, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    target = race.target_of(dataset, model)
    folder = ROOT / "paper_tables" / "races" / dataset / model
    if not folder.exists():
        pytest.skip("nobody has raced there yet")
    table, _ = write_race(race.stored(target), target, tmp_path)
    assert table.read_text() == (folder / "table.md").read_text()
