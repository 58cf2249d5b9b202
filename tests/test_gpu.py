"""On a GPU, if there is one: the CPU's numbers, the same bits again, and resumption."""

import pytest
import torch
from conftest import SIZES, heads_of
from test_models import CASES
from test_training import DROPOUT, OUR_RECIPE, Killed, recipe, same_bits, weights

import repro.training.trainer as training
from repro.evaluation.evaluate import evaluate
from repro.runtime.devices import prepare_device
from repro.training.run import train_seeds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
# Relative to a tensor's largest value; a GPU adds products in another order.
TOLERANCE = 2e-5


@pytest.fixture(scope="module", autouse=True)
def device():
    found = prepare_device("cuda", 1)
    yield found
    torch.use_deterministic_algorithms(False)


def assert_near(found, expected, name):
    scale = float(expected.abs().max().clamp(min=1e-3))
    assert float((found.cpu() - expected).abs().max()) <= TOLERANCE * scale, name


@pytest.mark.parametrize(("family", "head", "sizes"), CASES)
def test_values_and_gradients_are_the_cpus(family, head, sizes, small_model, ragged, device):
    """Except for the head's own random numbers: MADE's choice of an order, an RBM's Gibbs steps."""
    model = small_model(family, head, **sizes).float()
    x, lengths, noise = ragged(head, latent=model.latent, samples=2 if model.latent else 1)
    given = [x.float(), lengths, noise.float()]
    found = {}
    for where in ("cpu", device):
        model.to(where).zero_grad()
        terms = model(*(t.to(where) for t in given))
        objective = terms.log_weight.sum()
        if objective.requires_grad:
            objective.backward()
        gradients = {n: p.grad.cpu() for n, p in model.named_parameters() if p.grad is not None}
        found[str(where)] = {"log_weight": terms.log_weight.detach().cpu(), **gradients}
    expected, ours = found.values()
    assert expected.keys() == ours.keys()
    for name, tensor in expected.items():
        assert_near(ours[name], tensor, name)


TRAINED = {family: {"family": family} for family in SIZES if "gaussian" in heads_of(family)}
TRAINED = {f: a for f, a in TRAINED.items() if f not in ("fixed_linear", "two_parameters", "sbn")}
TRAINED |= {
    "rnn": {"family": "rnn", **DROPOUT},
    "dmm, our recipe": {"family": "dmm", **OUR_RECIPE},
    "vrnn, iwae": {"family": "vrnn", "objective": "iwae", "samples": 3},
    "vrnn, fivo": {"family": "vrnn", "objective": "fivo", "samples": 3},
}


def run(walk, folder, device, graphs, arguments, seeds=(0, 1)):
    folders = [folder / str(seed) for seed in seeds]
    return train_seeds(recipe(**arguments), walk, seeds, folders, device, "disabled", graphs=graphs)


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("arguments", TRAINED.values(), ids=TRAINED.keys())
def test_same_seeds_give_the_same_bits(arguments, graphs, walk, tmp_path, device):
    first, second = (
        [weights(p) for p in run(walk, tmp_path / str(i), device, graphs, arguments)]
        for i in range(2)
    )
    assert all(map(same_bits, first, second))


@pytest.mark.fault
@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("arguments", TRAINED.values(), ids=TRAINED.keys())
def test_killed_and_resumed_gives_the_same_bits(
    arguments, graphs, walk, tmp_path, monkeypatch, device
):
    whole = run(walk, tmp_path / "whole", device, graphs, arguments)
    original = training.Training.update

    def kill(self, loss):
        if self.updates == 6:
            raise Killed
        original(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(training.Training, "update", kill)
        with pytest.raises(Killed):
            run(walk, tmp_path / "killed", device, graphs, arguments)
    resumed = run(walk, tmp_path / "killed", device, graphs, arguments)
    assert all(map(same_bits, map(weights, whole), map(weights, resumed)))


@pytest.mark.parametrize("family", ["dmm", "vrnn", "rnn"])
def test_a_checkpoint_has_the_same_estimates_on_both(family, walk, tmp_path, device):
    (path,) = run(walk, tmp_path, device, True, {"family": family}, seeds=(0,))
    on_gpu, on_cpu = (
        evaluate(path, walk, 50, [1, 10], where, particles=20)
        for where in (device, torch.device("cpu"))
    )
    for metric in ("bound", "is", "is_10", "log_likelihood"):
        for ours, theirs in zip(
            on_gpu.per_sequence[metric], on_cpu.per_sequence[metric], strict=True
        ):
            assert ours == pytest.approx(theirs, abs=1e-3, rel=1e-4)
