"""Seeds that train together get what each gets alone."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_training import (
    CPU,
    DROPOUT,
    NASMC,
    OUR_RECIPE,
    SEGMENTS,
    Killed,
    recipe,
    same_bits,
    weights,
)

import repro.training.cuda_graphs
import repro.training.stacked
from repro.data import prepared
from repro.errors import ConfigError
from repro.models.vrnn import VRNN
from repro.training.checkpoints import load_checkpoint
from repro.training.run import train, train_seeds
from repro.training.trainer import Training

SEEDS = [0, 3, 5]
CASES = {
    "rnn": {"family": "rnn"},
    "vrnn": {"family": "vrnn"},
    "vrnn, similar lengths": {"family": "vrnn", "batch_order": "similar_lengths"},
    "vrnn-i, two samples": {"family": "vrnn", "sizes": {"prior": None}, "samples": 2},
    "storn": {"family": "storn"},
    "vae": {"family": "vae"},
    "dmm, decaying steps": {"family": "dmm", "learning_rate_half_life": 1.5},
    "dmm, our recipe": {"family": "dmm", **OUR_RECIPE},
    "srnn": {"family": "srnn"},
    **{
        f"{family}, dropout of inputs": {"family": family, "sizes": {"input_dropout": 0.4}}
        for family in ("vrnn", "storn", "srnn")
    },
    "dmm-aug, both dropouts": {
        "family": "dmm",
        "sizes": {"previous_x": True, "input_dropout": 0.4, "dropout": 0.3},
    },
    "marginal": {"family": "marginal"},
    "dmm": {"family": "dmm"},
    "dmm, dropout": {"family": "dmm", **DROPOUT},
    "rnn, dropout": {"family": "rnn", **DROPOUT},
    "transformer, our recipe": {"family": "transformer", **OUR_RECIPE},
    "dmm-aug": {"family": "dmm", "sizes": {"previous_x": True}},
    "st-lr, dropout": {"family": "dmm", "sizes": {"inference_network": "st-lr", "dropout": 0.3}},
    "relu": {"family": "dmm", "sizes": {"inference_cell": "relu", "embedding": None}},
    "mf-lr": {"family": "dmm", "sizes": {"inference_network": "mf-lr"}},
    "two flows": {"family": "dmm", "sizes": {"flows": 2, "flow_hidden": 4}},
}


def together(data, folder, **arguments):
    folders = [folder / str(seed) for seed in SEEDS]
    return train_seeds(recipe(**arguments), data, SEEDS, folders, CPU, "disabled")


def history(path):
    return [json.loads(row) for row in (path.parent / "history.jsonl").read_text().splitlines()]


def assert_same(alone, found, tolerance=2e-4):
    """Rounding differs, and Adam takes full-length steps from gradients of any size."""
    expected, weights = load_file(alone), load_file(found)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, rtol=0, atol=tolerance, msg=name)
    rows = history(alone)
    assert len(rows) == len(history(found))
    for row, other in zip(rows, history(found), strict=True):
        assert row.keys() == other.keys()
        assert row.pop("cpu_seconds") >= 0  # of stacked seeds, the share of each
        for name, value in row.items():  # some are lists
            assert value == pytest.approx(other[name], abs=1e-4, rel=1e-4), name


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Sequences of very different lengths, whose number is not a multiple of the batch size."""
    rng = np.random.default_rng(1)
    lengths = {"train": [3, 12, 7, 1, 9, 2, 5], "valid": [4, 8], "test": [3]}
    parts = {part: [rng.standard_normal((n, 2)) for n in ns] for part, ns in lengths.items()}
    path = tmp_path_factory.mktemp("uneven") / "walk" / "sequences.safetensors"
    prepared.save(parts, "walk", {"kind": "real", "normalise": "global"}, path)
    return path


def alone(data, folder, seed, **arguments):
    return train(recipe(**arguments), data, seed, folder / f"alone{seed}", CPU, "disabled")


@pytest.fixture
def stacks(monkeypatch):
    """How many models each epoch of a stack had."""
    sizes, original = [], repro.training.stacked._Stack.one_epoch

    def counted(self):
        sizes.append(len(self.trainings))
        original(self)

    monkeypatch.setattr(repro.training.stacked._Stack, "one_epoch", counted)
    return sizes


@pytest.mark.oracle
@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES.keys())
def test_every_seed_gets_what_it_gets_alone(arguments, uneven, tmp_path, stacks):
    found = together(uneven, tmp_path, **arguments)
    assert stacks == [3] * 4
    for seed, path in zip(SEEDS, found, strict=True):
        assert_same(alone(uneven, tmp_path, seed, **arguments), path)
        assert load_checkpoint(path)[1].seed == seed


