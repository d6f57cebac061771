"""The edge over several models: against rliable's formulas, and a known answer."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from simulated_models import across
from simulated_record import simulated_definition, write_simulated_study

import analysis
from analysis.stats.across_models import SeedEdges, across_models, moves, ratio, seed_edges
from analysis.stats.contrasts import contrasts
from study.config import Arm

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.05, 6, 24))


STEP = 0.02


def edges_at(log_S: np.ndarray, step: float, lrs: tuple[float, ...] = LRS) -> SeedEdges:
    return SeedEdges(seeds=np.arange(len(log_S)), low_S=log_S - step / 2, high_S=log_S + step / 2, lrs=lrs)


def sides(seed: int, shift: float = 0.1, counts: tuple[int, ...] = (8, 8, 5)) -> list[tuple[SeedEdges, SeedEdges]]:
    rng = np.random.default_rng(seed)
    made = []
    for n in counts:
        plain = rng.normal(-0.3, 0.1, n).round(2)
        pair = [plain + shift + rng.normal(0, 0.05, n).round(2), plain]
        made.append(tuple(edges_at(log_S, STEP) for log_S in pair))
    return made


def test_moves_is_rliables_probability_of_improvement() -> None:
    """Its `metrics.probability_of_improvement`: the Mann-Whitney U of each task over all pairs, and their mean."""
    for seed in range(5):
        pairs = sides(seed)
        expected = [
            stats.mannwhitneyu(a.log_S, b.log_S, alternative="greater").statistic / (len(a.log_S) * len(b.log_S))
            for a, b in pairs
        ]
        assert moves(pairs)["moves"] == pytest.approx(np.mean(expected))


def test_ratio_is_rliables_aggregate_mean() -> None:
    """Its `metrics.aggregate_mean`: the mean over tasks of the mean over runs; here of log ratios."""
    for seed in range(5):
        pairs = sides(seed)
        expected = np.mean([np.mean(a.log_S - b.log_S) for a, b in pairs])
        assert ratio(pairs)["ratio"] == pytest.approx(10**expected)


def test_intervals_are_expanded_percentiles_of_a_bootstrap_of_seeds_within_models() -> None:
    """Hesterberg's: normal shares at sqrt(5 / 4) times Student's t, for the 5 seeds of the model with the fewest."""
    pairs, rng = sides(3), np.random.default_rng(9)
    of_moves, of_ratio = [], []
    for _ in range(4000):
        drawn, logs = [], []
        for a, b in pairs:
            n = len(a.log_S)
            x, y = a.log_S[rng.integers(0, n, n), None], b.log_S[rng.integers(0, n, n)]
            drawn.append([np.mean((x > y) + tie * (x == y)) for tie in (0, 1)])
            shift = STEP * (rng.uniform(-0.5, 0.5) - rng.uniform(-0.5, 0.5))
            logs.append(np.mean((a.log_S - b.log_S)[rng.integers(0, n, n)]) + shift)
        of_moves.append(np.mean(drawn, axis=0))
        of_ratio.append(np.mean(logs))
    tail = stats.norm.cdf(math.sqrt(5 / 4) * stats.t.ppf(0.025, 4))
    assert 0.0005 < tail < 0.002
    (low, _), (_, high) = np.quantile(of_moves, (tail, 1 - tail), axis=0)
    assert moves(pairs, 8000)["moves_low"] == pytest.approx(low, abs=0.03)
    assert moves(pairs, 8000)["moves_high"] == pytest.approx(high, abs=0.03)
    low, high = np.quantile(of_ratio, (tail, 1 - tail))
    assert math.log10(ratio(pairs, 8000)["low"]) == pytest.approx(low, abs=0.012)
    assert math.log10(ratio(pairs, 8000)["high"]) == pytest.approx(high, abs=0.012)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_say_nothing_of_others(seeds: int) -> None:
    pairs = sides(1, counts=(8, seeds))
    assert moves(pairs[1:]) == {"moves": 1.0, "moves_low": 0.0, "moves_high": 1.0}
    assert ratio(pairs)["status"] == "undecided"


@pytest.mark.parametrize("shape", ["cliff", "logistic, scale 0.167", "exponential tail to the right, 0.2"])
@pytest.mark.parametrize("paired", [0.0, 1.0])
def test_intervals_over_models_hold_on_a_coarse_grid(shape: str, paired: float) -> None:
    """A tie once counted as half a win in the interval of `moves` too: it held in 14% of the studies of a cliff."""
    (row,) = across(shape, "quick", 3, 64, paired, 60)
    assert min(row["moves_covered"], row["ratio_covered"]) >= 0.9


def test_an_edge_outside_the_tried_lrs_is_a_bound() -> None:
    def edges(*log_S: float) -> SeedEdges:
        low, high = (
            [limit if math.isinf(x) and x * sign > 0 else x for x in log_S] for sign, limit in ((1, 0), (-1, -1))
        )
        return SeedEdges(seeds=np.arange(len(log_S)), low_S=np.array(low), high_S=np.array(high), lrs=(0.1, 1.0))

    inside, above, below = edges(-0.5, -0.4, -0.4), edges(*3 * [math.inf]), edges(*3 * [-math.inf])
    up = ratio([(above, inside)] * 2)
    assert (up["status"], up["high"]) == ("at least", math.inf)
    assert math.isnan(up["ratio"])
    assert up["low"] == pytest.approx(10**0.4)
    assert ratio([(below, inside)] * 2)["status"] == "at most"
    assert ratio([(above, above)] * 2)["status"] == "undecided"
    assert moves([(above, inside)] * 2)["moves"] == 1
    assert moves([(above, above)] * 2)["moves"] == 0.5
    some = ratio([(edges(math.inf, -0.4, -0.4), edges(-0.5, -0.5, -0.5))] * 2)
    assert (some["status"], math.isnan(some["ratio"])) == ("at least", True)
    assert some["low"] >= 10**0.1 - 1e-9


def runs_of(did: dict[int, list[int | None]]) -> pd.DataFrame:
    rows = [
        {"model": "m", "curve": "c", "seed": seed, "lr": lr, "outcome": "diverged" if bad else "completed"}
        for seed, own in did.items()
        for lr, bad in zip((0.1, 1.0, 10.0), own, strict=True)
        if bad is not None
    ]
    return pd.DataFrame(rows)


def test_the_edge_of_a_seed_lies_halfway_between_two_lrs() -> None:
    edges = seed_edges(runs_of({0: [0, 0, 1], 1: [0, 1, 1], 2: [0, 0, 0], 3: [1, 1, 1], 4: [0, 1, 0], 5: [0, None, 1]}))
    assert edges["m", "c"].seeds.tolist() == [0, 1, 2, 3, 4], "seed 5 lacks a run"
    assert edges["m", "c"].log_S.tolist() == [0.5, -0.5, math.inf, -math.inf, 0.5]
    assert seed_edges(runs_of({seed: [seed % 2, None, None] for seed in range(4)})) == {}


@pytest.mark.parametrize(("spread", "lrs"), [(0.09, LRS), (0.004, LRS), (0.09, LRS[::3])])
def test_a_known_ratio_is_found_over_models(tmp_path: Path, spread: float, lrs: tuple[float, ...]) -> None:
    """Every seed of either model has an edge 1.9 times as high. Where all seeds switch at once, the grid hides it."""
    arms = (Arm("none"), Arm("agc"), Arm("clippy"))
    definition = simulated_definition(arms=arms, lrs=lrs, seeds=range(12))
    true = {"none": 0.5, "agc": 0.95, "clippy": math.inf}
    write_simulated_study(tmp_path, definition, edges=true, spread=spread, with_losses=False)
    runs = analysis.load(tmp_path)
    found = across_models(runs, contrasts(runs, definition)).set_index("curve")
    assert found[["models", "seeds"]].to_numpy().tolist() == [[2, 12], [2, 12]]
    assert found.loc["agc", "low"] < 1.9 < found.loc["agc", "high"]
    assert found.loc["agc", "ratio"] == pytest.approx(1.9, rel=0.2)
    assert found.loc["agc", "moves_low"] > 0.5
    assert (found.loc["clippy", "status"], found.loc["clippy", "moves"]) == ("at least", 1.0)
    assert across_models(runs.loc[runs["model"] == "small"], contrasts(runs, definition)).empty, "one model"
