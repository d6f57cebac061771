"""Frontiers by hand, and the Pareto front by brute force."""

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_record import simulated_definition, write_simulated_study
from threshold_runs import ABS, LRS, REL, runs_of, star

import analysis
from analysis.stats.frontier import contours, frontier, pareto, threshold_map, tradeoff


def test_each_varied_threshold_is_a_line_and_lines_share_their_crossing(crossed):
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


def test_frontier_has_the_edges_of_the_curves_and_no_number_if_censored(crossed):
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


def test_grid_of_two_thresholds_has_a_line_for_each_value_of_the_other():
    arms = [("clippy", {"rel": rel, "abs": own}, 0.8) for rel in REL for own in ABS]
    table = frontier(runs_of(*arms, lrs=(0.4, 0.8), seeds=range(2)))
    assert len(table) == 2 * 9
    assert set(table.loc[table["threshold"] == "rel", "held"]) == {"abs=0.001", "abs=0.01", "abs=0.1"}


def test_arms_of_a_line_share_all_other_options():
    arms = [("agc", {"max_ratio": r, "per": per}, 0.8) for r in (0.01, 0.1) for per in ("tensor", "unit")]
    alone = [("lamb", {"mu": 0.1}, 0.4), ("clippy", {"rel": 0.1, "abs": 0.1}, 0.8), ("clippy", {"rel": 0.5}, 0.8)]
    table = frontier(runs_of(*arms, *alone, lrs=(0.4, 0.8), seeds=range(2)))
    lines = table.groupby(["method", "threshold", "held"])["value"].agg(list)
    assert lines["agc", "max_ratio", "per=tensor"] == lines["agc", "max_ratio", "per=unit"] == [0.01, 0.1]
    assert list(table.loc[table["threshold"] == "", "curve"]) == ["lamb", "clippy abs=0.1 rel=0.1", "clippy rel=0.5"]


def test_an_arm_that_leaves_the_option_at_its_default_is_in_no_line():
    arms = (("plain", options, 0.8) for options in ({}, {"width": 16}, {"width": 64}))
    table = frontier(runs_of(*arms, lrs=(0.4, 0.8), seeds=(0, 1)))
    assert table[["curve", "threshold"]].to_numpy().tolist() == [
        ["plain width=16", "width"],
        ["plain width=64", "width"],
        ["plain", ""],
    ]


def test_lines_are_of_one_model():
    runs = runs_of(*(("agc", {"max_ratio": r}, 0.8) for r in (0.01, 0.1)), lrs=(0.4, 0.8), seeds=(0, 1))
    other = runs[runs["max_ratio"] == 0.1].assign(model="large")
    table = frontier(pd.concat([runs, other], ignore_index=True))
    assert table[["model", "threshold"]].to_numpy().tolist() == [["large", ""], *[["small", "max_ratio"]] * 2]


def test_contours_are_the_frontier_at_each_level(crossed):
    table = contours(*crossed)
    assert sorted(set(table["level"])) == [0.05, 0.5, 0.95]
    assert len(table) == 3 * len(frontier(crossed[0], fitted=crossed[1]))
    reached = table[table["status"] == "reached"].pivot_table(index=["curve"], columns="level", values="edge")
    whole = reached.dropna()
    assert len(whole)
    assert ((whole[0.05] < whole[0.5]) & (whole[0.5] < whole[0.95])).all()


def test_threshold_map_has_every_cell_of_every_line():
    runs = star()
    cells = threshold_map(runs)
    assert len(cells) == (3 + 3 + 3) * len(LRS)
    assert "none" not in set(cells["method"])
    one = cells[(cells["threshold"] == "max_ratio") & (cells["value"] == 0.1) & (cells["lr"] == 0.8)]
    assert one[["n", "k", "rate"]].to_numpy().tolist() == [[6, 3, 0.5]]


def test_study_without_varied_thresholds_has_no_line():
    runs = runs_of(("none", {}, 0.4), ("clippy", {"rel": 0.5, "abs": 0.01}, math.inf))
    table = frontier(runs)
    assert list(table["threshold"]) == ["", ""]
    assert table["value"].isna().all()
    assert threshold_map(runs).empty


def test_no_runs_give_empty_tables(tmp_path):
    definition = write_simulated_study(tmp_path, simulated_definition(lrs=(0.1,), seeds=(0,)))
    runs = analysis.load(tmp_path).iloc[:0]
    assert frontier(runs).empty
    assert contours(runs).empty
    assert threshold_map(runs).empty
    assert tradeoff(runs, definition).empty


@pytest.mark.parametrize("level", [0, 1, -0.1, math.nan])
def test_frontier_refuses_a_level_outside_0_and_1(level):
    with pytest.raises(ValueError, match="need 0 < level < 1"):
        frontier(star(), level, {})


def test_tradeoff_by_hand():
    runs = runs_of(("none", {}, 0.4), ("agc", {"max_ratio": 0.01}, 0.8), lrs=(0.2, 0.4, 0.8), seeds=range(4))
    table = tradeoff(runs, simulated_definition()).set_index(["curve", "lr"])
    assert set(table["measure"]) == {"auc_click"}
    half = table.loc[("none", 0.4)]
    assert (half["n"], half["k"], half["rate"]) == (4, 2, 0.5)
    # Two runs at 0.704 and two diverged ones, which count as 0.5.
    assert half["quality"] == pytest.approx(0.602)
    assert (half["quality_q10"], half["quality_q90"]) == (pytest.approx(0.5), pytest.approx(0.704))
    # agc at 0.4 is as stable as all cells to its left and better; at 0.8 it diverges, and is worse.
    assert list(table.index[table["pareto"]]) == [("agc", 0.4)]


def test_lower_error_is_better():
    runs = runs_of(("agc", {"max_ratio": 0.01}, math.inf), lrs=(0.2, 0.4, 0.8), seeds=range(3))
    table = tradeoff(runs, simulated_definition(), "rmse_play")
    assert list(table["quality"]) == pytest.approx([1.298, 1.296, 1.292])
    assert list(table["pareto"]) == [False, False, True]


def test_each_model_has_its_own_pareto_front():
    good, bad = (runs_of(("agc", {"max_ratio": 0.01}, 9), auc=auc, model=m) for m, auc in (("a", 0.8), ("b", 0.6)))
    table = tradeoff(pd.concat([good, bad], ignore_index=True), simulated_definition())
    assert table.groupby("model")["pareto"].sum().to_dict() == {"a": 1, "b": 1}


def test_unknown_quality_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown quality 'auc_love'; there are auc_click, auc_like, rmse_play, kept"):
        tradeoff(star(), simulated_definition(), "auc_love")
    assert set(tradeoff(star(), simulated_definition(), "kept")["measure"]) == {"kept"}


FEW = st.sampled_from([0.0, 0.25, 0.5, 1.0, math.nan])


@given(st.lists(st.tuples(FEW | st.just(-math.inf), FEW), max_size=12))
def test_pareto_front_equals_brute_force(points):
    def beats(a, b):
        return a[0] >= b[0] and a[1] <= b[1] and a != b

    front = pareto([q for q, _ in points], [p for _, p in points])
    for point, marked in zip(points, front, strict=True):
        lost = any(map(math.isnan, point)) or any(beats(other, point) for other in points)
        assert marked == (not lost)
