"""The test log-likelihood against size and CPU seconds."""

import dataclasses
import itertools

import numpy as np
import pytest
from conftest import ROOT
from test_published import printed, row_of
from test_results import result

from repro.reports.cost_plot import Printed, draw_all_costs, draw_cost, printed_marks, spaced
from repro.reports.html import write_report
from repro.reports.tables import write_tables
from repro.results.record import read_cell


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


@pytest.mark.parametrize("largest", [130, 700, 90_000, 4_000_000])
def test_the_labels_of_the_cost_axes_do_not_overlap(largest):
    models = [trained(0, "small", 100, 40.0, -3.0), trained(0, "large", largest, largest / 3, -2.0)]
    for figure in (
        draw_cost(models),
        draw_all_costs([*on("a", *models), *on("b", *models)], {}),
    ):
        figure.canvas.draw()
        for axes in figure.axes:
            labels = [label for label in axes.get_xticklabels(which="both") if label.get_text()]
            boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
            inside = [b for b in boxes if axes.bbox.x0 <= (b.x0 + b.x1) / 2 <= axes.bbox.x1]
            if axes.xaxis.get_tick_params(which="major").get("labelbottom", True):
                assert len(inside) >= 2
            assert all(left.x1 < right.x0 for left, right in itertools.pairwise(inside))


def test_fractions_of_a_second_have_no_prefix():
    figure = draw_cost([trained(0, "a", 100, 0.3, -3.0), trained(0, "b", 90_000, 2.0, -2.0)])
    figure.canvas.draw()
    labels = [[label.get_text() for label in axes.get_xticklabels()] for axes in figure.axes]
    assert "10 k" in labels[0] and {"0.5", "1"} <= set(labels[1])


def test_a_training_that_took_no_time_is_shown():
    models = [trained(0, "short", 100, 0.0, -3.0), trained(0, "long", 200, 50.0, -2.0)]
    for figure in (draw_cost(models), draw_all_costs([*on("a", *models), *on("b", *models)], {})):
        low, _ = figure.axes[1].get_xlim()
        assert figure.axes[1].containers[0].lines[0].get_xdata()[0] == 0.1 > low


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


def on(dataset, *results):
    return [dataclasses.replace(r, dataset=dataset) for r in results]


def test_all_data_sets_are_in_one_figure_a_point_per_model():
    seeds = [trained(seed, "small", 100, 10.0 + seed, -3.0 - 0.1 * seed) for seed in range(3)]
    large = dataclasses.replace(trained(0, "large", 5000, 700.0, -2.0), likelihood="exact")
    figure = draw_all_costs([*on("a", large, *seeds), *on("b", *seeds)], {})
    (first, _), (_, last) = np.reshape(figure.axes, (2, 2))
    points = [bars.lines[0].get_xydata()[0] for bars in first.containers]
    np.testing.assert_allclose(points, [[5000, 2.0], [100, 3.1]])
    [bar] = first.containers[1].lines[2][0].get_segments()
    assert np.ptp(bar[:, 1]) == pytest.approx(2 * 0.1 / 3**0.5)
    [point] = [bars.lines[0].get_xydata()[0] for bars in last.containers]
    np.testing.assert_allclose(point, [11.0, 3.1])
    assert [first.get_title(loc="left"), last.get_xscale()] == ["a", "log"]
    shapes = [bars.lines[0].get_marker() for bars in first.containers]
    assert shapes == ["o", "s"]  # exact, and with a latent variable
    [legend] = figure.legends
    assert sorted(text.get_text() for text in legend.get_texts()) == ["large", "small"]


def test_one_data_set_or_nothing_trained_makes_no_figure():
    model = trained(0, "rnn", 10, 1.0, -2.0)
    untrained = result(model="exact", true_parameters=True, training={"epochs": 0})
    assert draw_all_costs([model], {}) is None
    assert draw_all_costs([*on("a", untrained), *on("b", untrained)], {}) is None
    assert draw_all_costs([*on("a", model), *on("b", untrained)], {}) is not None