@pytest.mark.oracle
@pytest.mark.parametrize("family", ["dmm", "vrnn"])
@pytest.mark.parametrize("seeds", [[3], SEEDS])
def test_recorded_computations_are_replayed_to_the_same_end(
    family, seeds, uneven, tmp_path, monkeypatch
):
    """With a fake GPU: a replay computes from the recorded tensors into the recorded outputs."""
    recorded = []

    def record(self, inputs):
        outputs = self.function(*inputs)
        recorded.append(inputs[2].shape)

        def replay():
            for output, value in zip(outputs, self.function(*inputs), strict=True):
                output.copy_(value)

        return replay, outputs

    monkeypatch.setattr(repro.training.cuda_graphs.Recorded, "_record", record)
    folders = [tmp_path / str(seed) for seed in seeds]
    recipe_ = recipe(family=family, **DROPOUT)
    found = train_seeds(recipe_, uneven, seeds, folders, CPU, "disabled", graphs=True)
    # Three batches per epoch, of up to 12 steps: one length, and rows of three and of one.
    assert sorted(recorded) == [(len(seeds), 16, rows, 2) for rows in (1, 3)]
    for seed, path in zip(seeds, found, strict=True):
        assert_same(alone(uneven, tmp_path, seed, family=family, **DROPOUT), path)


@pytest.mark.oracle
def test_a_seed_out_of_patience_leaves_the_others(uneven, tmp_path, stacks):
    settings = {"max_epochs": 40, "patience": 2, "learning_rate": 0.05}
    found = together(uneven, tmp_path, **settings)
    epochs = [load_checkpoint(path)[1].training["epochs"] for path in found]
    assert len(set(epochs)) == 3 and stacks == [
        sum(epoch < last for last in epochs) for epoch in range(max(epochs))
    ]
    for seed, path in zip(SEEDS, found, strict=True):
        assert_same(alone(uneven, tmp_path, seed, **settings), path, tolerance=5e-3)


@pytest.mark.fault
def test_a_seed_that_diverges_leaves_the_others(uneven, tmp_path, monkeypatch):
    original = Training.update

    def poisoned(self, loss):
        original(self, loss * float("nan") if self.seed == 3 and self.updates == 5 else loss)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "update", poisoned)
        found = together(uneven, tmp_path)
    diverged = load_checkpoint(found[1])[1].training
    assert "seed 3, is not finite at update 5 (epoch 2)" in diverged["diverged"]
    assert diverged["epochs"] == 1
    for seed, path in ((0, found[0]), (5, found[2])):
        assert_same(alone(uneven, tmp_path, seed), path)


@pytest.mark.fault
@pytest.mark.parametrize(("victim", "same"), [(0, True), (3, False)])
def test_a_kill_between_states_costs_nothing(victim, same, uneven, tmp_path, monkeypatch):
    """Seeds whose states were not yet written go first, so that batches are stacked differently."""
    whole = together(uneven, tmp_path / "whole", **DROPOUT)
    original = Training.close_epoch

    def kill(self, *arguments):
        if self.epoch == 2 and self.seed == victim:
            raise Killed
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "close_epoch", kill)
        with pytest.raises(Killed):
            together(uneven, tmp_path / "killed", **DROPOUT)
    resumed = together(uneven, tmp_path / "killed", **DROPOUT)
    for before, after in zip(whole, resumed, strict=True):
        assert_same(before, after)
        assert not same or same_bits(weights(before), weights(after))


@pytest.mark.parametrize(
    "arguments", [SEGMENTS, NASMC, {"family": "tsbn"}], ids=["segments", "nasmc", "tsbn"]
)
def test_what_cannot_be_batched_trains_one_seed_after_another(arguments, walk, tmp_path, stacks):
    arguments = {"family": "vrnn", **arguments}
    found = together(walk, tmp_path, **arguments)
    assert not stacks
    for seed, path in zip(SEEDS, found, strict=True):
        assert same_bits(weights(path), weights(alone(walk, tmp_path, seed, **arguments)))


def test_a_model_that_cannot_be_batched_but_does_not_say_so_is_named(walk, tmp_path, monkeypatch):
    original = VRNN.encode

    def reads_values(self, x, lengths):
        return original(self, x * float(x.max()), lengths)

    monkeypatch.setattr(VRNN, "encode", reads_values)
    with pytest.raises(ConfigError, match=r"the seeds of vrnn cannot .*`can_stack = False`"):
        together(walk, tmp_path, family="vrnn")
