"""How far an edge moved over the last doubling: simulated runs whose thresholds fall, rise or stay."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import optimize
from simulated_horizon import doublings
from simulation import runs_table

from analysis.loading import records
from analysis.stats.horizon import FALLING, NOT_KNOWN, RISING, SETTLED, _gaps, last_doubling
from analysis.text.scale import doubling_text, horizon_warnings

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.1, 1.6, 48))


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
    half, full = judged(0.5, edge=3.2, seeds=24)
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


@pytest.mark.parametrize("paired", [0.0, 1.0])
@pytest.mark.parametrize(
    ("shape", "grid", "seeds"),
    [
        ("cliff", "quick", 16),
        ("cliff", "lr_curve", 16),
        ("logistic, scale 0.02", "quick", 64),
        ("two groups of seeds, 60% and 40%, 0.8 decades apart", "quick", 16),
        ("logistic, scale 0.24", "12 even", 4),
    ],
)
def test_the_interval_holds_the_ratio_wherever_thresholds_lie_between_two_lrs(shape, grid, seeds, paired):
    rows = doublings(shape, grid, seeds, paired, simulations=60)
    assert min(row["covered"] for row in rows) >= 0.9, "below it with probability 0.03 or less where 95% are covered"
    assert all(row["settled"] == 0 for row in rows), "the grid is too coarse"


def test_isotonic_rates_cross_between_the_lrs_of_the_gap():
    rng = np.random.default_rng(3)
    for _ in range(200):
        lrs = np.sort(rng.uniform(0.1, 1, 7))
        diverged_SK = (rng.random((9, 7)) < np.sort(rng.random(7))).astype(float)
        diverged_SK[rng.random((9, 7)) < 0.3] = math.nan
        n_K = np.isfinite(diverged_SK).sum(0)
        rates = optimize.isotonic_regression((np.nansum(diverged_SK, 0) / n_K)[n_K > 0], weights=n_K[n_K > 0]).x
        below = lrs[n_K > 0][rates < 0.5 - 1e-9]
        above = lrs[n_K > 0][rates >= 0.5 - 1e-9]
        (low,), (high,) = _gaps(lrs.tolist(), diverged_SK, np.ones((1, 9), dtype=int), 0.5)
        assert low == pytest.approx(np.log(below[-1])) if len(below) else low == -math.inf
        assert high == pytest.approx(np.log(above[0])) if len(above) else high == math.inf


def test_three_seeds_give_no_interval():
    row = only(last_doubling(*judged(1.0, seeds=3)))
    assert math.isnan(row["low"])
    assert row["status"] == NOT_KNOWN