def test_labels_of_printed_numbers_do_not_overlap_and_ticks_are_at_the_numbers():
    values = [2.0, 2.001, 2.002, *np.linspace(2.1, 2.2, 29), 7.0]
    marks = [Printed(value, f"{value:.3f} a model (a paper)", "rnn") for value in values]
    model = trained(0, "rnn", 10, 1.0, -2.0)
    figure = draw_all_costs([*on("a", model), *on("b", model)], {"a": marks, "b": marks})
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for axes in figure.axes for text in axes.texts]
    assert len(boxes) == 2 * len(marks)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    ticks = [line.get_ydata()[0] for line in figure.axes[1].lines if len(line.get_ydata()) == 4]
    np.testing.assert_allclose(ticks, values)
    low, high = figure.axes[1].get_ylim()
    assert low <= min(values) and high >= max(values)


@pytest.mark.parametrize("drawn", [True, False])
def test_the_report_shows_the_figure_of_all_data_sets_if_there_is_one(drawn, tmp_path):
    results = read_cell(ROOT / "results", "starter", "linear_gaussian", "exact")
    write_tables(results, tmp_path / "tables")
    if drawn:
        (tmp_path / "figures").mkdir()
        (tmp_path / "figures" / "cost.svg").write_text('<?xml?><svg id="of-all"></svg>')
    page = write_report(results, tmp_path, [], tmp_path / "no.md", tmp_path / "report.html")
    text = page.read_text()
    assert ('<svg id="of-all">' in text) == ("What each model costs" in text) == drawn


def test_the_report_shows_the_races_of_its_data_sets(tmp_path):
    races = ROOT / "paper_tables" / "races"
    (table,) = races.glob("jsb_chorales/dmm/table.md")
    heading = table.read_text().partition("\n")[0].removeprefix("### ")
    for preset, cell, shown in (
        ("music", ("jsb_chorales", "rnn"), True),
        ("starter", ("linear_gaussian", "exact"), False),
    ):
        results, folder = read_cell(ROOT / "results", preset, *cell), tmp_path / preset
        write_tables(results, folder / "tables")
        page = write_report(
            results, folder, [], folder / "no.md", folder / "report.html", races=races
        )
        text = page.read_text()
        assert (f"<h3>{heading}</h3>" in text) == ("CPU seconds, in turn" in text) == shown


def test_spread_places_are_apart_near_and_inside():
    np.testing.assert_allclose(spaced([1.0, 5.0], 1.0, 0.0, 9.0), [1.0, 5.0])
    np.testing.assert_allclose(spaced([4.0, 4.0, 4.0], 1.0, 0.0, 9.0), [3.0, 4.0, 5.0])
    np.testing.assert_allclose(spaced([0.0, 0.1], 1.0, 0.0, 9.0), [0.0, 1.0])
    np.testing.assert_allclose(spaced([8.9, 9.0], 1.0, 0.0, 9.0), [8.0, 9.0])


def test_a_papers_closest_number_is_the_mark_and_a_quotation_is_not_one_more(tmp_path):
    for name, rows in (
        (
            "one",
            [
                row_of("dmm", "bound_nll", "1.5", relation="le", paper="p"),
                row_of("dmm", "is_nll", "2.5", paper="p"),
                row_of("dmm", "is_nll", "2.25", paper="p"),
                row_of("rnn", "nll", "3.1", paper="p"),
                row_of("rnn", "nll", "9.0", "run", paper="p", verdict="printed cell inconsistent"),
            ],
        ),
        (
            "two",
            [
                row_of("rnn", "nll", "3.1", paper="q"),
                row_of("dmm", "bound_nll", "2", relation="le"),
            ],
        ),
        ("three", [row_of("dmm", "ll", "-80", unit="nats/sequence")]),
    ):
        (tmp_path / name).mkdir()
        printed(tmp_path / name, *rows)
        (tmp_path / name / "table.yaml").write_text("title: T\npreset: test\nmodels: [dmm, rnn]\n")
    assert printed_marks(tmp_path) == {
        "walk": [
            Printed(2.0, "≤ 2 DMM ()", "dmm"),
            Printed(2.25, "2.25 DMM (p)", "dmm"),
            Printed(3.1, "3.1 RNN (p)", "rnn"),
        ]
    }


def test_the_committed_tables_have_marks_for_all_four_piano_rolls():
    marks = printed_marks(ROOT / "paper_tables")
    assert set(marks) == {"jsb_chorales", "nottingham", "piano_midi", "musedata"}
    assert min(marks["jsb_chorales"]).label == "5.118 DMM-Aug.-NADE (dmm)"
