"""Figures of frontiers and threshold maps."""

import math

import numpy as np
import pytest
from drawing import drawn, words
from matplotlib.figure import Figure
from simulated_record import simulated_definition
from threshold_runs import LRS, runs_of

from analysis.figures import frontier as frontier_figures
from analysis.figures.palette import KNOWN
from analysis.figures.tradeoff import tradeoff as tradeoff_figure
from analysis.stats.frontier import contours, frontier, threshold_map, tradeoff


def test_frontier_has_a_panel_a_line_and_an_arrow_a_censored_edge(crossed):
    table = frontier(crossed[0], fitted=crossed[1])
    figure = frontier_figures.frontier(table)
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["small: agc max_ratio", "small: clippy abs, at rel=0.5", "small: clippy rel, at abs=0.01"]
    for ax, (_, line) in zip(
        figure.axes, table[table["threshold"] != ""].groupby(["method", "threshold"]), strict=True
    ):
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert ax.get_ylabel() == "LR50 (learning rate)"
        assert [ax.xaxis.get_major_formatter()(t) for t in ax.get_xticks()] == [f"{v:g}" for v in line["value"]]
        said = [text.get_text() for text in ax.texts]
        censored = line["status"] == "not reached"
        assert said.count("> 1.6") == (censored & ~censored.shift(fill_value=False)).sum(), "one for neighbours"
        assert said.count("") == censored.sum(), "an arrow each"
        marked = [
            point
            for one in ax.lines
            if one.get_linestyle() == "None" and one.get_marker() != "None"
            for point in one.get_ydata()
        ]
        assert marked == list(line.loc[line["status"] == "reached", "edge"])
        assert any(text.startswith("none 0.") for text in said)
        low, high = ax.get_ylim()
        assert low < line[line["low"] > 0]["low"].min()
        assert high > 1.6
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    drawn(figure)


def test_frontier_marks_edges_below_the_range_and_curves_that_fall_again():
    runs = runs_of(("agc", {"max_ratio": 0.01}, 0.0), ("agc", {"max_ratio": 0.1}, 0.4), ("none", {}, 9), seeds=range(8))
    again = (runs["max_ratio"] == 0.1) & (runs["lr"] == 1.6)
    runs.loc[again, ["outcome", "reason"]] = ["completed", None]
    table = frontier(runs).set_index("curve")
    assert table.loc["agc max_ratio=0.01", "status"] == "below the range"
    assert not table.loc["agc max_ratio=0.1", "monotone"]
    figure = frontier_figures.frontier(table.reset_index())
    assert {"< 0.1", "none > 1.6"} <= set(words(figure))
    (point,) = [
        one for one in figure.axes[0].lines if (one.get_marker(), one.get_linestyle()) == (KNOWN["agc"].marker, "None")
    ]
    assert point.get_markerfacecolor() == "white"
    drawn(figure)


def test_map_shows_k_of_n_and_contours_of_reached_edges(crossed):
    cells, crossings = threshold_map(crossed[0]), contours(*crossed)
    figure = frontier_figures.threshold_map(cells, crossings)
    lines = [ax for ax in figure.axes if ax.get_title(loc="left")]
    assert len(lines) == 3
    for ax, (key, line) in zip(lines, cells.groupby(["method", "threshold"]), strict=True):
        assert sorted(t.get_text() for t in ax.texts) == sorted(
            f"{k}/{n}" for k, n in zip(line["k"], line["n"], strict=True)
        )
        (mesh,) = ax.collections
        assert np.nansum(mesh.get_array()) == pytest.approx(line["rate"].sum())
        assert [t.get_text() for t in ax.get_xticklabels()] == [f"{v:g}" for v in sorted(set(line["value"]))]
        assert [t.get_text() for t in ax.get_yticklabels()] == [f"{lr:g}" for lr in LRS]
        own = crossings[(crossings["method"] == key[0]) & (crossings["threshold"] == key[1])]
        whole = [one.get_ydata() for one in ax.lines if len(one.get_ydata()) == line["value"].nunique()]
        assert len(whole) == 3
        reached = own.pivot_table(index="level", columns="value", values="edge", dropna=False).sort_index()
        assert [np.isfinite(y).tolist() for y in whole] == np.isfinite(reached.to_numpy()).tolist()
    by_hand = np.interp(np.log(reached.loc[0.5].dropna()), np.log(LRS), range(len(LRS)))
    assert whole[1][np.isfinite(whole[1])].tolist() == pytest.approx(by_hand.tolist())
    drawn(figure)


def test_contour_of_one_column_is_a_short_stroke():
    ax = Figure().add_subplot()
    frontier_figures._draw_contour(ax, np.array([math.nan, 2.0, math.nan, 1.0, 1.5]), (0, ()))
    (stroke,) = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert (stroke.get_xdata().tolist(), stroke.get_ydata().tolist()) == ([0.6, 1.4], [2.0, 2.0])


def test_thin_studies_have_figures():
    everything = runs_of(("agc", {"max_ratio": 0.1}, 0.0), ("agc", {"max_ratio": 1.0}, 0.0), lrs=(0.1,), seeds=(0,))
    nothing = runs_of(("agc", {"max_ratio": -1.0}, math.inf), ("agc", {"max_ratio": 1.0}, math.inf), seeds=(0,))
    for runs in (everything, nothing):
        drawn(frontier_figures.frontier(frontier(runs)))
        drawn(frontier_figures.threshold_map(threshold_map(runs), contours(runs)))
        drawn(tradeoff_figure(tradeoff(runs, simulated_definition())))
    assert frontier_figures.frontier(frontier(nothing)).axes[0].get_xscale() == "linear"
    lost = tradeoff(nothing.assign(kept=math.nan), simulated_definition(), "kept")
    drawn(tradeoff_figure(lost))
    alone = runs_of(("none", {}, 0.4))
    assert not frontier_figures.frontier(frontier(alone)).axes
    assert not frontier_figures.threshold_map(threshold_map(alone), contours(alone)).axes
