"""The panel of small plots that shows how trainings went."""

import pytest
from test_results import result

from repro.reports.training_plots import draw_training

ALWAYS = {"kl_weight": [None, 0.5, 1.0], "learning_rate": [None, 0.1, 0.01],
          "gradient_norm": [None, 3.0, 2.0]}  # fmt: skip
OF_SAMPLES = {"train_bound": [-3.0, -2.0, -1.5], "valid_sample_bound": [-3.0, -2.2, -2.0],
              "train_kl": [0.1, 0.4, 0.5], "valid_kl": [0.1, 0.5, 0.7]}  # fmt: skip


def trained(model, **columns):
    curve = {"epoch": [0, 1, 2], "valid_bound": [-4.0, -2.0, -1.0], **columns}
    return result(model=model, training={"epochs": 2, "validations": curve})


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.axison]


def test_only_the_panels_that_a_training_has_numbers_for_are_drawn():
    figure = draw_training([trained("vrnn", **ALWAYS, **OF_SAMPLES)])
    assert titles(figure) == ["bound, nats/step", "KL, nats/step", "weight of the KL", "step size",
                              "gradient norm"]  # fmt: skip
    bound = figure.axes[0].lines
    assert [list(line.get_ydata()) for line in bound] == [[-2.0, -1.5], [-2.2, -2.0]]
    assert [line.get_linestyle() for line in bound] == ["-", "--"]


def test_the_lowest_panel_of_each_column_has_its_epochs():
    figure = draw_training([trained("vrnn", **ALWAYS, **OF_SAMPLES)])  # five panels, three columns
    labelled = [axes.xaxis.label.get_visible() for axes in figure.axes if axes.axison]
    ticks = [axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes if axes.axison]
    assert labelled == ticks == [False, False, True, True, True]


def test_a_training_without_samples_still_has_its_schedules():
    """An RNN-RBM's statistics are left out; the workflow expects a figure all the same."""
    figure = draw_training([trained("rnn-rbm", **ALWAYS)])
    assert titles(figure) == ["weight of the KL", "step size", "gradient norm"]


@pytest.mark.parametrize("training", [{"epochs": 0}, {"epochs": 2}])
def test_without_numbers_there_is_no_figure(training):
    assert draw_training([result(training=training)]) is None
    assert draw_training([trained("old")]) is None
