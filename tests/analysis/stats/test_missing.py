"""Runs that failed for good: whether their share rises with the lr, and the edge if all of them had diverged."""

import itertools
import math

import numpy as np
import pytest
from scipy import special
from simulated_record import simulated_definition, write_simulated_study
from text_checks import contains

import analysis
from analysis.stats.missing import NO_TREND, ONLY_ABOVE, RISES, failed_runs, missing_by_curve, trend_p
from analysis.text.missing import sentences
from study.config import CONTROL_SEEDS, Arm
from study.record.failures import write_failure

LRS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
GRID = simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=LRS, seeds=range(8))


def lose(folder, lost, *, definition=GRID, edges=None, with_runs=True):
    """Write a record without the (method, lr, seed) of `lost`, which failed. Returns the recorded runs."""
    out = [("small", method, lr, seed) for method, lr, seed in lost]
    write_simulated_study(
        folder, definition, leave_out=out, edges=edges or {"none": math.inf}, with_losses=False, spread=0.01
    )
    arms = {arm.method: arm for arm in definition.study.arms}
    runs = [definition.study.run(definition.data["content"], "small", arms[m], lr, s) for m, lr, s in lost]
    write_failure(folder, "lost", runs if with_runs else [run.id for run in runs], "it exited")
    return analysis.load(folder)


def row_of(folder, runs, definition=GRID, level=0.5):
    (row,) = missing_by_curve(runs, failed_runs(folder, definition, runs), level).to_dict("records")
    return row


# --- the test of a trend ------------------------------------------------------------------------------------------


def test_trend_p_is_that_of_all_permutations():
    lrs, missing, total = (0.1, 0.2, 0.8), (0, 1, 2), (3, 3, 2)
    score = np.repeat(np.log(lrs), total)
    seen = np.dot(missing, np.log(lrs))
    draws = [score[list(chosen)].sum() for chosen in itertools.combinations(range(8), 3)]
    exact = np.mean([draw >= seen - 1e-9 for draw in draws])
    assert trend_p(lrs, missing, total) == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("lrs", "missing", "total"), [((0.1,), (2,), (8,)), ((0.1, 0.2), (0, 0), (8, 8)), ((0.1, 0.2), (8, 8), (8, 8))]
)
def test_trend_is_unknown_without_a_contrast(lrs, missing, total):
    assert math.isnan(trend_p(lrs, missing, total))


def share_of_alarms(simulations, rate, *, lrs=12, seeds=8, seed=0):
    """Share of curves with p < 0.05 where a run fails with the probability `rate` (of log10 lr)."""
    rng = np.random.default_rng(seed)
    grid = np.geomspace(0.01, 1, lrs)
    p = rate(np.log10(grid))
    missing = rng.binomial(seeds, np.broadcast_to(p, (simulations, lrs)))
    found = [trend_p(grid, m, np.full(lrs, seeds)) for m in missing]
    return float(np.mean([p < 0.05 for p in found]))


def exits(share):
    """Runs fail where they diverge (LR50 0.3), in `share` of the cases."""
    return lambda x: share * special.expit(20 * (x - math.log10(0.3)))


def test_trend_test_has_its_level_and_finds_runs_that_fail_because_they_diverge():
    assert share_of_alarms(400, lambda x: 0.05 + 0 * x) < 0.08
    assert share_of_alarms(200, exits(1.0)) > 0.99
    assert share_of_alarms(200, exits(0.2)) > 0.75


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.01, 0.05, 0.2, 0.5])
@pytest.mark.parametrize(("lrs", "seeds"), [(6, 4), (12, 8), (40, 1)])
def test_trend_test_alarms_at_most_5_percent_of_the_time(rate, lrs, seeds):
    alarms = share_of_alarms(1500, lambda x: rate + 0 * x, lrs=lrs, seeds=seeds, seed=1)
    assert alarms < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "power"), [(1.0, 0.99), (0.5, 0.98), (0.2, 0.75), (0.1, 0.4)])
def test_power_of_the_trend_test(share, power):
    assert share_of_alarms(600, exits(share), seed=2) > power


# --- curves -------------------------------------------------------------------------------------------------------


def test_runs_missing_above_an_lr_count_as_diverged_beside_the_edge(tmp_path):
    """A loop that exits at a high loss: 0 of the recorded runs diverged."""
    lost = [("none", lr, seed) for lr in (0.8, 1.6, 3.2) for seed in range(8) if (lr, seed) != (3.2, 0)]
    runs = lose(tmp_path, lost)
    assert (runs["outcome"] == "diverged").sum() == 0
    row = row_of(tmp_path, runs)
    assert (row["missing"], row["recorded"], row["lowest_lr"], row["complete_lr"]) == (23, 25, 0.8, 0.4)
    assert row["trend"] == RISES
    assert row["p"] < 0.001
    assert 0.4 < row["edge"] < 0.8
    (said,) = sentences(missing_by_curve(runs, failed_runs(tmp_path, GRID, runs)), analysis.edges(runs))
    contains(said, "23 of 48 runs are missing", "rises with the lr", "may have diverged", "> 3.2")
    assert "LR50 is 0.5" in said


