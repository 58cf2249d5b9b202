"""The test log-likelihood against size and CPU seconds."""

import numpy as np
import pytest
from test_results import result

from repro.reports.cost_plot import draw_cost


def trained(seed, model, parameters, seconds, level):
    """A Result whose every test sequence has `level` nats per step."""
    values = result(seed).per_sequence
    per_sequence = {**values, "is": [level * length for length in values["length"]]}
    training = {"epochs": 3, "parameters": parameters, "cpu_seconds": seconds}
    return result(seed, model=model, title=model, training=training, per_sequence=per_sequence)


def test_a_point_per_model_is_its_mean_over_seeds():
    small = [trained(seed, "small", 100, 10.0 + seed, -3.0 - 0.1 * seed) for seed in range(3)]
    large = [trained(0, "large", 5000, 700.0, -2.0)]
    figure = draw_cost([*small, *large])
    for axes, costs in zip(figure.axes, ([100, 5000], [11.0, 700.0]), strict=True):
        points = [bars.lines[0].get_xydata()[0] for bars in axes.containers]
        np.testing.assert_allclose(points, list(zip(costs, [-3.1, -2.0], strict=True)))
        [bar] = axes.containers[0].lines[2][0].get_segments()
        assert np.ptp(bar[:, 1]) == pytest.approx(2 * 0.1 / 3**0.5)  # one standard error each way
        assert not axes.containers[1].has_yerr  # one seed
        assert axes.get_xscale() == "log"


def test_true_parameters_are_a_line_and_alone_make_no_figure():
    truth = result(model="exact", true_parameters=True, training={"epochs": 0})
    assert draw_cost([truth]) is None
    figure = draw_cost([truth, trained(0, "rnn", 10, 1.0, -2.0)])
    for axes in figure.axes:
        assert list(axes.lines[-1].get_ydata()) == [truth.per_step("is")] * 2


def test_the_height_is_the_particle_filters_where_that_is_closer():
    cell = trained(0, "dmm", 10, 1.0, -2.0)
    fivo = [-1.5 * length for length in cell.per_sequence["length"]]
    filtered = result(
        model="dmm",
        training=cell.training,
        evaluation={**cell.evaluation, "particles": 20},
        per_sequence={**cell.per_sequence, "fivo": fivo},
    )
    [point] = draw_cost([filtered]).axes[0].containers[0].lines[0].get_ydata()
    assert point == pytest.approx(-1.5)
