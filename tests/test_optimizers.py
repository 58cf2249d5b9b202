"""Muon, averaged weights, schedules, initialisation from data, against independent truths."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import spec
from test_training import CPU, recipe, same_bits, weights

from repro.errors import ConfigError
from repro.models import build
from repro.training.optimizers import AdamW, Muon, WeightAverage, build_optimizers, orthogonalise
from repro.training.run import train
from repro.training.schedules import kl_weight, learning_rate_factor
from repro.training.trainer import Training

MUON = {"optimizer": "muon", "muon_learning_rate": 0.01, "muon_momentum": 0.95}


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (3, 7), (20, 50)])
def test_newton_schulz_makes_every_singular_value_nearly_one(shape):
    """Against an SVD: the quintic of the singular values, between the same singular vectors."""
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0)).double()
    for matrix, found in zip(matrices, orthogonalise(matrices), strict=True):
        u, s, v = torch.linalg.svd(matrix, full_matrices=False)
        s = s / s.norm()
        for _ in range(5):
            s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
        torch.testing.assert_close(found, u @ torch.diag(s) @ v)
        assert s.min() > 0.6 and s.max() < 1.3


@pytest.mark.oracle
def test_muon_is_torchs_own_up_to_bfloat16():
    def steps(optimizer, weights, count=5):
        g = torch.Generator().manual_seed(1)
        for _ in range(count):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=g)
            optimizer.step()
        return weights

    shapes = [(6, 4), (4, 6), (5, 5), (4, 6)]
    make = lambda: [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]  # noqa: E731
    ours, theirs = make(), make()
    steps(Muon(ours, lr=0.1, momentum=0.9, weight_decay=0.5), ours)
    other = torch.optim.Muon(
        theirs, lr=0.1, momentum=0.9, weight_decay=0.5, adjust_lr_fn="original"
    )
    for a, b in zip(ours, steps(other, theirs), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0)


@pytest.mark.oracle
def test_adamw_is_torchs_own_to_the_bit():
    g = torch.Generator().manual_seed(2)
    settings = {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.3, "fused": True}
    ours, theirs = ([torch.nn.Parameter(torch.ones(4, 3))] for _ in range(2))
    optimizers = AdamW(ours, **settings), torch.optim.AdamW(theirs, **settings)
    for _ in range(5):
        gradient = torch.randn(4, 3, generator=g)
        for (weight,), optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
            optimizer.load_state_dict(optimizer.state_dict())
    assert ours[0].equal(theirs[0]) and not ours[0].equal(torch.ones(4, 3))


def test_optimisers_do_not_import_torchs_compiler():
    """It takes longer than everything else that a training does before its first update."""
    code = (
        "import sys, torch\n"
        "from repro.training.optimizers import AdamW, Muon\n"
        "for kind in (AdamW, Muon):\n"
        "    weight = torch.nn.Parameter(torch.ones(2, 3))\n"
        "    optimizer = kind([weight], lr=0.1)\n"
        "    (weight**2).sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "    assert not weight.equal(torch.ones(2, 3))\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_muon_has_the_matrices_and_adam_the_rest():
    model = build(spec("dmm"))
    muon, adam = build_optimizers(model, recipe(**MUON, weight_decay=0.1)["model"]["training"])
    sets = [[p for group in o.param_groups for p in group["params"]] for o in (muon, adam)]
    assert {p.ndim for p in sets[0]} == {2} and 2 not in {p.ndim for p in sets[1]}
    assert sum(map(len, sets)) == len(list(model.parameters()))
    assert [group["weight_decay"] for group in adam.param_groups] == [0.0]


def test_decoupled_weight_decay_shrinks_matrices_by_the_step_size_alone():
    model = build(spec("vrnn"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    (adam,) = build_optimizers(model, recipe(weight_decay=0.5)["model"]["training"])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adam.step()
    for name, parameter in model.named_parameters():
        expected = before[name] * (1.0 - 0.01 * 0.5 * (parameter.ndim == 2))
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.oracle
@pytest.mark.parametrize("epsilon", [1e-8, 0.5])
def test_adams_first_step_is_the_gradient_over_its_size_and_epsilon(epsilon):
    model = build(spec("vrnn"))
    settings = recipe(adam_epsilon=epsilon)["model"]["training"]
    (adam,) = build_optimizers(model, settings)
    before = [p.detach().clone() for p in model.parameters()]
    for i, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.1 * (i + 1))
    adam.step()
    for i, (parameter, old) in enumerate(zip(model.parameters(), before, strict=True)):
        gradient = 0.1 * (i + 1)
        expected = old - settings["learning_rate"] * gradient / (gradient + epsilon)
        torch.testing.assert_close(parameter.detach(), expected)


@pytest.mark.oracle
def test_the_average_is_that_of_a_plain_loop_and_is_what_is_validated(walk, tmp_path):
    one = Training(recipe(average=0.9), walk, 0, tmp_path, CPU, 0)
    expected = [p.detach().clone().numpy() for p in one.model.parameters()]
    original = one.average.update

    def watched():
        original()
        for i, parameter in enumerate(one.model.parameters()):
            expected[i] = 0.9 * expected[i] + 0.1 * parameter.detach().numpy()

    one.average.update = watched
    one.one_epoch()
    raw = [p.detach().clone() for p in one.model.parameters()]
    one._validate({})
    for weight, kept, mean in zip(raw, one.best_weights.values(), expected, strict=True):
        np.testing.assert_allclose(kept.numpy(), mean, rtol=1e-5, atol=1e-6)
        assert not torch.equal(kept, weight)
    assert all(
        map(torch.equal, raw, one.model.parameters())
    )  # training continues from its own weights


def test_without_a_decay_there_is_no_average():
    model = torch.nn.Linear(2, 2)
    average, before = WeightAverage(model, None), model.weight.detach().clone()
    average.update()
    with average.in_the_model():
        assert average.values == [] and torch.equal(model.weight, before)


@pytest.mark.oracle
def test_cosine_is_torchs_own_over_all_updates(walk, tmp_path, monkeypatch):
    used, original = [], Training.update

    def watch(self, loss):
        original(self, loss)
        used.append(self.optimizers[0].param_groups[0]["lr"])

    monkeypatch.setattr(Training, "update", watch)
    train(recipe(schedule="cosine", max_epochs=3), walk, 0, tmp_path, CPU, "disabled")
    optimizer = torch.optim.Adam([torch.zeros(1)], lr=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(used))
    expected = []
    for _ in used:
        expected += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    assert len(used) == 12 and used == pytest.approx(expected)


def test_warm_up_rises_in_equal_steps_to_the_whole_step_size():
    factors = [learning_rate_factor({"warmup_updates": 4}, u, 0, 0.0) for u in range(7)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


def test_the_kl_rises_over_updates_or_over_a_share_of_the_training():
    settings = {"kl_start": 0.2, "kl_updates": 4}
    weights = [kl_weight(settings, update, 0.0) for update in range(6)]
    assert weights == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert kl_weight({"kl_start": 0.5, "kl_updates": 0}, 0, 0.0) == 1.0
    settings["kl_share"] = 0.5
    weights = [kl_weight(settings, 1000, progress) for progress in (0.0, 0.25, 0.5, 0.9)]
    assert weights == pytest.approx([0.2, 0.6, 1.0, 1.0])


@pytest.mark.oracle
@pytest.mark.parametrize("head", ["bernoulli", "gaussian", "gaussian_mixture", "bivariate_mixture"])
@pytest.mark.parametrize("family", ["dmm", "vrnn", "rnn", "marginal"])
def test_the_first_likelihood_is_nearly_that_of_the_moments(family, head, small_model, ragged):
    """Against densities written out here; the weights are a fifth and the features small."""
    model = small_model(family, head, initial_weights=0.01)
    x, lengths, noise = ragged(head, lengths=(40, 25, 30), samples=1, latent=model.latent)
    steps = torch.cat([x[:length, b] for b, length in enumerate(lengths.tolist())])
    model.initialise_from_data([x[:length, b] for b, length in enumerate(lengths.tolist())])
    found = model(x, lengths, noise).log_likelihood.sum() / len(steps)
    mean, std = steps.mean(0), steps.std(0)
    gaussian = -0.5 * ((steps - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
    coin = steps * mean.log() + (1 - steps) * (1 - mean).log()
    if head == "bivariate_mixture":
        expected = coin[:, 0] + gaussian[:, 1:].sum(1)
    else:
        expected = (coin if head == "bernoulli" else gaussian).sum(1)
    assert found.item() == pytest.approx(expected.mean().item(), abs=0.03)


@pytest.mark.parametrize("head", ["nade", "made", "rbm", "autoregressive"])
def test_every_head_is_initialised_at_finite_values(head, small_model, ragged):
    model = small_model("rnn", head)
    x, lengths, noise = ragged(head, latent=0)
    x[..., 0] = 0.0  # a value that is never 1, a column without spread
    model.initialise_from_data([x[:, 0]])
    assert all(p.isfinite().all() for p in model.parameters())
    assert model(x, lengths, noise).log_likelihood.isfinite().all()


def test_a_model_without_a_head_cannot_be_initialised_from_data(small_model):
    with pytest.raises(ConfigError, match="remove `initialise_from_data`"):
        small_model("fixed_linear").initialise_from_data([torch.zeros(3, 2)])


def test_segments_are_the_same_bits_again_and_as_many_batches_for_every_seed(walk, tmp_path):
    settings = {"random_segments": 3, "batch_order": "similar_lengths"}
    found = [train(recipe(**settings), walk, s, tmp_path / str(i), CPU, "disabled")
             for i, s in enumerate((0, 0, 1))]  # fmt: skip
    a, b, other = map(weights, found)
    assert same_bits(a, b) and not same_bits(a, other)
    counts = [len(list(Training(recipe(**settings), walk, seed, tmp_path, CPU, 0).batches()))
              for seed in range(5)]  # fmt: skip
    assert len(set(counts)) == 1
