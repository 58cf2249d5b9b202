"""Names in settings: an unknown one is refused, with the choices; and old module names work."""

import importlib

import pytest
import torch
from conftest import RECOGNITION
from hypothesis import given
from hypothesis import strategies as st
from test_training import TRAINING, recipe

from repro.data import batches
from repro.errors import ConfigError
from repro.heads import basic
from repro.inference.objectives import by_filter
from repro.nn.recognition import build_inference
from repro.training.optimizers import build_optimizers
from repro.training.run import train
from repro.training.schedules import learning_rate_factor

CPU = torch.device("cpu")
SEQUENCES = [torch.zeros(2, 1)]
NO_MODEL = (torch.nn.Linear(1, 1), torch.zeros(1), torch.ones(1), torch.zeros(1, 1, 1, 1))
# The function that takes each name, and the names that it knows.
SETTINGS = {
    "head": (
        lambda name: basic.build_head(name, 2, 3, {}),
        ("bernoulli", "gaussian", "gaussian_mixture", "bivariate", "bivariate_mixture",
         "autoregressive", "nade", "made", "rbm"),
    ),
    "batch_order": (
        lambda name: batches.groups(SEQUENCES, 1, name, torch.Generator()),
        ("shuffled", "similar_lengths"),
    ),
    "objective": (
        lambda name: by_filter(name, *NO_MODEL, torch.Generator()),
        ("fivo", "nasmc"),
    ),
    "optimizer": (
        lambda name: build_optimizers(NO_MODEL[0], TRAINING | {"optimizer": name}),
        ("adam", "muon"),
    ),
    "schedule": (
        lambda name: learning_rate_factor({"schedule": name}, 0, 0, 0.0),
        ("cosine",),
    ),
    "inference_network": (
        lambda name: build_inference(2, 3, RECOGNITION | {"inference_network": name}),
        ("st-l", "st-r", "st-lr", "mf-l", "mf-lr"),
    ),
    "inference_cell": (
        lambda name: build_inference(2, 3, RECOGNITION | {"inference_cell": name}),
        ("lstm", "relu"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
@given(data=st.data())
def test_an_unknown_name_is_refused_with_the_choices(setting, data):
    """Near misses (another case, a letter less, a space) and anything else."""
    take, choices = SETTINGS[setting]
    near = st.sampled_from(choices).flatmap(
        lambda name: st.sampled_from([name.upper(), name[:-1], f"{name} ", f"mf-{name}x"])
    )
    name = data.draw((near | st.text(max_size=12)).filter(lambda text: text not in choices))
    with pytest.raises(ConfigError) as caught:
        take(name)
    assert str(caught.value) == f"{setting}: {name!r} is not one of {', '.join(choices)}."


@pytest.mark.parametrize(
    ("changes", "choices"),
    [
        ({"objective": "ELBO"}, "elbo, iwae, fivo, nasmc"),
        ({"batch_order": "sorted"}, "shuffled, similar_lengths"),
    ],
)
def test_a_training_with_an_unknown_name_does_not_begin(changes, choices, walk, tmp_path):
    with pytest.raises(ConfigError, match=f"is not one of {choices}"):
        train(recipe(**changes), walk, 0, tmp_path, CPU, "disabled")
    assert {path.name for path in tmp_path.iterdir()} <= {"state.lock"}


@pytest.mark.parametrize("name", ["build_head", "BernoulliHead", "GaussianMixtureHead"])
def test_the_old_module_of_the_heads_works_and_names_the_new_one(name):
    with pytest.deprecated_call(match=r"repro\.heads\.basic"):
        found = getattr(importlib.import_module("repro.nn.heads"), name)
    assert found is getattr(basic, name)


def test_the_old_module_has_nothing_else():
    with pytest.raises(AttributeError, match="no_such_head"):
        importlib.import_module("repro.nn.heads").no_such_head  # noqa: B018
