"""Figures of curves against the learning rate."""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from simulated_record import LRS
from threshold_runs import adaptive

import analysis
from analysis.figures import curves
from analysis.figures.palette import KNOWN
from analysis.stats.edges import fits, fitted_curves
from analysis.stats.rates import in_bins


def test_draw_rates_has_points_and_an_arrow_for_a_censored_edge(folder):
    runs = analysis.load(folder)
    runs = runs[(runs["model"] == "small") & runs["method"].isin(["none", "clippy"])]
    rates, found, fitted = analysis.divergence_rates(runs), analysis.edges(runs), fits(runs)
    ax = Figure().add_subplot()
    curves.draw_rates(ax, rates, fitted_curves(runs, fitted=fitted), found)
    points = [line for line in ax.lines if line.get_marker() == KNOWN["none"].marker]
    assert points[0].get_ydata().tolist() == rates.loc[rates["curve"] == "none", "rate"].tolist()
    (arrow,) = ax.texts
    assert arrow.arrow_patch.get_edgecolor() == matplotlib.colors.to_rgba(KNOWN["clippy"].colour)
    assert arrow.xyann[0] == max(LRS)


def test_median_below_the_axis_is_a_cross_at_its_end():
    ax = Figure().add_subplot()
    table = pd.DataFrame(
        {"curve": ["none"] * 2, "method": ["none"] * 2, "lr": [0.1, 1.0]}
        | {"kept": [1.0, -np.inf], "kept_q10": [0.9, -np.inf], "kept_q90": [1.1, 0.2]}
    )
    curves.draw_band(ax, table, "kept", "kept", bottom=-0.25)
    (cross,) = [line for line in ax.lines if line.get_marker() == "x"]
    assert (cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ([1.0], [-0.25])


def test_labels_of_shares_say_what_the_ticks_are():
    shares = {"curve": "none", "method": "none", "known": True}
    table = pd.DataFrame([shares | {"step": step, "share": step / 800} for step in (0, 50, 100)])
    figure = Figure()
    ax = figure.add_subplot()
    curves.draw_horizon(ax, table)
    ax.set_yticks([0, 0.025, 0.05, 0.075, 0.1, 0.125])
    figure.draw_without_rendering()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0%", "2.5%", "5%", "7.5%", "10%", "12.5%"]


def test_fuller_cells_have_larger_points_and_intervals():
    rates = analysis.divergence_rates(in_bins(adaptive()))
    no_line = pd.DataFrame({name: [] for name in ("curve", "lr", "rate", "low", "high")})
    ax = Figure().add_subplot()
    curves.draw_rates(ax, rates, no_line, pd.DataFrame())
    points = [line for line in ax.lines if line.get_marker() in (KNOWN["none"].marker, KNOWN["clippy"].marker)]
    assert sum(len(line.get_xdata()) for line in points) == len(rates)
    sizes = {line.get_markersize() for line in points}
    assert len(sizes) > 2
    bars = [len(bar.get_segments()) for bar in ax.collections if isinstance(bar, LineCollection)]
    assert sum(bars) == (rates["n"] > rates["n"].max() / 3).sum() < len(rates)
