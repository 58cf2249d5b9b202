"""The page on trust: its exact likelihoods against the Kalman filter, and its claims."""

import numpy as np
import pytest
from reference.kalman import log_likelihood

from repro.selftest import oracles

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize(("latent", "dim"), [(1, 1), (3, 2)])
def test_the_pages_truth_is_the_kalman_filters(latent, dim):
    p = oracles.problem(latent, dim)
    x = np.random.default_rng(0).standard_normal((12, dim))
    assert oracles.exact_log_likelihood(x, p) == pytest.approx(log_likelihood(x, *p.values()))


def test_log_weights_under_the_exact_posterior_are_exact():
    assert oracles.exactness().iloc[:, -1].max() < 1e-9


def test_a_wrong_proposal_is_unbiased_and_follows_theory():
    table = oracles.convergence()
    last = table.iloc[-1]
    assert abs(last["mean_ratio"] - 1.0) < 6 * last["mean_ratio_error"] < 0.1
    assert table["bias"].is_monotonic_increasing
    assert table["spread"].iloc[-3:].to_numpy() == pytest.approx(
        table["spread_theory"].iloc[-3:].to_numpy(), rel=0.15
    )


def test_only_the_particle_filter_keeps_its_accuracy_over_long_sequences():
    gaps = oracles.lengths().pivot(index="steps", columns="estimate", values=["gap", "error"])
    longest = gaps.iloc[-1]
    loss = longest["gap", "FIVO"] - longest["gap", "IS"]
    assert loss > 6 * np.hypot(longest["error", "FIVO"], longest["error", "IS"])
    assert longest["gap", "FIVO"] < 6 * longest["error", "FIVO"]
