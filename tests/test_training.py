"""Training and evaluation of small models on a small data set, end to end."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SIZES, spec
from safetensors.torch import load_file

import repro.training.trainer as training
from repro.data import batches, prepared
from repro.errors import CheckpointError, ConfigError, NumericalError
from repro.evaluation.evaluate import bound_sequences, evaluate, likelihood_of, sequence_noise
from repro.evaluation.predict import write_predictions
from repro.evaluation.sample import write_samples
from repro.models import build
from repro.training.checkpoints import load_checkpoint, load_state
from repro.training.run import train
from repro.training.validation import validation_bound

CPU = torch.device("cpu")
TRAINING = {
    "max_epochs": 4,
    "batch_size": 3,
    "batch_order": "shuffled",
    "learning_rate": 0.01,
    "adam_betas": [0.9, 0.999],
    "l2_penalty": 0.001,
    "clip_norm": 5.0,
    "kl_start": 0.1,
    "kl_updates": 5,
    "validate_every": 1,
    "patience": None,
}


def recipe(family="dmm", sizes=None, **changes):
    sizes = {**SIZES.get(family, {}), "initial_weights": 0.1, **(sizes or {})}
    return {
        "preset": "test",
        "dataset": {"name": "walk", "kind": "real", "options": {}},
        "model": {
            "name": family,
            "family": family,
            "heads": {"real": "gaussian"},
            "sizes": sizes,
            "training": {**TRAINING, **changes},
        },
    }


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


def rows_of(folder):
    """The rows of a training's history."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def weights(path):
    """The chosen weights and, since the chosen may be the first, every epoch's objective."""
    rows = rows_of(path.parent)
    objectives = [row["train_objective"] for row in rows[1:]]
    return {**load_file(path), "history": torch.tensor(objectives, dtype=torch.float64)}


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def run(walk, folder, seed=0, **arguments):
    return train(recipe(**arguments), walk, seed, folder, CPU, "disabled")


OUR_RECIPE = {
    "optimizer": "muon",
    "muon_learning_rate": 0.02,
    "muon_momentum": 0.9,
    "weight_decay": 0.1,
    "schedule": "cosine",
    "warmup_updates": 3,
    "average": 0.8,
    "kl_share": 0.5,
    "random_segments": 4,
    "initialise_from_data": True,
}
DROPOUT = {"sizes": {"dropout": 0.3}}
NASMC = {"objective": "nasmc", "samples": 3}
IWAE = {"objective": "iwae", "samples": 3}
FIVO = {"objective": "fivo", "samples": 3}


@pytest.mark.parametrize("family", ["dmm", "vrnn", "rnn"])
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(family, walk, tmp_path):
    a, b, other = (
        weights(run(walk, tmp_path / str(i), seed, family=family))
        for i, seed in enumerate((0, 0, 1))
    )
    assert same_bits(a, b) and not same_bits(a, other)


def test_a_finished_run_says_that_it_starts_from_the_beginning(walk, tmp_path, capsys):
    first = weights(run(walk, tmp_path))
    assert "starts from" not in capsys.readouterr().err
    again = weights(run(walk, tmp_path))
    assert (
        f"starts from the beginning; {tmp_path / 'checkpoint.safetensors'}"
        in capsys.readouterr().err
    )
    assert same_bits(first, again)


class Killed(BaseException):
    """Simulates a kill: nothing catches it."""


SEGMENTS = {"segment": 3, "segments_carried": 2}


CUT = ["vrnn", "rnn", "transformer", "tcn", "minimal_rnn", "lru", "mamba"]


@pytest.mark.parametrize("family", CUT)
def test_segments_as_long_as_the_sequences_are_the_whole_and_shorter_ones_are_not(
    family, walk, tmp_path
):
    whole, long, short = (
        weights(run(walk, tmp_path / str(i), family=family, **segments))
        for i, segments in enumerate(({}, {**SEGMENTS, "segment": 9}, SEGMENTS))
    )
    assert same_bits(whole, long) and not same_bits(whole, short)


