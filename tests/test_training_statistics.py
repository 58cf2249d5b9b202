"""The statistics recorded in a training, against sums written out here."""

import json

import pytest
import torch
from conftest import CASES_OF_LOOPS
from test_training import CPU, recipe

from repro.data import batches
from repro.runtime.seeding import generator
from repro.training.checkpoints import load_checkpoint
from repro.training.run import train
from repro.training.statistics import part_statistics, sample_of

LENGTHS = (5, 2, 4)


def sequences_of(x):
    return [x[:length, b] for b, length in enumerate(LENGTHS)]


@pytest.mark.oracle
@pytest.mark.parametrize(("family", "head", "sizes"), CASES_OF_LOOPS)
def test_the_numbers_are_those_of_each_sequence_alone(family, head, sizes, small_model, ragged):
    model = small_model(family, head, **sizes).float()
    part = sequences_of(ragged(head, lengths=LENGTHS)[0].float())
    found = part_statistics(model, part, 0)
    order = batches.by_length(part)
    noise = torch.randn(
        (5, 1, 3, model.latent), generator=generator(0, "statistics noise", device="cpu")
    )
    total, likelihood = 0.0, 0.0
    for b, i in enumerate(order):
        length = len(part[i])
        terms = model(part[i].unsqueeze(1), torch.tensor([length]), noise[:length, :, b : b + 1])
        kl = terms.log_proposal - terms.log_prior if terms.kl is None else terms.kl
        total += (terms.log_likelihood - kl).sum().item()
        likelihood += terms.log_likelihood.sum().item()
    assert found["bound"] == pytest.approx(total / sum(LENGTHS), rel=1e-4)
    assert found["log_likelihood"] == pytest.approx(likelihood / sum(LENGTHS), rel=1e-4)
    assert ("kl" in found) == bool(model.latent)
    if "kl_per_unit" in found:
        assert sum(found["kl_per_unit"]) == pytest.approx(found["kl"], rel=1e-3, abs=1e-5)
        assert found["active_units"] == sum(value > 0.01 for value in found["kl_per_unit"])


def test_the_standard_deviations_are_of_real_steps_alone(small_model, ragged):
    """Padding is zeros, and zeros have the largest and smallest σ here."""
    model = small_model("vrnn", "gaussian").float()
    part = sequences_of(3.0 * ragged(lengths=LENGTHS)[0].float())
    together = part_statistics(model, part, 0)
    for name in ("posterior", "prior", "emission"):
        least, mean, most = (together[f"{name}_std_{what}"] for what in ("min", "mean", "max"))
        assert 0.0 < least < mean < most
    padded = [torch.cat([x, torch.zeros(5 - len(x), 2)]) for x in part]
    assert part_statistics(model, padded, 0)["emission_std_max"] != together["emission_std_max"]


def test_a_head_without_gaussians_has_no_standard_deviations(small_model, ragged):
    model = small_model("vrnn", "bernoulli").float()
    part = sequences_of(ragged("bernoulli", lengths=LENGTHS)[0].float())
    assert not any("emission" in name for name in part_statistics(model, part, 0))


def test_a_sample_is_the_same_again_and_holds_what_was_asked_for():
    part = [torch.zeros(n, 1) for n in (50, 900, 300, 10, 5000)] * 20
    first, again = (sample_of(part, 100_000, 3) for _ in range(2))
    assert [len(x) for x in first] == [len(x) for x in again]
    assert max(map(len, first)) == 200
    assert 5000 <= sum(map(len, first)) < 5200
    assert sample_of(part[:2], 100_000, 3) != []


def test_history_and_checkpoint_have_the_statistics_of_both_parts(walk, tmp_path):
    path = train(recipe(max_epochs=6, validate_every=2), walk, 0, tmp_path, CPU, "disabled")
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    for epoch in (0, 2, 4, 6):
        for name in ("train_bound", "valid_sample_bound", "train_kl", "valid_active_units"):
            assert name in rows[epoch], name
        assert len(rows[epoch]["valid_kl_per_unit"]) == 3
    for row in rows[1:]:
        assert row["gradient_norm"] > 0 and 0 <= row["clipped_updates"] <= 1
        assert row["learning_rate"] == 0.01
    assert rows[0]["updates"] == 0 and rows[6]["updates"] == 6 * rows[1]["updates"] > 0
    curve = load_checkpoint(path)[1].training["validations"]
    assert curve["train_kl"] == pytest.approx([row["train_kl"] for row in rows[::2]], rel=1e-5)
    assert len(curve["cpu_seconds"]) == 4
    assert "valid_kl_per_unit" not in curve  # lists stay in the history