def test_missing_runs_of_an_adaptive_search_are_found_by_the_lr_in_their_failure(tmp_path):
    """A search writes no plan: 18 runs are recorded, none diverged, and the 14 that exited are missing."""
    rng = np.random.default_rng(0)
    lrs = tuple(sorted(float(f"{lr:.3g}") for lr in np.geomspace(0.1, 9, 32) * (1 + 0.01 * rng.random(32))))
    seeds = dict(enumerate(lrs))
    definition = simulated_definition(models=("small",), arms=[Arm(method="none")], lrs=lrs, seeds=range(32))
    failing = [i for i, lr in seeds.items() if lr > 1.2 and i % 8]
    unplanned = [("small", "none", lr, s) for s in range(32) for lr in lrs if seeds[s] != lr or s in failing]
    write_simulated_study(tmp_path, definition, leave_out=unplanned, edges={"none": math.inf}, with_losses=False)
    study = definition.study
    failed = [study.run(definition.data["content"], "small", study.arms[0], seeds[i], i) for i in failing]
    write_failure(tmp_path, "lost", failed, "it exited")
    runs = analysis.load(tmp_path)
    (before,) = analysis.edges(runs).to_dict("records")
    assert before["status"] == "not reached"
    row = row_of(tmp_path, runs, definition)
    assert (row["missing"], row["trend"]) == (len(failing), RISES)
    assert 0.8 < row["edge"] < 3


def test_few_runs_above_all_complete_lrs_are_reported(tmp_path):
    runs = lose(tmp_path, [("none", 3.2, 5)])
    row = row_of(tmp_path, runs)
    assert row["p"] > 0.05
    assert row["trend"] == ONLY_ABOVE
    (said,) = sentences(missing_by_curve(runs, failed_runs(tmp_path, GRID, runs)), analysis.edges(runs))
    contains(said, "1 of 48 runs are missing, all at lr 3.2", "above every lr without a missing run")


@pytest.mark.parametrize(
    "lost",
    [
        [("none", 0.1, 0), ("none", 0.8, 3), ("none", 0.2, 5)],
        [("none", lr, seed) for lr in LRS for seed in (1, 5)],
    ],
    ids=["anywhere", "the same share at every lr"],
)
def test_missing_runs_without_a_trend_are_no_alarm(tmp_path, lost):
    runs = lose(tmp_path, lost)
    row = row_of(tmp_path, runs)
    assert row["trend"] == NO_TREND
    assert math.isnan(row["edge"])
    assert sentences(missing_by_curve(runs, failed_runs(tmp_path, GRID, runs)), analysis.edges(runs)) == []


def test_failures_belong_to_the_curve_of_their_arm(tmp_path):
    arms = [Arm("clippy", rel=0.1), Arm("clippy", rel=0.5), Arm("none"), Arm("agc")]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.2), seeds=(0, 1))
    study, content = definition.study, definition.data["content"]
    wrong = [study.run(content, "small", arm, 0.2, 1) for arm in arms[1:3]]
    wrong += [study.run(content, "small", arms[3], lr, seed) for lr in (0.1, 0.2) for seed in (0, 1)]
    out = [("small", "agc", lr, s) for lr in (0.1, 0.2) for s in (0, 1)]
    write_simulated_study(tmp_path, definition, leave_out=[*out, ("small", "none", 0.2, 1)], with_losses=False)
    runs = analysis.load(tmp_path)
    runs = runs[runs["run_id"] != wrong[0].id]
    write_failure(tmp_path, "lost", wrong, "it exited")
    found = failed_runs(tmp_path, definition, runs)
    assert found["curve"].tolist() == ["clippy rel=0.5", "none", *["agc"] * 4]
    said = sentences(missing_by_curve(runs, found), analysis.edges(runs))
    assert any("agc: all 4 runs are missing" in line for line in said)


def test_failures_without_lrs_are_those_of_the_plan(tmp_path):
    """Older records name only ids; what a search chose is then unknown."""
    runs = lose(tmp_path, [("none", 3.2, seed) for seed in range(4)], with_runs=False)
    assert failed_runs(tmp_path, GRID, runs)["lr"].tolist() == [3.2] * 4
    write_failure(tmp_path, "other", ["f" * 64], "it exited")
    assert len(failed_runs(tmp_path, GRID, runs)) == 4


def test_runs_that_were_recorded_later_and_the_control_are_not_missing(tmp_path):
    runs = lose(tmp_path, [("none", 3.2, 0)])
    study, content = GRID.study, GRID.data["content"]
    write_failure(tmp_path, "done", [study.run(content, "small", study.arms[0], 0.1, 0)], "it exited")
    write_failure(tmp_path, "control", [study.run(content, "small", study.arms[0], 0.1, CONTROL_SEEDS[0])], "it exited")
    assert failed_runs(tmp_path, GRID, runs)[["lr", "seed"]].values.tolist() == [[3.2, 0]]