@pytest.mark.fault
@pytest.mark.parametrize(
    "family_arguments",
    [
        {"family": "dmm", **DROPOUT},
        {"family": "rnn", **DROPOUT},
        {"family": "vrnn"},
        {"family": "vrnn", "learning_rate_half_life": 2.0},
        {"family": "vrnn", **SEGMENTS},
        {"family": "transformer", **DROPOUT, **SEGMENTS},
        {"family": "dmm", **OUR_RECIPE},
        {"family": "vrnn", **NASMC},
        {"family": "vrnn", **IWAE},
        {"family": "tsbn", **IWAE},
        {"family": "vrnn", **FIVO},
    ],
)
@pytest.mark.parametrize("update", [1, 6, 10, 15])
def test_killed_and_resumed_run_gives_the_same_bits(
    family_arguments, update, walk, tmp_path, monkeypatch
):
    whole = run(walk, tmp_path / "whole", **family_arguments)
    original = training.Training.update

    def kill(self, loss):
        if self.updates == update:
            raise Killed
        original(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "update", kill)
        with pytest.raises(Killed):
            run(walk, tmp_path / "killed", **family_arguments)
    assert not (tmp_path / "killed" / "checkpoint.safetensors").exists()
    resumed = run(walk, tmp_path / "killed", **family_arguments)
    assert same_bits(weights(whole), weights(resumed))
    histories = [rows_of(tmp_path / name) for name in ("whole", "killed")]
    for rows in histories:
        seconds = [row.pop("cpu_seconds") for row in rows]
        assert seconds[0] == 0 and seconds == sorted(seconds)
    assert histories[0] == histories[1]


def test_state_of_another_recipe_is_not_resumed(walk, tmp_path, monkeypatch):
    def kill(self, row):
        original(self, row)
        if self.epoch == 2:
            raise Killed

    original = training.Training._validate
    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "_validate", kill)
        with pytest.raises(Killed):
            run(walk, tmp_path / "a")
    changed = run(walk, tmp_path / "a", learning_rate=0.02)
    fresh = run(walk, tmp_path / "b", learning_rate=0.02)
    assert same_bits(weights(changed), weights(fresh))


def test_checkpoint_is_the_best_validation_epoch(walk, tmp_path):
    path = run(walk, tmp_path, max_epochs=12, learning_rate=0.05)
    model, info = load_checkpoint(path)
    rows = rows_of(tmp_path)
    best = max(rows, key=lambda row: row["valid_bound"])
    assert info.training["best_epoch"] == best["epoch"]
    valid = batches.to_tensors(prepared.load(walk, ("valid",))[1]["valid"], CPU)
    assert validation_bound(model, valid, 0) == best["valid_bound"]


def test_sampling_the_validation_part_changes_nothing_else(walk, tmp_path):
    plain = run(walk, tmp_path / "plain", **DROPOUT)
    looked_at = train(recipe(**DROPOUT), walk, 0, tmp_path / "is", CPU, "disabled", 10)
    assert same_bits(weights(plain), weights(looked_at))
    rows = rows_of(tmp_path / "is")
    # In expectation above the bound; these few sequences have noise of a tenth of a nat.
    assert all(row["valid_is"] > row["valid_bound"] - 0.1 for row in rows)


def test_the_checkpoint_keeps_the_learning_curve(walk, tmp_path):
    changed = recipe(max_epochs=45, validate_every=2)
    path = train(changed, walk, 0, tmp_path, CPU, "disabled", 10)
    rows = rows_of(tmp_path)
    curve = load_checkpoint(path)[1].training["validations"]
    assert curve["epoch"] == [*range(0, 45, 2), 45]
    assert set(curve) >= {"epoch", "valid_bound", "valid_is", "train_bound", "gradient_norm"}
    for name, column in curve.items():
        expected = [rows[epoch].get(name) for epoch in curve["epoch"]]
        assert column == [v if v is None else pytest.approx(v, rel=1e-5) for v in expected]
    sampled = [e for e, value in zip(curve["epoch"], curve["valid_is"], strict=True) if value]
    # 20 % apart or more, and the last.
    assert sampled == [*range(0, 13, 2), 16, 20, 24, 30, 36, 44, 45]


