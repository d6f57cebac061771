"""Figures in one's own axes: sizes that suit them, wider limits, and points where the data are."""

import itertools

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from simulated_record import simulated_definition
from threshold_runs import runs_of

import analysis
from analysis.figures import curves
from analysis.figures.axes import REPORT, figure_style, lr_axis, paper, sizes, widen
from analysis.figures.frontier import draw_frontier
from analysis.figures.own_axes import own_styles
from analysis.figures.palette import KNOWN, LineStyle
from analysis.figures.tradeoff import SHIFT, draw_tradeoff
from analysis.stats.edges import edges, fits, fitted_curves
from analysis.stats.frontier import frontier, tradeoff
from analysis.stats.rates import divergence_rates
from analysis.stats.trajectories import diverged_by_step


def rates_in(ax, runs):
    fitted = fits(runs)
    curves.draw_rates(ax, divergence_rates(runs), fitted_curves(runs, fitted=fitted), edges(runs, 0.5, fitted))


def test_sizes_follow_rcparams_and_the_width_of_the_axes():
    with figure_style(paper(3.3)):
        one = Figure(figsize=(3.3, 2.3)).add_subplot()
        four = Figure(figsize=(3.3, 2.3)).subplots(2, 2)[0, 0]
    with figure_style():
        wide = Figure(figsize=(REPORT.panel, REPORT.height)).add_subplot()
        assert sizes(wide).line == pytest.approx(1.6, rel=0.05)
    with matplotlib.rc_context({"lines.linewidth": 1.0, "lines.markersize": 2.0, "font.size": 8}):
        assert sizes(wide).marker < 2.01
        assert sizes(four).line < sizes(one).line < sizes(wide).line
        assert sizes(one).text == sizes(four).text == 8, "no smaller letters on paper"
    with matplotlib.rc_context({"font.size": 6}):
        assert sizes(one).text == 6
    with matplotlib.rc_context({"font.size": 12}):
        assert sizes(one).text == pytest.approx(10.2)


@pytest.mark.parametrize("panels", [1, 4])
def test_labels_of_ticks_do_not_overlap_on_paper(panels):
    runs = runs_of(("none", {}, 0.4), ("clippy", {}, 90), lrs=[0.001, 0.01, 0.1, 0.3, 0.6, 1.2, 10])
    with figure_style(paper(3.3)):
        figure = Figure(figsize=(3.3, 2.4), layout="constrained", dpi=200)
        shape = (1, 1) if panels == 1 else (2, 2)
        every = np.atleast_1d(figure.subplots(*shape)).ravel()
        for ax in every:
            rates_in(ax, runs)
        figure.draw_without_rendering()
        for ax in every:
            boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
            boxes = [box for box in boxes if ax.bbox.x0 <= box.x0 + box.width / 2 <= ax.bbox.x1]
            assert len(boxes) >= 2
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_several_calls_keep_the_wider_limits():
    ax = Figure().add_subplot()
    rates_in(ax, runs_of(("none", {}, 0.4), lrs=[0.01, 0.1, 1.0]))
    wide = ax.get_xlim()
    rates_in(ax, runs_of(("none", {}, 0.4), lrs=[0.1, 0.3, 3.0]))
    assert ax.get_xlim()[0] == wide[0] < 0.01
    assert ax.get_xlim()[1] > 3
    lr_axis(ax, [0.2, 0.3])
    assert ax.get_xlim()[0] == wide[0]
    ax = Figure().add_subplot()
    assert widen(ax, "y", 1.0, 0.5) == (1.0, 0.5) == ax.get_ylim()
    assert widen(ax, "y", 0.8, 0.2) == (1.0, 0.2), "an error stays upside down"


def test_arrows_of_curves_without_an_edge_stand_at_their_ends():
    runs = runs_of(("none", {}, 0.4), *((name, {}, 90) for name in ("agc", "lamb", "clippy")))
    ax = Figure().add_subplot()
    rates_in(ax, runs)
    heights = sorted(arrow.xyann[1] for arrow in ax.texts)
    assert len(heights) == 3
    assert 0 <= heights[0] < 0.05
    assert heights[-1] < 0.15
    assert min(np.diff(heights)) > 0.04
    assert all(arrow.xy[0] < ax.get_xlim()[1] for arrow in ax.texts)


def test_labels_are_on_one_artist_a_curve():
    runs = runs_of(("none", {}, 0.4), ("clippy", {}, 90))
    alone = runs_of(("none", {}, 0.4), lrs=[0.8])
    for rows, names in ((runs, ["none", "clippy"]), (alone, ["none"])):
        ax = Figure().add_subplot()
        rates_in(ax, rows)
        assert ax.get_legend_handles_labels()[1] == names
    ax = Figure().add_subplot()
    draw_tradeoff(ax, tradeoff(runs, simulated_definition()))
    assert ax.get_legend_handles_labels()[1] == ["none", "clippy"]


def test_the_legend_shows_lines_and_markers():
    ax = Figure().add_subplot()
    rates_in(ax, runs_of(("none", {}, 0.4), ("clippy", {}, 90)))
    entries = ax.legend().get_lines()
    assert [entry.get_marker() for entry in entries] == [KNOWN["none"].marker, KNOWN["clippy"].marker]
    assert all(entry.get_linestyle() != "None" for entry in entries)
    ax = Figure().add_subplot()
    table = frontier(runs_of(*(("clippy", {"rel": rel}, 4 * rel) for rel in (0.1, 0.2))))
    draw_frontier(ax, table, table.iloc[:0], LineStyle(colour="#ff0000", dash="-", marker="s"))
    (entry,) = ax.legend().get_lines()
    assert (entry.get_marker(), entry.get_linestyle()) == ("s", "-")


