"""The regression check's statistics: false alarms and power over simulated reruns."""

import numpy as np
import pytest
from scipy import stats

from repro.comparison import LEVEL, POWER, Comparison, compare_samples, holm

CELLS, TABLES = 40, 1500


def alarms(seeds, spread, loss=0.0, related=0.0, paired=True):
    """How often a table of CELLS raises any alarm, and how often its first cell, which lost, does.

    `spread` is the standard deviation over trainings, `related` the correlation of a seed's two
    trainings (0: another machine, near 1: almost the same bits).
    """
    rng = np.random.default_rng(0)
    any_alarm = first = 0
    for _ in range(TABLES):
        shared = np.sqrt(related) * rng.standard_normal((CELLS, seeds))
        new, old = (
            -2 + spread * (shared + np.sqrt(1 - related) * rng.standard_normal((CELLS, seeds)))
            for _ in range(2)
        )
        new[0] -= loss
        p = [compare_samples(a, b, paired).p_worse for a, b in zip(new, old, strict=True)]
        rejected = holm(p)
        any_alarm += any(rejected)
        first += rejected[0]
    return any_alarm / TABLES, first / TABLES


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("related", [0.0, 0.9])
def test_false_alarms_of_a_whole_table_stay_below_the_level(seeds, related):
    rate, _ = alarms(seeds, spread=0.02, related=related)
    assert rate < LEVEL + 6 * np.sqrt(LEVEL * (1 - LEVEL) / TABLES)


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.005), (5, 0.01)])
def test_a_loss_of_a_twentieth_nat_is_found_where_seeds_agree(seeds, spread):
    _, power = alarms(seeds, spread, loss=0.05)
    assert power > POWER


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_loss_called_detectable_is_detected_as_often_as_said(seeds):
    spread = 0.02
    error = spread * np.sqrt(2 / seeds)
    loss = Comparison(0, 0, error, 2 * seeds - 2, 1, 1).detectable(CELLS)
    _, power = alarms(seeds, spread, loss=loss, paired=True)
    assert power > POWER - 0.15  # the estimate uses t's quantiles twice


def test_runs_that_repeat_their_bits_hide_no_loss():
    old = np.array([-2.0, -2.3, -1.9])
    assert compare_samples(old, old, paired=True).p_worse == 1.0
    assert compare_samples(old - 0.001, old, paired=True).p_worse < 1e-6
    assert compare_samples(old + 0.001, old, paired=True).p_better < 1e-6


def test_two_samples_agree_with_scipy():
    rng = np.random.default_rng(1)
    new, old = rng.normal(-2.1, 0.1, 4), rng.normal(-2.0, 0.1, 6)
    expected = stats.ttest_ind(new, old, alternative="less").pvalue
    assert compare_samples(new, old, paired=False).p_worse == pytest.approx(expected)
    new, old = new[:4], old[:4]
    both = (
        stats.ttest_rel(new, old, alternative="less").pvalue,
        stats.ttest_ind(new, old, alternative="less").pvalue,
    )
    assert compare_samples(new, old, paired=True).p_worse == pytest.approx(2 * min(both))


def test_holm_rejects_step_by_step():
    assert holm([0.04, 0.001, 0.024]) == [True, True, True]  # 0.05/3, 0.05/2, 0.05/1
    assert holm([0.03, 0.001, 0.03]) == [False, True, False]
    assert holm([]) == []
