"""The variational autoencoder against quadrature, and its initial weights."""

import math

import numpy as np
import pytest
import torch
from test_training import CPU, recipe

from repro.data import prepared
from repro.inference.bounds import importance_weighted
from repro.training.trainer import Training


@pytest.mark.oracle
def test_importance_sampling_meets_quadrature_over_one_latent_value(small_model, ragged):
    model = small_model("vae", "bernoulli", latent=1)
    samples = 20_000
    x, lengths, noise = ragged("bernoulli", lengths=(3, 1), samples=samples, latent=1)
    found = importance_weighted(model(x, lengths, noise).log_weight.sum(0))
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)  # for exp(−z²/2)
    z = torch.tensor(nodes).view(1, -1, 1, 1)
    logits = model.head(model.decoder(z))
    density = torch.distributions.Bernoulli(logits=logits).log_prob(x.unsqueeze(1)).sum(-1)
    log_weights = torch.tensor(np.log(weights / math.sqrt(2.0 * math.pi))).view(1, -1, 1)
    steps = torch.logsumexp(density + log_weights, dim=1)  # log p(x_t), (T, B)
    exact = torch.stack([steps[:n, b].sum() for b, n in enumerate(lengths)])
    torch.testing.assert_close(found, exact, rtol=0, atol=0.02)


@pytest.fixture
def training(tmp_path):
    """A training on binary data of three values: never, in a quarter and in half of the steps."""
    steps = np.array([[0, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=np.float64)
    parts = {"train": [steps[:1], steps[1:]], "valid": [steps], "test": [steps]}
    path = tmp_path / "coins" / "sequences.safetensors"
    prepared.save(parts, "coins", {"kind": "binary", "normalise": "none"}, path)
    recipe_ = recipe(family="vae", sizes={"initial_weights": None})
    recipe_["dataset"] |= {"name": "coins", "kind": "binary"}
    recipe_["model"]["heads"] = {"binary": "bernoulli"}
    return Training(recipe_, path, 0, tmp_path / "run", CPU, 0)


def test_the_decoder_is_initialised_at_the_means_of_binary_data(training):
    bias = training.model.head.logits.bias
    torch.testing.assert_close(bias.sigmoid(), torch.tensor([0.001, 0.25, 0.5]))


def test_initial_weights_follow_glorots_rule(training):
    for name, weight in training.model.named_parameters():
        if weight.ndim == 2:
            limit = math.sqrt(6.0 / sum(weight.shape))
            assert 0.5 * limit < weight.abs().max() <= limit, name