@pytest.mark.parametrize("constant", [0, 2])
def test_the_step_size_halves_in_its_half_life(constant, walk, tmp_path, monkeypatch):
    """As torch's own exponential schedule has it, epoch by epoch, after those without one."""
    used, original = [set() for _ in range(5)], training.Training.update

    def watch(self, loss):
        original(self, loss)
        used[self.epoch].add(self.optimizers[0].param_groups[0]["lr"])

    monkeypatch.setattr(training.Training, "update", watch)
    falls = {"learning_rate_half_life": 2.0, **({"constant_epochs": constant} if constant else {})}
    run(walk, tmp_path, max_epochs=5, learning_rate=0.01, **falls)
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=0.01)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5**0.5)
    expected = []
    for epoch in range(5):
        expected += schedule.get_last_lr()
        optimizer.step()
        if epoch >= constant:
            schedule.step()
    assert [lr for epoch in used for lr in epoch] == pytest.approx(expected)


def test_patience_stops_training(walk, tmp_path):
    path = run(walk, tmp_path, max_epochs=200, learning_rate=0.1, patience=3)
    info = load_checkpoint(path)[1].training
    assert info["epochs"] == info["best_epoch"] + 3 < 200


def test_training_improves_the_bound(walk, tmp_path):
    run(walk, tmp_path, max_epochs=30)
    bounds = [row["valid_bound"] for row in rows_of(tmp_path)]
    assert max(bounds) > bounds[0] + 0.1


@pytest.mark.fault
def test_loss_that_is_not_finite_ends_the_training_with_the_best_weights_before(
    walk, tmp_path, monkeypatch
):
    original = training.by_elbo
    calls = []

    def poisoned(*given):
        calls.append(0)
        *values, state = original(*given)
        return *(v * math.nan if len(calls) > 6 else v for v in values), state

    monkeypatch.setattr(training, "by_elbo", poisoned)
    _, info = load_checkpoint(run(walk, tmp_path))
    assert "the loss of dmm on walk, seed 0, is not finite at update 6 (epoch 2)" in str(
        info.training["diverged"]
    )
    assert info.training["epochs"] == 1 and info.training["best_epoch"] <= 1
    assert [row["epoch"] for row in rows_of(tmp_path)] == [0, 1]
    result = evaluate(tmp_path / "checkpoint.safetensors", walk, 20, [], CPU)
    assert "diverged" in result.training and np.isfinite(result.values("is")).all()


@pytest.mark.fault
def test_without_waiting_for_each_loss_the_epochs_end_names_the_update(walk, tmp_path, monkeypatch):
    """As on a GPU."""
    one = training.Training(recipe(), walk, 0, tmp_path, CPU, 0)
    one.checks_every_update, original = False, training.Training.update

    def poisoned(self, loss):
        original(self, loss * math.nan if self.updates in (5, 6) else loss)

    monkeypatch.setattr(training.Training, "update", poisoned)
    row = one.one_epoch()  # updates 0 to 3
    one.epoch = row["epoch"]
    with pytest.raises(NumericalError, match=r"the loss .* not finite at update 5 \(epoch 2\)"):
        one.one_epoch()
    assert one.updates == 8