def test_two_lines_in_one_axes_name_their_reference_once():
    arms = [("clippy", {"rel": rel}, 4 * rel) for rel in (0.1, 0.2)] + [("agc", {"max_ratio": m}, m) for m in (1, 2)]
    table, ax = frontier(runs_of(("none", {}, 0.4), *arms)), Figure().add_subplot()
    for method in ("clippy", "agc"):
        line, reference = (table.loc[table["method"] == name] for name in (method, "none"))
        draw_frontier(ax, line, reference, KNOWN[method])
    assert len([text for text in ax.texts if text.get_text().startswith("none ")]) == 1
    assert ax.get_legend_handles_labels()[1] == ["clippy", "agc"]


@pytest.mark.parametrize("curves", [2, 3])
def test_points_of_few_curves_with_equal_rates_are_seen(curves):
    runs = runs_of(*((name, {}, 90) for name in ("none", "agc", "clippy")[:curves]))
    figure = Figure()
    ax = figure.add_subplot()
    rates_in(ax, runs)
    figure.draw_without_rendering()
    points = [line for line in ax.lines if line.get_linestyle() == "None"]
    at = [line.get_transform().transform((line.get_xdata()[0], 0.0))[0] for line in points]
    assert min(np.diff(at)) * 72 / figure.dpi > 0.55 * points[0].get_markersize()


def test_a_steep_curve_is_smooth():
    lrs = [0.001, 0.01, 0.1, 0.4, 0.41, 0.8, 8.0, 80.0]
    curve = fitted_curves(runs_of(("none", {}, 0.405), lrs=lrs, seeds=range(40)))
    assert (curve["lr"].diff().dropna() > 0).all()
    assert curve[["low", "rate", "high"]].diff().abs().max().max() < 0.06
    assert len(curve) < 600


def test_points_and_bars_of_the_tradeoff_are_inside():
    runs = runs_of(*((name, {}, edge) for name, edge in (("none", 0.4), ("agc", 0.8), ("lamb", 9), ("clippy", 9))))
    runs["auc_click"] += 0.05 * (runs["seed"] == 0)
    ax = Figure().add_subplot()
    table = tradeoff(runs, simulated_definition())
    draw_tradeoff(ax, table)
    x, y = (np.concatenate([getattr(line, f"get_{axis}data")() for line in ax.lines]) for axis in "xy")
    assert x.min() >= 0
    assert x.max() <= 1
    placed = np.concatenate([line.get_xdata() for line in ax.lines if line.get_marker() in list("o^vP")])
    assert np.abs(placed[:, None] - table["rate"].to_numpy()).min(1).max() <= SHIFT + 1e-9
    assert np.nanmax(y) < ax.get_ylim()[1]


def test_what_is_black_on_white_is_white_on_black():
    runs = runs_of(("none", {}, 0.4), ("clippy", {}, 90))
    with matplotlib.style.context("dark_background"):
        figure = Figure(figsize=(4, 3))
        plain = divergence_rates(runs)
        styles = own_styles(plain)
        fitted = fits(runs)
        curves.draw_rates(figure.add_subplot(221), plain, fitted_curves(runs), edges(runs, 0.5, fitted), styles)
        draw_tradeoff(figure.add_subplot(222), tradeoff(runs, simulated_definition()), styles)
        table = frontier(runs_of(("none", {}, 0.4), *(("clippy", {"rel": rel}, 4 * rel) for rel in (0.1, 0.2))))
        line, reference = table.loc[table["curve"] != "none"], table.loc[table["curve"] == "none"]
        draw_frontier(figure.add_subplot(223), line, reference, styles["clippy"])
        figure.draw_without_rendering()
        for ax in figure.axes:
            for one in ax.lines:
                assert to_hex(one.get_color()) != "#000000", one
            for text in ax.texts:
                assert to_hex(text.get_color()) != "#000000" or not text.get_text()
                assert all(to_hex(effect._gc["foreground"]) == "#000000" for effect in text.get_path_effects())


def test_own_colours_and_markers():
    table = pd.DataFrame({"curve": ["agc a=1", "agc a=2", "none"], "method": ["agc", "agc", "none"]})
    styles = own_styles(table, {"agc": "red", "agc a=2": "blue"}, {"none": "s"})
    assert [styles[name].colour for name in ("agc a=1", "agc a=2", "none")] == ["#ff0000", "#0000ff", "#000000"]
    assert styles["none"].marker == "s"
    with pytest.raises(ValueError, match="the markers name gc; there are agc"):
        own_styles(table, None, {"gc": "s"})
    with pytest.raises(ValueError, match="marker"):
        own_styles(table, None, {"none": "no marker"})


def test_runs_whose_step_is_not_known_are_a_dotted_line_at_the_end():
    runs = runs_of(("none", {}, 0.4)).assign(reason="never_learned")
    ax = Figure().add_subplot()
    curves.draw_horizon(ax, diverged_by_step(runs))
    assert max(ax.lines[0].get_ydata()) == 0
    assert (ax.lines[0].get_marker(), ax.lines[0].get_markevery()) == ("o", [-1]), (
        "at its end, to be told apart in grey"
    )
    (mark,) = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert mark.get_ydata()[0] == pytest.approx((runs["outcome"] == "diverged").mean())
    assert analysis.divergence_rates(runs)["k"].sum() > 0
