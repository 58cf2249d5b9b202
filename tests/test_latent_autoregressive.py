"""A latent Gaussian on top of an exact family: the integral over z, segments, and refusals."""

import math

import pytest
import torch
from conftest import ROOT, VARIANTS, families, spec

from repro.config.recipes import read_yaml
from repro.errors import ConfigError
from repro.inference.bounds import importance_weighted
from repro.models import build
from repro.models.autoregressive import AutoregressiveModel
from repro.models.latent_autoregressive import PAST_FAMILIES

CASES = list(VARIANTS["latent_autoregressive"].values())


@pytest.mark.oracle
@pytest.mark.parametrize("sizes", CASES, ids=VARIANTS["latent_autoregressive"])
def test_importance_sampling_is_the_sum_of_the_integrals_of_each_step(sizes, small_model, ragged):
    """One latent dimension: log p(x) = Σ_t log ∫ p(z_t | x_<t) p(x_t | z_t, x_<t) dz_t, by grid."""
    model = small_model("latent_autoregressive", "bernoulli", **(sizes | {"latent": 1}))
    x, lengths, _ = ragged("bernoulli", lengths=(4, 2))
    grid = torch.linspace(-12.0, 12.0, 4001, dtype=torch.float64)
    with torch.no_grad():
        context = model.encode(x, lengths)
        past = context.past.expand(-1, len(grid), -1, -1)
        z = grid.view(1, -1, 1, 1).expand(len(x), -1, 2, -1)
        p = model.prior(past)
        head = model.head(model.decoder(torch.cat([model.features_z(z), past], dim=-1)))
        density = p.log_prob(z) + model.head.log_prob(head, context.x)
        steps = torch.logsumexp(density, 1) + math.log(grid[1] - grid[0])  # (T, B)
        expected = torch.stack([steps[:n, b].sum() for b, n in enumerate(lengths)])
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(4, 40_000, 2, 1, generator=generator, dtype=torch.float64)
        log_weight = model(x, lengths, noise).log_weight.sum(0)
    weights = (log_weight - expected).exp()
    error = weights.std(0) / len(weights) ** 0.5
    assert (error < 0.02).all()
    assert ((importance_weighted(log_weight) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("sizes", CASES, ids=VARIANTS["latent_autoregressive"])
def test_segments_of_a_long_sequence_give_its_terms(sizes, small_model, ragged):
    model = small_model("latent_autoregressive", **sizes)
    x, lengths, noise = ragged(lengths=(60, 60), samples=3)
    state, cut = None, []
    with torch.no_grad():
        whole = model(x, lengths, noise)
        for part, part_noise in zip(x.split([1, 30, 29]), noise.split([1, 30, 29]), strict=True):
            terms, state = model.advance(part, lengths * 0 + len(part), part_noise, state)
            cut.append(terms)
    for ours, *theirs in zip(whole[:4], *(terms[:4] for terms in cut), strict=True):
        torch.testing.assert_close(torch.cat(theirs), ours)
    other = small_model("latent_autoregressive", hidden=10).advance(x, lengths, noise)[1]
    with pytest.raises(ConfigError, match="cannot continue from this state"):
        model.advance(x, lengths, noise, other)


def test_it_has_the_layers_of_the_family_and_no_second_head(small_model):
    alone, latent = small_model("rnn", cell="gru"), small_model("latent_autoregressive", cell="gru")
    shapes = {name: p.shape for name, p in alone.named_parameters()}
    inner = {name: p.shape for name, p in latent.layers.named_parameters()}
    assert inner == {n: s for n, s in shapes.items() if n.split(".")[0] not in ("decoder", "head")}


@pytest.mark.fault
@pytest.mark.parametrize("family", ["dmm", "RNN", "latent_autoregressive"])
def test_a_family_that_does_not_carry_the_past_is_refused(family):
    with pytest.raises(ConfigError, match=rf"past_family: '{family}' is not one of rnn, transf"):
        build(spec("latent_autoregressive", past_family=family))


def test_every_exact_family_of_layers_can_be_below():
    exact = [f for f in families() if isinstance(build(spec(f)), AutoregressiveModel)]
    assert set(exact) == set(PAST_FAMILIES)
    schema = read_yaml(ROOT / "config" / "schema.yaml")["$defs"]["latent_autoregressive"]
    assert schema["properties"]["past_family"]["enum"] == list(PAST_FAMILIES)
    for family in exact:
        sizes = {**spec(family).sizes, "past_family": family}
        build(spec("latent_autoregressive", **sizes))