def test_evaluation_does_not_depend_on_batches_or_chunks(walk, tmp_path, monkeypatch):
    checkpoint = run(walk, tmp_path)
    model, _ = load_checkpoint(checkpoint)
    tensors = batches.to_tensors(prepared.load(walk, ("test",))[1]["test"], CPU)
    together = bound_sequences(model, batches.collate(tensors, [4, 0, 2]), 60, [1, 20], 0)
    monkeypatch.setattr("repro.evaluation.evaluate.MAX_ROWS", 1)  # smallest chunks
    monkeypatch.setattr("repro.evaluation.evaluate.STEPS_AT_ONCE", 1)
    for column, identity in enumerate([4, 0, 2]):
        alone = bound_sequences(model, batches.collate(tensors, [identity]), 60, [1, 20], 0)
        for name, values in alone.items():
            torch.testing.assert_close(together[name][column], values[0], rtol=1e-5, atol=1e-5)


def test_importance_sampling_tightens_the_bound(walk, tmp_path):
    checkpoint = run(walk, tmp_path, max_epochs=10)
    result = evaluate(checkpoint, walk, 200, [1, 10], CPU)
    noise = math.hypot(result.monte_carlo_error("bound"), result.monte_carlo_error("is"))
    assert result.per_step("is") > result.per_step("bound") - 6 * noise
    assert result.per_step("is_1") < result.per_step("is_10") + 6 * noise
    # With one sample the estimate is the sampled ELBO, whose mean is the bound.
    assert abs(result.per_step("is_1") - result.per_step("bound")) < 6 * noise
    parts = result.values("log_likelihood") - result.values("kl")
    np.testing.assert_allclose(parts, result.values("bound"))


def test_exact_models_have_bound_equal_to_estimate(walk, tmp_path):
    result = evaluate(run(walk, tmp_path, family="rnn"), walk, 50, [1, 10], CPU)
    np.testing.assert_array_equal(result.values("bound"), result.values("is"))
    assert result.evaluation == {"num_samples": 1, "curve": []}
    assert result.monte_carlo_error("is") == 0.0


def test_first_steps_share_is_that_of_sequences_of_one_step(walk, tmp_path):
    """If q only looks back, z_1 and the density of x_1 do not depend on later steps."""
    tensors = batches.to_tensors(prepared.load(walk, ("test",))[1]["test"], CPU)
    for family, samples in (("rnn", 1), ("vrnn", 20)):
        model, _ = load_checkpoint(run(walk, tmp_path / family, family=family))
        batch = batches.collate(tensors, [3, 0, 5])
        share = bound_sequences(model, batch, samples, [], 0)["first_log_likelihood"]
        noise = sequence_noise(batch, 0, samples, model.latent, 0)[:1]
        with torch.no_grad():
            alone = model(batch.x[:1], torch.ones(3, dtype=torch.long), noise)
        torch.testing.assert_close(share, alone.log_likelihood.double()[0].mean(0))


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize(
    ("family", "expected"), [("dmm", "sampled"), ("tsbn", "sampled"), ("rnn", "exact")]
)
def test_a_result_says_how_its_likelihood_is_computed(family, expected, samples, walk, tmp_path):
    path = run(walk, tmp_path, family=family, max_epochs=1)
    found = evaluate(path, walk, samples, [], CPU)
    assert found.likelihood == expected and not found.true_parameters


@pytest.mark.parametrize(("hidden", "expected"), [(10, "exact"), (11, "Z by AIS")])
def test_an_rbms_normaliser_is_estimated_if_no_layer_can_be_enumerated(hidden, expected):
    model = build(spec("marginal", "rbm", dim=12, rbm_hidden=hidden))
    assert likelihood_of(model) == expected


def test_what_a_model_inherits_is_asked_before_it_trains(walk, tmp_path, monkeypatch):
    """The configuration reads a class's own declaration; a DMM under another name has none."""
    monkeypatch.chdir(tmp_path)
    Path("heir.py").write_text("from repro.models.dmm import DMM\n\nclass Heir(DMM):\n    pass\n")
    wrong = recipe(segment=2)
    wrong["model"]["family"] = "heir.py:Heir"
    with pytest.raises(ConfigError, match="its inference reads whole sequences"):
        train(wrong, walk, 0, tmp_path / "run", CPU, "disabled")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_predictions_of_a_sequence_sum_to_its_estimate(walk, tmp_path):
    """For an exact model that is its likelihood, else the particle filter's estimate."""
    for family in ("rnn", "dmm"):
        checkpoint, path = run(walk, tmp_path / family, family=family), tmp_path / f"{family}.csv"
        result = evaluate(checkpoint, walk, 20, [], CPU, particles=20)
        write_predictions(checkpoint, walk, 20, CPU, path)
        table = pd.read_csv(path)
        sums = table.groupby("sequence")["nats"]
        expected = result.values("is" if family == "rnn" else "fivo")
        np.testing.assert_allclose(sums.sum(), expected, rtol=1e-5)
        assert sums.count().tolist() == result.per_sequence["length"]


