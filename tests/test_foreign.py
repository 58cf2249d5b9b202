"""Models of six other frameworks: scored, audited, and beside an independent truth."""

import inspect
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import torch
from foreign_models import HMM, Frames, kalman

import repro
from repro.results.findings import PASSED
from repro.tasks import mistakes, total_probability

pytestmark = pytest.mark.oracle


class Frameworks:
    """The models, imported when a test asks: other tests need not wait for six frameworks."""

    def __getattr__(self, name):
        return getattr(import_module("foreign_frameworks"), name)


ours = Frameworks()
GLUE = ("FromPyro", "FromTokens", "from_jax", "from_statsmodels", "from_hmmlearn")
GLUE += ("from_scikit_learn",)


def of_pyro(glue="FromPyro", family="PyroDMM"):
    def make(task):
        dmm = getattr(ours, family)(task.dim)
        return getattr(ours, glue)(dmm.model, dmm.guide)

    return make


def language_model(task):
    return ours.CausalLM(2**task.dim + 1)


def transformer(task):
    return ours.FromTokens(language_model(task).eval(), start=2**task.dim)


def jax_filter(task):
    pytest.importorskip("jax")
    return repro.from_numpy(ours.from_jax(ours.jax_kalman()))


def statsmodels_filter(task):
    return repro.from_numpy(ours.from_statsmodels(ours.statsmodels_kalman))


def tables(hmm):
    """The tables of foreign_models.HMM over tokens."""
    bits = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # of tokens 0 … 3
    emission = (bits * hmm.bits.unsqueeze(1) + (1 - bits) * (1 - hmm.bits).unsqueeze(1)).prod(-1)
    found = (hmm.first.exp(), hmm.transition.exp(), emission)
    exact = (np.asarray(table, dtype=float) for table in found)
    return [table / table.sum(-1, keepdims=True) for table in exact]


def hmm_of_hmmlearn(task):
    return repro.from_numpy(ours.from_hmmlearn(ours.hmmlearn_hmm(*tables(HMM(task.dim)))))


def frames_of_scikit_learn(task, scaled=False):
    density = ours.gaussian_of_frames(task.train.values.numpy(), scaled)
    return repro.from_numpy(ours.from_scikit_learn(density))


def kernels_of_scikit_learn(task):
    density = ours.kernels_of_frames(task.train.values.numpy()[:50])
    return repro.from_numpy(ours.from_scikit_learn(density))


OF_BITS = (of_pyro(), transformer, hmm_of_hmmlearn)
OF_NUMBERS = (jax_filter, statsmodels_filter, frames_of_scikit_learn, kernels_of_scikit_learn)


@pytest.mark.parametrize("glue", GLUE)
def test_the_glue_is_short(glue):
    assert len(inspect.getsource(getattr(ours, glue)).splitlines()) <= 15


@pytest.mark.parametrize("make", OF_BITS)
def test_models_of_bits_pass(make, rolls):
    found = repro.audit(make(rolls), rolls)
    assert found.failed == [] and "probabilities sum to 1" in passed(found)


@pytest.mark.parametrize("make", OF_NUMBERS)
def test_models_of_numbers_pass(make, linear, monkeypatch):
    # statsmodels takes one sequence at a time
    monkeypatch.setattr(total_probability, "QUADRATURE_POINTS", 301)
    found = repro.audit(make(linear), linear, true_parameters=make in OF_NUMBERS[:2])
    assert found.failed == [] and "probabilities sum to 1" in passed(found)


def passed(found):
    return {finding.check for finding in found.findings if finding.status == PASSED}


# Beside an independent truth


@pytest.mark.parametrize("make", [jax_filter, statsmodels_filter])
def test_filters_agree_with_ours_in_numpy(make, linear):
    wanted = repro.evaluate(repro.from_numpy(kalman), linear).values("is")
    assert np.allclose(repro.evaluate(make(linear), linear).values("is"), wanted, atol=1e-3)


def test_hmmlearn_agrees_with_a_forward_algorithm(rolls):
    wanted = repro.evaluate(HMM(2), rolls).values("is")
    assert np.allclose(repro.evaluate(hmm_of_hmmlearn(rolls), rolls).values("is"), wanted)


def test_one_gaussian_of_scikit_learn_is_a_gaussian(linear):
    frames = linear.train.values.double()
    wanted = repro.evaluate(Frames(frames.mean(0), frames.std(0, correction=0)), linear)
    found = repro.evaluate(frames_of_scikit_learn(linear), linear)
    assert found.per_step("is") == pytest.approx(wanted.per_step("is"), abs=1e-5)


