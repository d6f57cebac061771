"""The figure of quality against P(divergence)."""

import numpy as np
import pandas as pd
import pytest
from drawing import check_names, drawn, names_of, words
from matplotlib.figure import Figure
from simulated_record import simulated_definition
from threshold_runs import runs_of

from analysis.figures.axes import figure_style, paper
from analysis.figures.palette import KNOWN, LineStyle
from analysis.figures.tradeoff import draw_tradeoff
from analysis.figures.tradeoff import tradeoff as tradeoff_figure
from analysis.stats.frontier import tradeoff


def test_tradeoff_names_its_front_and_the_best_of_other_methods(crossed):
    runs, _ = crossed
    table = tradeoff(runs, simulated_definition())
    figure = tradeoff_figure(table)
    (ax,) = figure.axes
    front = [f"{curve}, lr {lr:g}" for curve, lr in table.loc[table["pareto"], ["curve", "lr"]].to_numpy()]
    assert front
    black = [text.get_text() for text in ax.texts if text.get_color() == "black"]
    assert sorted(black) == sorted(front)
    others = set(table["method"]) - set(table.loc[table["pareto"], "method"])
    assert {text.get_text().split()[0].rstrip(",") for text in ax.texts if text.get_color() != "black"} == others
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    assert sum(len(line.get_xdata()) for line in points) >= len(table)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("P(divergence)", "held-out AUC, click")
    drawn(figure)


def test_large_markers_are_the_pareto_front(crossed):
    table = tradeoff(crossed[0], simulated_definition())
    (ax,) = tradeoff_figure(table).axes
    of_cells = [line for line in ax.lines if line.get_linestyle() == "None" and line.get_marker() != "x"]
    usual = min(line.get_markersize() for line in of_cells)
    large = [line.get_ydata()[0] for line in of_cells if line.get_markersize() > usual]
    assert sorted(large) == sorted(table.loc[table["pareto"], "quality"])


def test_lower_error_is_drawn_higher(crossed):
    figure = tradeoff_figure(tradeoff(crossed[0], simulated_definition(), "rmse_play"))
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    shown = [y for line in figure.axes[0].lines for y in line.get_ydata()]
    assert bottom > max(shown) > min(shown) > top
    assert figure.axes[0].get_ylabel() == "held-out RMSE, play"
    drawn(figure)


def test_names_of_close_points_do_not_overlap():
    arms = [(method, {}, 9) for method in ("none", "layer_clip", "agc", "lamb", "clippy")]
    parts = [runs_of(arm, auc=0.7 + 1e-5 * i) for i, arm in enumerate(arms)]
    figure = tradeoff_figure(tradeoff(pd.concat(parts, ignore_index=True), simulated_definition()))
    assert check_names(drawn(figure).axes[0]) == 5


def test_only_the_front_of_many_points_is_named():
    rng = np.random.default_rng(2)
    arms = [
        ("agc", {"max_ratio": float(r)}, float(e)) for r, e in zip(range(1, 41), rng.uniform(0.2, 3, 40), strict=True)
    ]
    runs = runs_of(*arms, seeds=range(4))
    runs["auc_click"] += 0.01 * rng.normal(size=len(runs))
    table = tradeoff(runs, simulated_definition())
    assert len(table) == 200
    figure = tradeoff_figure(table)
    drawn(figure)
    assert len(words(figure)) == table["pareto"].sum() + (not table["pareto"].any()) < 12


METHODS = ("none", "layer_clip", "agc", "lamb", "clippy")


def own(width, *panels, layout="constrained"):
    """A figure of a user: a table of `tradeoff` in each panel."""
    with figure_style(paper(width)):
        rows = (len(panels) + 1) // 2
        figure = Figure(figsize=(width, 0.75 * width), layout=layout, dpi=200)
        for i, table in enumerate(panels):
            draw_tradeoff(figure.add_subplot(rows, min(2, len(panels)), i + 1), table, key=True)
        return drawn(figure)


def table_of(*methods):
    parts = [runs_of((method, {}, 0.4 + i), auc=0.7 + 0.004 * i) for i, method in enumerate(methods)]
    return tradeoff(pd.concat(parts, ignore_index=True), simulated_definition())


def test_one_legend_below_four_small_panels_names_every_point():
    figure = own(3.3, *[table_of(*METHODS)] * 4)
    (legend,) = figure.legends
    markers = {text.get_text(): line.get_marker() for text, line in zip(legend.texts, legend.get_lines(), strict=True)}
    assert markers == {method: KNOWN[method].marker for method in METHODS}
    assert len(set(markers.values())) == len(METHODS), "they differ in grey"
    for ax in figure.axes:
        points = {line.get_marker() for line in ax.lines if line.get_linestyle() == "None"}
        assert points == set(markers.values())
        assert check_names(ax)
        assert all(name.startswith("lr ") for name in names_of(ax)), "the legend says the rest"
        assert not legend.get_window_extent().overlaps(ax.get_tightbbox())
    assert legend.get_window_extent().x0 >= 0


def test_the_legend_of_small_panels_has_the_methods_of_all():
    few, others = table_of("none", "agc"), table_of("clippy", "none", "lamb")
    (legend,) = own(3.3, few, others, few, others).legends
    assert [text.get_text() for text in legend.texts] == ["none", "agc", "lamb", "clippy"]


def test_names_in_small_panels_keep_their_thresholds():
    parts = [runs_of(("agc", {"max_ratio": ratio}, 90), auc=0.7 + ratio) for ratio in (0.01, 0.1)]
    table = tradeoff(pd.concat(parts, ignore_index=True), simulated_definition())
    figure = own(3.3, *[table] * 4)
    assert [text.get_text() for text in figure.legends[0].texts] == ["agc"]
    assert {text.get_text() for text in figure.axes[0].texts} == {"max_ratio=0.1, lr 1.6"}


def test_the_legend_has_markers_of_a_user():
    style = LineStyle(colour="#ff0000", marker=7, dash=(0, ()))  # pyright: ignore
    figure = Figure(figsize=(2, 2), layout="constrained")
    for ax in figure.subplots(1, 2):
        draw_tradeoff(ax, table_of("none"), {"none": style}, key=True)
    (legend,) = drawn(figure).legends
    assert [(line.get_marker(), line.get_color()) for line in legend.get_lines()] == [(7, "#ff0000")]


@pytest.mark.parametrize(("width", "panels"), [(3.3, 1), (6.8, 1), (6.8, 4)])
def test_panels_with_room_have_names_and_no_legend(width, panels):
    figure = own(width, *[table_of(*METHODS)] * panels)
    assert not figure.legends
    for ax in figure.axes:
        assert {name.split(",")[0] for name in names_of(ax)} == set(METHODS)


def test_without_a_constrained_layout_there_is_no_room_for_a_legend():
    figure = own(3.3, *[table_of("none", "agc")] * 4, layout=None)
    assert not figure.legends
    assert all("," in text.get_text() for ax in figure.axes for text in ax.texts)


def test_points_below_the_figure_are_open_markers_of_their_method():
    runs = pd.concat([runs_of(("none", {}, 0.2)), runs_of(("agc", {}, 0.4))], ignore_index=True)
    table = tradeoff(runs, simulated_definition())
    (ax,) = tradeoff_figure(table).axes
    low = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert {line.get_marker() for line in low} == {KNOWN["none"].marker, KNOWN["agc"].marker}
    assert len({y for line in low for y in line.get_ydata()}) == 1