def test_results_keep_the_order_of_the_file(walk, tmp_path):
    result = evaluate(run(walk, tmp_path, family="rnn"), walk, 1, [], CPU)
    test = prepared.load(walk, ("test",))[1]["test"]
    assert result.per_sequence["length"] == [len(s) for s in test]


def test_checkpoint_of_another_cell_is_refused(walk, tmp_path):
    checkpoint = run(walk, tmp_path)
    for wrong, words in (
        ({"model": "vrnn"}, "is a checkpoint of model dmm, not vrnn"),
        ({"dataset": "jsb"}, "of dataset walk, not jsb"),
        ({"seed": 3}, "of seed 0, not 3"),
    ):
        with pytest.raises(CheckpointError, match=words):
            evaluate(checkpoint, walk, 10, [], CPU, expected=wrong)


READ_THE_DATA = {
    "evaluate": lambda checkpoint, data, out: evaluate(checkpoint, data, 10, [], CPU),
    "predict": lambda checkpoint, data, out: write_predictions(checkpoint, data, 5, CPU, out),
    "sample": lambda checkpoint, data, out: write_samples(checkpoint, data, 2, out),
}


@pytest.mark.fault
@pytest.mark.parametrize("command", READ_THE_DATA)
@pytest.mark.parametrize("other", ["values", "scale", "shift"])
def test_checkpoint_of_other_data_is_refused(command, other, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "walk" / "sequences.safetensors"
    parts = {part: [rng.integers(-9, 9, (4, 2)) * 1.0 for _ in "abc"] for part in prepared.PARTS}

    def prepare(change):
        changed = {part: [change(s) for s in found] for part, found in parts.items()}
        prepared.save(changed, "walk", {"kind": "real", "normalise": "global"}, path)

    prepare(lambda s: s)
    checkpoint = run(path, tmp_path / "run", max_epochs=1)
    READ_THE_DATA[command](checkpoint, path, tmp_path / "out")
    (tmp_path / "out").unlink(missing_ok=True)
    # Twice the values normalise to the same bytes; the model knows another standard deviation.
    prepare({"values": np.flip, "scale": lambda s: 2 * s, "shift": lambda s: s + 64.0}[other])
    with pytest.raises(CheckpointError, match="was trained on other data"):
        READ_THE_DATA[command](checkpoint, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.fault
def test_missing_and_damaged_checkpoints_say_what_to_do(walk, tmp_path):
    with pytest.raises(CheckpointError, match="is missing: train it first"):
        load_checkpoint(tmp_path / "checkpoint.safetensors")
    checkpoint = run(walk, tmp_path)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(checkpoint)
    (tmp_path / "last.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="remove it to train from the start"):
        load_state(tmp_path / "last.pt", "")


@pytest.mark.fault
def test_log_weights_that_are_not_finite_name_the_sequence(walk, tmp_path):
    model, _ = load_checkpoint(run(walk, tmp_path))
    with torch.no_grad():
        model.head.layer.linear.bias.fill_(math.nan)
    tensors = batches.to_tensors(prepared.load(walk, ("test",))[1]["test"], CPU)
    with pytest.raises(NumericalError, match="test sequence 3, 1 are NaN"):
        bound_sequences(model, batches.collate(tensors, [3, 1]), 20, [], 0)
