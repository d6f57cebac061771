"""Frontiers: tables by pencil, the Pareto front by brute force, figures by what they show."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from simulated_record import simulated_definition, write_simulated_study
from simulation import Curve, draw, runs_table

import analysis
from analysis.figures import curves
from analysis.figures import frontier as frontier_figures
from analysis.figures import tradeoff as tradeoff_figure
from analysis.figures.palette import KNOWN, heat
from analysis.figures.panels import draw_panels, panels
from analysis.report.figures import report_figures
from analysis.stats.edges import fits
from analysis.stats.frontier import contours, frontier, pareto, threshold_map, tradeoff
from analysis.stats.rates import in_bins
from search_spaces.threshold_frontier import study as space
from study.config import Arm

LRS = (0.1, 0.2, 0.4, 0.8, 1.6)
SEEDS = range(6)
REL, ABS = (0.05, 0.5, 5.0), (0.001, 0.01, 0.1)


def runs_of(*arms, lrs: Sequence[float] = LRS, seeds: Sequence[int] = SEEDS, model="small", auc=0.7):
    """Runs of (method, thresholds, threshold of divergence): every seed diverges from that lr on, the odd seeds from
    the next lr on. options are thresholds that are words."""
    rows = []
    for method, options, edge in arms:
        thresholds = {key: value for key, value in options.items() if not isinstance(value, str)}
        words = {key: value for key, value in options.items() if isinstance(value, str)}
        for lr, seed in itertools.product(lrs, seeds):
            diverged = lr >= edge * (1 if seed % 2 == 0 else 1.9)
            scores = {"kept": 1.0, "auc_click": 0.5 if diverged else auc + 0.01 * lr, "rmse_play": 1.3 - 0.01 * lr}
            base = {"model": model, "method": method, "options": str(words).replace("'", '"'), "lr": lr, "seed": seed}
            outcome = {"outcome": "diverged" if diverged else "completed", "reason": "collapsed" if diverged else None}
            rest = {"role": "cell", "steps": 200, "micro_episodes": 0, "diverged_at_step": 9 if diverged else None}
            rows.append(base | outcome | rest | scores | thresholds)
    return pd.DataFrame(rows)


def star():
    """Clippy along rel and along abs, which cross at (0.5, 0.01), beside none and a line of agc."""
    crossed = [(rel, 0.01) for rel in REL] + [(0.5, own) for own in ABS if own != 0.01]
    return runs_of(
        ("none", {}, 0.4),
        *(("agc", {"max_ratio": r}, edge) for r, edge in ((0.01, 1.6), (0.1, 0.8), (1.0, 0.4))),
        *(("clippy", {"rel": rel, "abs": own}, 0.8 if own > 0.01 else math.inf) for rel, own in crossed),
    )


@pytest.fixture(scope="module")
def crossed():
    """The runs of `star`, and their fits."""
    runs = star()
    return runs, fits(runs)


# The edge against the threshold


def test_each_threshold_that_moves_alone_is_a_line_and_the_crossing_is_in_both(crossed):
    table = frontier(crossed[0], fitted=crossed[1])
    lines = {key: list(part["value"]) for key, part in table.groupby(["method", "threshold", "held"])}
    assert lines.pop(("none", "", ""))[0] != 0
    assert lines == {
        ("agc", "max_ratio", ""): [0.01, 0.1, 1.0],
        ("clippy", "rel", "abs=0.01"): list(REL),
        ("clippy", "abs", "rel=0.5"): list(ABS),
    }
    crossing = table[table["curve"] == "clippy abs=0.01 rel=0.5"]
    assert list(crossing["threshold"]) == ["abs", "rel"]
    assert list(dict.fromkeys(table["method"])) == ["none", "agc", "clippy"]


def test_the_frontier_has_the_edges_of_the_curves_censored_ones_without_a_number(crossed):
    runs, fitted = crossed
    table = frontier(runs, 0.5, fitted).set_index(["threshold", "value"])
    agc = [table.loc[("max_ratio", value)] for value in (0.01, 0.1, 1.0)]
    # Half of the seeds switch at the edge, the others at twice that: between the lr before it and the one after.
    assert agc[2]["status"] == agc[1]["status"] == "reached"
    assert 0.2 < agc[2]["edge"] < 0.8 < agc[1]["edge"] * 2 < 3.2
    assert agc[2]["low"] < agc[2]["edge"] < agc[2]["high"]
    held = table.loc[("abs", 0.001)]
    assert (held["status"], math.isnan(held["edge"]), held["high"]) == ("not reached", True, math.inf)
    assert (held["lr_max"], held["seeds"], held["level"]) == (1.6, 6, 0.5)
    alone = analysis.edges(runs, 0.5, fitted).set_index("curve")
    assert alone.loc["agc max_ratio=0.1", "edge"] == agc[1]["edge"]


def test_a_grid_of_two_thresholds_has_a_line_for_each_value_of_the_other():
    arms = [("clippy", {"rel": rel, "abs": own}, 0.8) for rel in REL for own in ABS]
    table = frontier(runs_of(*arms, lrs=(0.4, 0.8), seeds=range(2)))
    assert len(table) == 2 * 9
    assert set(table.loc[table["threshold"] == "rel", "held"]) == {"abs=0.001", "abs=0.01", "abs=0.1"}


def test_options_are_held_and_what_no_arm_shares_is_no_line():
    arms = [("agc", {"max_ratio": r, "per": per}, 0.8) for r in (0.01, 0.1) for per in ("tensor", "unit")]
    alone = [("lamb", {"mu": 0.1}, 0.4), ("clippy", {"rel": 0.1, "abs": 0.1}, 0.8), ("clippy", {"rel": 0.5}, 0.8)]
    table = frontier(runs_of(*arms, *alone, lrs=(0.4, 0.8), seeds=range(2)))
    lines = table.groupby(["method", "threshold", "held"])["value"].agg(list)
    assert lines["agc", "max_ratio", "per=tensor"] == lines["agc", "max_ratio", "per=unit"] == [0.01, 0.1]
    assert list(table.loc[table["threshold"] == "", "curve"]) == ["lamb", "clippy abs=0.1 rel=0.1", "clippy rel=0.5"]


def test_models_have_lines_of_their_own():
    runs = runs_of(*(("agc", {"max_ratio": r}, 0.8) for r in (0.01, 0.1)), lrs=(0.4, 0.8), seeds=(0, 1))
    other = runs[runs["max_ratio"] == 0.1].assign(model="large")
    table = frontier(pd.concat([runs, other], ignore_index=True))
    assert table[["model", "threshold"]].to_numpy().tolist() == [["large", ""], *[["small", "max_ratio"]] * 2]


def test_contours_are_the_frontier_at_each_level_and_rise_with_it(crossed):
    table = contours(*crossed)
    assert sorted(set(table["level"])) == [0.05, 0.5, 0.95]
    assert len(table) == 3 * len(frontier(crossed[0], fitted=crossed[1]))
    reached = table[table["status"] == "reached"].pivot_table(index=["curve"], columns="level", values="edge")
    whole = reached.dropna()
    assert len(whole)
    assert ((whole[0.05] < whole[0.5]) & (whole[0.5] < whole[0.95])).all()


def test_the_map_holds_every_cell_of_every_line():
    runs = star()
    cells = threshold_map(runs)
    assert len(cells) == (3 + 3 + 3) * len(LRS)
    assert "none" not in set(cells["method"])
    one = cells[(cells["threshold"] == "max_ratio") & (cells["value"] == 0.1) & (cells["lr"] == 0.8)]
    assert one[["n", "k", "rate"]].to_numpy().tolist() == [[6, 3, 0.5]]


def test_a_study_that_varies_no_threshold_has_no_line():
    runs = runs_of(("none", {}, 0.4), ("clippy", {"rel": 0.5, "abs": 0.01}, math.inf))
    table = frontier(runs)
    assert list(table["threshold"]) == ["", ""]
    assert table["value"].isna().all()
    assert threshold_map(runs).empty


def test_no_runs_have_no_frontier(tmp_path):
    definition = write_simulated_study(tmp_path, simulated_definition(lrs=(0.1,), seeds=(0,)))
    runs = analysis.load(tmp_path).iloc[:0]
    assert frontier(runs).empty
    assert contours(runs).empty
    assert threshold_map(runs).empty
    assert tradeoff(runs, definition).empty


@pytest.mark.parametrize("level", [0, 1, -0.1, math.nan])
def test_a_level_that_is_none_is_refused(level):
    with pytest.raises(ValueError, match="need 0 < level < 1"):
        frontier(star(), level, {})


# Quality against P(divergence)


def test_the_tradeoff_by_pencil():
    runs = runs_of(("none", {}, 0.4), ("agc", {"max_ratio": 0.01}, 0.8), lrs=(0.2, 0.4, 0.8), seeds=range(4))
    table = tradeoff(runs, simulated_definition()).set_index(["curve", "lr"])
    assert set(table["measure"]) == {"auc_click"}
    half = table.loc[("none", 0.4)]
    assert (half["n"], half["k"], half["rate"]) == (4, 2, 0.5)
    # Two runs at 0.704 and two diverged ones, which count as 0.5.
    assert half["quality"] == pytest.approx(0.602)
    assert (half["quality_low"], half["quality_high"]) == (pytest.approx(0.5), pytest.approx(0.704))
    # agc at 0.4 is as stable as all cells to its left and better; at 0.8 it diverges, and is worse.
    assert list(table.index[table["pareto"]]) == [("agc", 0.4)]


def test_an_error_is_better_where_it_is_lower():
    runs = runs_of(("agc", {"max_ratio": 0.01}, math.inf), lrs=(0.2, 0.4, 0.8), seeds=range(3))
    table = tradeoff(runs, simulated_definition(), "rmse_play")
    assert list(table["quality"]) == pytest.approx([1.298, 1.296, 1.292])
    assert list(table["pareto"]) == [False, False, True]


def test_each_model_has_a_front_of_its_own():
    good, bad = (runs_of(("agc", {"max_ratio": 0.01}, 9), auc=auc, model=m) for m, auc in (("a", 0.8), ("b", 0.6)))
    table = tradeoff(pd.concat([good, bad], ignore_index=True), simulated_definition())
    assert table.groupby("model")["pareto"].sum().to_dict() == {"a": 1, "b": 1}


def test_a_quality_that_is_none_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="unknown quality 'auc_love'; there are auc_click, auc_like, rmse_play, kept"):
        tradeoff(star(), simulated_definition(), "auc_love")
    assert set(tradeoff(star(), simulated_definition(), "kept")["measure"]) == {"kept"}


FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])


@given(st.lists(st.tuples(FEW | st.just(-math.inf), FEW), max_size=12))
def test_the_pareto_front_is_that_of_brute_force(points):
    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    front = pareto([q for q, _ in points], [p for _, p in points])
    for point, marked in zip(points, front, strict=True):
        lost = any(map(math.isnan, point)) or any(beats(other, point) for other in points)
        assert marked == (not lost)


# Studies with few runs at many lrs


@pytest.fixture(scope="module")
def adaptive():
    """One run, of a seed of its own, at each of many lrs, about the edge of each curve."""
    rng = np.random.default_rng(5)
    parts = []
    for i, method in enumerate(("none", "clippy")):
        lrs = sorted({float(f"{lr:.2g}") for lr in 0.3 * (i + 1) * 2 ** rng.normal(0, 0.8, size=48)})
        outcomes = draw([Curve(lr50=0.3 * (i + 1), slope=8)], lrs, len(lrs), rng=rng)[0]
        outcomes = np.where(np.eye(len(lrs), dtype=bool), outcomes, np.nan)
        parts.append(runs_table(outcomes, lrs, [method]))
    return pd.concat(parts, ignore_index=True)


def test_many_lrs_of_few_runs_are_read_in_quarter_octaves_and_no_run_is_lost(adaptive):
    runs = adaptive
    assert len(set(runs["lr"])) > 30
    shown = in_bins(runs)
    assert len(shown) == len(runs)
    assert list(shown["outcome"]) == list(runs["outcome"])
    off = np.log2(shown["lr"] / runs["lr"]).abs()
    assert off.max() < 0.125 + 0.07  # half a bin, and two digits
    assert 8 < len(set(shown["lr"])) < 25
    rates = analysis.divergence_rates(shown)
    assert rates["n"].sum() == len(runs)
    assert rates["k"].sum() == (runs["outcome"] == "diverged").sum()
    assert len(analysis.rates_table(rates).splitlines()) < 30


def test_studies_on_a_grid_are_read_as_they_are():
    fine = [round(0.1 * 1.1**i, 4) for i in range(30)]
    on_grid = runs_of(("none", {}, 0.4), lrs=fine, seeds=range(3))
    few = runs_of(("none", {}, 0.4), lrs=fine[:16], seeds=range(1))
    for runs in (on_grid, few, on_grid.iloc[:0]):
        assert list(in_bins(runs)["lr"]) == list(runs["lr"])
    assert len(set(in_bins(on_grid[on_grid["seed"] == 0])["lr"])) < 20


def test_an_lr_alone_in_its_bin_keeps_its_name():
    lrs = [0.013, 0.3, 0.31, 0.32, *(float(f"{1.3 * 2**i:.3g}") for i in range(15))]
    shown = in_bins(runs_of(("none", {}, 0.4), lrs=lrs, seeds=range(1)))
    assert {0.013, 1.3, 2.6} < set(shown["lr"])
    assert not {0.3, 0.31, 0.32} & set(shown["lr"]) - {0.3}
    assert (shown["lr"] == 0.3).sum() == 3


# The search space


def test_the_space_moves_each_threshold_over_two_decades_or_more():
    values: dict[tuple[str, str], list[float]] = {}
    for arm in space.arms:
        assert len(arm.options) <= 1
        for name, value in arm.options.items():
            values.setdefault((arm.method, name), []).append(value)
    clips = {("layer_clip", "max_norm"), ("agc", "max_ratio"), ("clippy", "rel"), ("clippy", "abs")}
    assert set(values) == clips | {("update_rms_clip", "d"), ("activation_clip", "limit")}
    assert all(max(own) / min(own) >= 100 for own in values.values())
    # The other arm of clippy is at its default, where its two lines cross; none is the reference.
    assert {arm.method for arm in space.arms if not arm.options} == {"none", "clippy"}


def test_the_record_of_the_space_has_its_lines(tmp_path):
    thresholds = {"clippy": {"rel": 0.5, "abs": 0.01}}
    arms = [Arm(method=a.method, options=thresholds.get(a.method, {}) | a.options) for a in space.arms]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.4, 0.8), seeds=(0, 1))
    write_simulated_study(tmp_path, definition, with_losses=False)
    runs = analysis.load(tmp_path)
    fitted = fits(runs)
    table = frontier(runs, fitted=fitted)
    assert table.groupby(["method", "threshold"]).size().to_dict() == {
        ("activation_clip", "limit"): 5,
        ("agc", "max_ratio"): 7,
        ("clippy", "abs"): 7,
        ("clippy", "rel"): 7,
        ("layer_clip", "max_norm"): 7,
        ("none", ""): 1,
        ("update_rms_clip", "d"): 5,
    }
    shown = report_figures(
        tmp_path, runs, definition, analysis.divergence_rates(runs), fitted, analysis.edges(runs, 0.5, fitted)
    )
    assert list(shown)[:5] == ["divergence", "frontier", "threshold_map", "tradeoff", "kept"]
    assert [len(shown[name].axes) for name in ("divergence", "frontier", "tradeoff", "kept")] == [6, 6, 1, 6]


# Figures


def words(figure):
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_the_frontier_figure_has_a_panel_a_line_and_an_arrow_for_each_censored_edge(crossed):
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
        assert said.count("> 1.6") == (line["status"] == "not reached").sum()
        assert sum(text.arrow_patch is not None for text in ax.texts) == said.count("> 1.6")
        marked = [point for one in ax.lines if one.get_marker() != "None" for point in one.get_ydata()]
        assert marked == list(line.loc[line["status"] == "reached", "edge"])
        assert any(text.startswith("none 0.") for text in said)
        low, high = ax.get_ylim()
        assert low < line[line["low"] > 0]["low"].min()
        assert high > 1.6
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    drawn(figure)


def test_an_edge_below_the_range_and_a_curve_that_falls_again_are_told_apart():
    runs = runs_of(("agc", {"max_ratio": 0.01}, 0.0), ("agc", {"max_ratio": 0.1}, 0.4), ("none", {}, 9), seeds=range(8))
    again = (runs["max_ratio"] == 0.1) & (runs["lr"] == 1.6)
    runs.loc[again, ["outcome", "reason"]] = ["completed", None]
    table = frontier(runs).set_index("curve")
    assert table.loc["agc max_ratio=0.01", "status"] == "below the range"
    assert not table.loc["agc max_ratio=0.1", "monotone"]
    figure = frontier_figures.frontier(table.reset_index())
    assert {"< 0.1", "none > 1.6"} <= set(words(figure))
    (point,) = [one for one in figure.axes[0].lines if one.get_marker() == KNOWN["agc"].marker]
    assert point.get_markerfacecolor() == "white"
    drawn(figure)


def test_the_map_says_k_of_n_in_every_cell_and_draws_only_what_was_reached(crossed):
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


def test_the_contour_of_one_reached_threshold_is_a_stroke_across_its_column():
    ax = Figure().add_subplot()
    frontier_figures._draw_contour(ax, np.array([math.nan, 2.0, math.nan, 1.0, 1.5]), (0, ()))
    (stroke,) = [line for line in ax.lines if len(line.get_xdata()) == 2]
    assert (stroke.get_xdata().tolist(), stroke.get_ydata().tolist()) == ([0.6, 1.4], [2.0, 2.0])


def test_the_tradeoff_names_its_front_and_the_best_of_the_others(crossed):
    runs, _ = crossed
    table = tradeoff(runs, simulated_definition())
    figure = tradeoff_figure.tradeoff(table)
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


def test_up_is_better_for_an_error_too(crossed):
    figure = tradeoff_figure.tradeoff(tradeoff(crossed[0], simulated_definition(), "rmse_play"))
    bottom, top = figure.axes[0].get_ylim()
    assert bottom > top
    shown = [y for line in figure.axes[0].lines for y in line.get_ydata()]
    assert bottom > max(shown) > min(shown) > top
    assert figure.axes[0].get_ylabel() == "held-out RMSE, play"
    drawn(figure)


def test_names_of_points_that_lie_together_stand_apart():
    arms = [(method, {}, 9) for method in ("none", "layer_clip", "agc", "lamb", "clippy")]
    parts = [runs_of(arm, auc=0.7 + 1e-5 * i) for i, arm in enumerate(arms)]
    figure = tradeoff_figure.tradeoff(tradeoff(pd.concat(parts, ignore_index=True), simulated_definition()))
    drawn(figure)
    heights = sorted(text.get_window_extent().y0 for text in figure.axes[0].texts)
    assert len(heights) == 5
    letters = 9 * figure.dpi / 72
    assert min(np.diff(heights)) > letters
    assert heights[0] > figure.axes[0].get_window_extent().y0


def test_two_hundred_points_of_which_most_are_alike_keep_their_front_apart():
    rng = np.random.default_rng(2)
    arms = [
        ("agc", {"max_ratio": float(r)}, float(e)) for r, e in zip(range(1, 41), rng.uniform(0.2, 3, 40), strict=True)
    ]
    runs = runs_of(*arms, seeds=range(4))
    runs["auc_click"] += 0.01 * rng.normal(size=len(runs))
    table = tradeoff(runs, simulated_definition())
    assert len(table) == 200
    figure = tradeoff_figure.tradeoff(table)
    drawn(figure)
    assert len(words(figure)) == table["pareto"].sum() + (not table["pareto"].any()) < 12


def test_thin_studies_have_figures_too():
    everything = runs_of(("agc", {"max_ratio": 0.1}, 0.0), ("agc", {"max_ratio": 1.0}, 0.0), lrs=(0.1,), seeds=(0,))
    nothing = runs_of(("agc", {"max_ratio": -1.0}, math.inf), ("agc", {"max_ratio": 1.0}, math.inf), seeds=(0,))
    for runs in (everything, nothing):
        drawn(frontier_figures.frontier(frontier(runs)))
        drawn(frontier_figures.threshold_map(threshold_map(runs), contours(runs)))
        drawn(tradeoff_figure.tradeoff(tradeoff(runs, simulated_definition())))
    assert frontier_figures.frontier(frontier(nothing)).axes[0].get_xscale() == "linear"
    lost = tradeoff(nothing.assign(kept=math.nan), simulated_definition(), "kept")
    drawn(tradeoff_figure.tradeoff(lost))
    alone = runs_of(("none", {}, 0.4))
    assert not frontier_figures.frontier(frontier(alone)).axes
    assert not frontier_figures.threshold_map(threshold_map(alone), contours(alone)).axes


def drawn(figure):
    """Every warning of a drawing is an error."""
    figure.draw_without_rendering()
    return figure


def test_curves_that_cannot_be_told_apart_get_a_panel_a_line_beside_none(crossed):
    runs, fitted = crossed
    table = frontier(runs, fitted=fitted)
    many = pd.concat([runs, runs_of(*(("lamb", {"mu": mu}, 0.8) for mu in (0.1, 0.2, 0.4, 0.8)))], ignore_index=True)
    rates = analysis.divergence_rates(many)
    (one,) = panels(analysis.divergence_rates(runs), ["small"], table)
    assert (one.title, len(one.styles), one.names) == ("small", 9, None)
    lambs = frontier(many[many["method"] == "lamb"])
    lines = pd.concat([table, lambs], ignore_index=True)
    parts = panels(rates, ["small"], lines)
    assert [p.title for p in parts] == [*(ax.get_title(loc="left") for ax in frontier_figures.frontier(lines).axes)]
    for part in parts:
        assert next(iter(part.styles)) == "none"
        assert len(part.names or ()) == len(part.styles) == len({look.colour for look in part.styles.values()})
    assert set().union(*(part.styles for part in parts)) == set(rates["curve"])
    loose = lines.assign(threshold=lines["threshold"].where(lines["method"] != "lamb", ""))
    apart = panels(rates, ["small"], loose)
    assert set(apart[0].styles) == {"none", *(f"lamb mu={mu}" for mu in (0.1, 0.2, 0.4, 0.8))}
    drawn(draw_panels(parts, lambda ax, p: curves.draw_micro(ax, rates, p.styles)))


def test_cells_of_many_runs_are_larger_and_intervals_stand_where_they_say_something(adaptive):
    rates = analysis.divergence_rates(in_bins(adaptive))
    no_line = pd.DataFrame({name: [] for name in ("curve", "lr", "rate", "low", "high")})
    ax = Figure().add_subplot()
    curves.draw_rates(ax, rates, no_line, pd.DataFrame())
    points = [line for line in ax.lines if line.get_marker() in (KNOWN["none"].marker, KNOWN["clippy"].marker)]
    assert sum(len(line.get_xdata()) for line in points) == len(rates)
    sizes = {line.get_markersize() for line in points}
    assert len(sizes) > 2
    bars = [len(bar.get_segments()) for bar in ax.collections if isinstance(bar, LineCollection)]
    assert sum(bars) == (rates["n"] > rates["n"].max() / 3).sum() < len(rates)


def test_the_look_of_probabilities_falls_in_lightness_all_the_way():
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in heat()(np.linspace(0, 1, 50))]
    assert (np.diff(light) < 0).all()
    assert light[0] - light[-1] > 0.6
