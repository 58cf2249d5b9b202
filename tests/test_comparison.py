"""The regression check's statistics: false alarms and power over simulated reruns."""

import numpy as np
import pytest
from scipy import stats

from repro.results.comparison import LEVEL, POWER, Comparison, compare_samples, holm
from repro.selftest.calibration import CELLS, alarm_rates

pytestmark = pytest.mark.oracle

TABLES = 1500


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("related", [0.0, 0.9])
def test_false_alarms_of_a_whole_table_stay_below_the_level(seeds, related):
    rate, _ = alarm_rates(seeds, 0.02, TABLES, related=related)
    assert rate < LEVEL + 6 * np.sqrt(LEVEL * (1 - LEVEL) / TABLES)


@pytest.mark.parametrize(("seeds", "spread"), [(3, 0.005), (5, 0.01)])
def test_a_loss_of_a_twentieth_nat_is_found_where_seeds_agree(seeds, spread):
    _, power = alarm_rates(seeds, spread, TABLES, loss=0.05)
    assert power > POWER


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_loss_called_detectable_is_detected_as_often_as_said(seeds):
    spread = 0.02
    error = spread * np.sqrt(2 / seeds)
    loss = Comparison(0, 0, error, 2 * seeds - 2, 1, 1).detectable(CELLS)
    _, power = alarm_rates(seeds, spread, TABLES, loss=loss)
    assert power > POWER - 0.15  # the estimate uses t's quantiles twice


def test_bitwise_repeatable_runs_hide_no_loss():
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
