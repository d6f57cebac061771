"""How far an edge moved over the last doubling: simulated runs whose thresholds fall, rise or stay."""

import math

import numpy as np
import pandas as pd
import pytest
from simulation import runs_table

from analysis.loading import records
from analysis.stats.horizon import FALLING, NOT_KNOWN, RISING, SETTLED, last_doubling
from analysis.text.scale import doubling_text, horizon_warnings

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.05, 2, 24))


def judged(ratio: float, seeds: int = 16, edge: float = 0.4, noise: float = 0.0, spread: float = 0.1, seed: int = 0):
    """Return the runs at half of the steps and at all of them; each seed has a threshold at either."""
    rng = np.random.default_rng(seed)
    half = np.log(edge) + spread * rng.normal(size=seeds)
    full = half + math.log(ratio) + noise * rng.normal(size=seeds)
    tables = []
    for threshold, steps in ((half, 100), (full, 200)):
        diverged = (np.log(LRS)[None] >= threshold[:, None]).astype(float)
        tables.append(runs_table(diverged[None], LRS, ["none"]).assign(steps=steps))
    return tables


def only(table: pd.DataFrame) -> dict:
    (row,) = records(table)
    return row


@pytest.mark.parametrize(
    ("ratio", "status"), [(1.0, SETTLED), (0.7, FALLING), (1.4, RISING), (0.97, SETTLED), (0.5, FALLING)]
)
def test_an_edge_that_moves_is_told_from_one_that_is_settled(ratio, status):
    row = only(last_doubling(*judged(ratio, seeds=48)))
    assert row["status"] == status
    assert row["low"] < ratio < row["high"]
    assert row["ratio"] == pytest.approx(ratio, rel=0.06)
    assert (row["steps_half"], row["steps"], row["runs"]) == (100, 200, 48 * len(LRS))
    assert (row["late"] > 0) == (ratio < 0.98)
    assert (row["recovered"] > 0) == (ratio > 1.02)


def test_late_divergence_is_warned_of_and_recovery_is_not():
    (line,) = horizon_warnings(records(last_doubling(*judged(0.7))))
    assert "none, LR50" in line
    assert "runs diverged after step 100" in line
    assert horizon_warnings(records(last_doubling(*judged(1.0)))) == []
    assert horizon_warnings(records(last_doubling(*judged(1.4)))) == []


def test_a_censored_edge_is_not_known_and_late_divergence_is_still_warned_of():
    half, full = judged(0.5, edge=3.5, seeds=24)
    row = only(last_doubling(half, full))
    assert row["status"] == NOT_KNOWN
    assert math.isnan(row["ratio"])
    assert doubling_text(row) == "none: not known"
    assert row["late"] > row["recovered"] == 0
    assert row["p"] < 0.05
    assert len(horizon_warnings([row])) == 1


def test_runs_of_one_horizon_alone_are_left_out():
    half, full = judged(1.0, seeds=6)
    row = only(last_doubling(half, full.iloc[:-10]))
    assert row["runs"] == 6 * len(LRS) - 10


def test_without_runs_at_half_of_the_steps_the_table_is_empty():
    half, full = judged(1.0, seeds=6)
    table = last_doubling(half.iloc[:0], full)
    assert len(table) == 0
    assert [*table] == [*last_doubling(half, full)]


def test_seeds_that_all_switch_in_one_gap_do_not_give_an_interval_without_width():
    row = only(last_doubling(*judged(1.0, seeds=4, spread=1e-6)))
    assert row["low"] < 0.97
    assert row["high"] > 1.03


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [1.0, 0.8, 1.2])
def test_interval_of_the_ratio_holds_it(ratio):
    inside = 0
    for seed in range(60):
        row = only(last_doubling(*judged(ratio, noise=0.05, seed=seed)))
        inside += row["low"] <= ratio <= row["high"]
    assert inside >= 53