@torch.no_grad()
def test_probabilities_of_a_transformer_sum_to_one(rolls):
    """Over all 4³ sequences of three frames."""
    frames = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    numbers = torch.cartesian_prod(*[torch.arange(4)] * 3).T  # (3, 64)
    terms = transformer(rolls).log_prob(frames[numbers], torch.full((64,), 3))
    assert float(terms.sum(0).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_a_dmm_of_pyro_has_bound_and_is(rolls):
    found = repro.evaluate(of_pyro()(rolls), rolls, samples=500)
    more = repro.evaluate(of_pyro()(rolls), rolls, samples=500, seed=1)
    assert (found.values("bound") < found.values("is")).all()
    error = np.hypot(found.values("is_error"), more.values("is_error"))
    assert (abs(found.values("is") - more.values("is")) < 5 * error).all()


# Planted bugs, as users of these frameworks make them


@torch.no_grad()
def copying(model):
    """As training makes a model that sees the token it is to predict."""
    model.head.weight.copy_(5.0 * model.token.weight)
    return model.eval()


def ignores_lengths(task):
    hmm = ours.hmmlearn_hmm(*tables(HMM(task.dim)))
    given = ours.from_hmmlearn(hmm)
    return repro.from_numpy(lambda x, lengths: given(x, np.full_like(lengths, len(x))))


def joined(task):
    """All sequences as one: hmmlearn's score without lengths, shared among them."""
    given = ours.from_hmmlearn(ours.hmmlearn_hmm(*tables(HMM(task.dim))))

    def log_prob(x, lengths):
        one = np.concatenate([x[:n, b] for b, n in enumerate(lengths)])[:, None]
        total = given(one, np.array([len(one)]))
        return total * lengths / lengths.sum()

    return repro.from_numpy(log_prob)


BUGS_OF_BITS = {
    "transformers: logits are not shifted": (
        lambda task: ours.NotShifted(copying(language_model(task)), 2**task.dim),
        mistakes.LOOK_AHEAD,
    ),
    "transformers: the loss is a mean": (
        lambda task: ours.MeanLoss(language_model(task).eval(), 2**task.dim),
        mistakes.BATCH_STATISTICS,
    ),
    "transformers: dropout is on": (
        lambda task: ours.FromTokens(language_model(task).train(), 2**task.dim),
        "dropout is on",
    ),
    "Pyro: no mask": (of_pyro(family="Unmasked"), mistakes.PADDING_COUNTED),
    "Pyro: its own generator": (of_pyro("Unseeded"), "not drawn from the generator"),
    "Pyro: one seed for all calls": (of_pyro("OneSeed"), mistakes.ONE_SEED),
    "hmmlearn: lengths are ignored": (ignores_lengths, mistakes.PADDING_COUNTED),
    "hmmlearn: sequences are joined": (joined, mistakes.BATCH_STATISTICS),
}


def burnt(task):
    filter_of = partial(ours.statsmodels_kalman, loglikelihood_burn=1)
    return repro.from_numpy(ours.from_statsmodels(filter_of))


def jax_without_half(task):
    pytest.importorskip("jax")
    given = ours.jax_kalman()
    return repro.from_numpy(lambda x, lengths: 2.0 * np.asarray(given(x)))


BUGS_OF_NUMBERS = {
    "scikit-learn: the scaler's σ is forgotten": (
        partial(frames_of_scikit_learn, scaled=True),
        mistakes.MISSING_LOG_SIGMA,
    ),
    "statsmodels: the likelihood's first step is burnt": (burnt, mistakes.FIRST_UNSCORED),
    "JAX: −error² / σ² − log σ²": (jax_without_half, mistakes.MISSING_HALF),
}


def reasons(found):
    return [finding.reason for finding in found.failed]


@pytest.mark.parametrize("bug", BUGS_OF_BITS)
def test_planted_bugs_of_bits_are_flagged(bug, rolls):
    make, reason = BUGS_OF_BITS[bug]
    found = repro.audit(make(rolls), rolls)
    assert any(reason in text for text in reasons(found)), str(found)


@pytest.mark.parametrize("bug", BUGS_OF_NUMBERS)
def test_planted_bugs_of_numbers_are_flagged(bug, linear, monkeypatch):
    monkeypatch.setattr(total_probability, "QUADRATURE_POINTS", 301)
    make, reason = BUGS_OF_NUMBERS[bug]
    found = repro.audit(make(linear), linear)
    assert any(reason in text for text in reasons(found)), str(found)
