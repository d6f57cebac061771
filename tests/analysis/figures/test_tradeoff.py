"""The figure of quality against P(divergence)."""

import numpy as np
import pandas as pd
import pytest
from drawing import check_names, drawn, words
from simulated_record import simulated_definition
from threshold_runs import runs_of, star

from analysis.figures.tradeoff import tradeoff as tradeoff_figure
from analysis.stats.edges import fits
from analysis.stats.frontier import tradeoff


@pytest.fixture(scope="module")
def crossed():
    """The runs of `star`, and their fits."""
    runs = star()
    return runs, fits(runs)


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
