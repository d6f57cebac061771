"""How often claims are wrong on curves of any shape: safe lrs, differences between methods, over several models too,
edges of adaptive searches, and curves that are said to fall again; and what a search saves.

    python tests/helpers/simulation_claims.py [--tables safe families ...] [--simulations 400]
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
from cells import options, simulate
from shapes import GRIDS, SHAPES, Shape
from simulated_edges import fitted_once
from simulated_horizon import doublings
from simulated_models import across
from simulated_scale import LAWS, SIZES, extrapolations
from simulated_search import Found, recorded_search, search

from analysis.stats import posterior_grid
from analysis.stats.claims import CLAIMED, Evidence, claim
from analysis.stats.contrasts import Points, holm, points, ratio_interval
from analysis.stats.edges import edge_of
from analysis.stats.intervals import CONFIDENCE, TAIL
from analysis.stats.psychometric import Fit, fit
from analysis.stats.rates import octave_bins
from study.commands.search_start import RUNGS, SEEDS
from study.search import edge_search, placement
from study.search.placement import HIGHEST, LOWEST

LRS = GRIDS["12 even"]
SHALLOW, STEEP, FALLING = "logistic, scale 0.167", "logistic, scale 0.05", "falls again"
TWO_GROUPS = tuple(name for name in SHAPES if name.startswith("two groups"))
STEEPEST = "logistic, scale 0.02"
LAPSING, FLOOR = "plateau 0.6, runs lapse", "floor 0.05"
DIFFERING = (
    *(STEEP, *TWO_GROUPS, "Cauchy, scale 0.05", "exponential tail to the right, 0.2"),
    *("exponential tail to the left, 0.2", "half steep, half shallow", "shoulder of 35% before a cliff", "uniform"),
)
"""Curves whose searches end before their budget, as a rule."""


def safe(shape: str, grid: str, seeds: int, simulations: int) -> list[dict[str, Any]]:
    """How often `study recommend` claims an lr whose risk is above 5%, in SAFE_TIMES as many studies.

    P passes 5% just below the lr in the middle of the grid: its risk is 5.1%.
    """
    lrs, curve = GRIDS[grid], SHAPES[shape]
    curve = curve.at(curve.lr50 * lrs[len(lrs) // 2] / curve.edge(0.051))
    rng = np.random.default_rng([seeds, list(GRIDS).index(grid), *shape.encode()])
    n = SAFE_TIMES * simulations
    diverged_NK = curve.draw(lrs, n * seeds, rng).reshape(n, seeds, -1).sum(1).astype(int)
    k_RK, times_R = np.unique(diverged_NK, axis=0, return_counts=True)
    risky = lrs[int(np.cumprod(curve.rate(lrs) <= 0.05).sum())]
    wrong = made = 0
    for k_K, times in zip(k_RK.tolist(), times_R.tolist(), strict=True):
        grid_runs = tuple((lr, k, seeds) for lr, k in zip(lrs, k_K, strict=True))
        found = claim(Evidence(grid=grid_runs, placed=False, confirmations=()), 0.05, CONFIDENCE)
        made += times * (found["status"] == CLAIMED)
        wrong += times * (found["status"] == CLAIMED and found["lr"] >= risky)
    return [{"wrong": wrong / n, "made": made / n}]


SAFE_TIMES = 25


def families(shape: str, seeds: int, kept: float, simulations: int) -> list[dict[str, Any]]:
    """How often any of four contrasts claims a difference at 5%, by Holm, where five methods have equal curves.

    kept: The part of a threshold's variance that a seed keeps over all lrs; each method has its own thresholds.
    """
    rng = np.random.default_rng([seeds, int(2 * kept), *shape.encode()])
    curve = replace(SHAPES[shape].at(0.13), share=kept)  # between two lrs
    drawn = np.array([curve.draw(LRS, seeds, rng) for _ in range(5 * simulations)])
    _, which, fitted = fitted_once(LRS, drawn)
    of_record = [points(one) for one in fitted]
    claimed = 0
    for none, *others in which.reshape(5, simulations).T:
        p = [ratio_interval(of_record[i], of_record[none])[2] for i in others]
        claimed += bool((holm(p) <= 0.05).any())
    return [{"wrong": claimed / simulations}]


def searches(shape: str, level: float, precision: float, simulations: int) -> list[dict[str, Any]]:
    """What searches find and take, on curves with an edge anywhere in two decades but for 0.3 at their ends."""
    found, edges, _ = _found(SHAPES[shape], level, precision, simulations, [1, *shape.encode()])
    runs = [one.runs for one in found]
    row = {"runs": float(np.mean(runs)), "most_runs": float(np.quantile(runs, 0.9))}
    return [row | _hits(found, edges)]


def starts(shape: str, start: str, simulations: int) -> list[dict[str, Any]]:
    """What a search of LR50 to a factor of 1.25 takes, by where it begins, on curves with an edge in three decades.

    start: A key of STARTS. The range tests are counted as runs.
    """
    rng = np.random.default_rng([11, *shape.encode()])
    rungs, spread, off, tests = STARTS[start]
    found, edges = [], []
    for i, place in enumerate(rng.uniform(-2.5, 0.5, simulations)):
        center = 10 ** (place + off + spread * rng.normal())
        ladder = sorted({float(f"{min(max(rung * center, LOWEST), HIGHEST):.3g}") for rung in rungs})
        found.append(search(SHAPES[shape].at(10**place), 30_000 + i, ladder=ladder, precision=1.25, budget=2000))
        edges.append(place)
    runs = [one.runs + tests for one in found]
    return [{"runs": float(np.mean(runs)), "most_runs": float(np.quantile(runs, 0.9))} | _hits(found, edges)]


STARTS: dict[str, tuple[tuple[float, ...], float, float, int]] = {
    "8 lrs over two decades": (tuple(2.0 ** np.arange(-3.5, 4)), 0.3, 0.0, 0),
    "range tests": (tuple(2.6 * rung for rung in RUNGS), 0.2, 0.0, 1 + len(SEEDS)),
    "range tests, ten times too high": (tuple(2.6 * rung for rung in RUNGS), 0.2, 1.0, 1 + len(SEEDS)),
    "range tests, ten times too low": (tuple(2.6 * rung for rung in RUNGS), 0.2, -1.0, 1 + len(SEEDS)),
    "the edge itself": ((0.84, 1.0, 1.19), 0.0, 0.0, 0),
}
"""Lrs of the start in units of its center; how far the center lies from the edge in decades: standard deviation and
mean; and range tests. The first is a user who knows the edge within a factor of 4."""


def spending(shape: str, rule: str, simulations: int) -> list[dict[str, Any]]:
    """What a search of LR50 to a factor of 1.25 takes without one of its rules, or if its fits know the curve's scale.

    rule: A key of RULES or ORACLES.
    """
    changed = RULES[ORACLES.get(rule, rule)]
    if rule in ORACLES:
        changed += ((posterior_grid, "SIGMA", (SCALES[shape], 1.001 * SCALES[shape])),)  # a grid needs a width
    with contextlib.ExitStack() as held:
        for where, name, instead in changed:
            held.enter_context(mock.patch.object(where, name, instead, create=True))
        return searches(shape, 0.5, 1.25, simulations)


def _logistic_alone(one: Fit, level: float) -> tuple[float, float, float]:
    low, edge, high = one.edge(level, (TAIL, 0.5, 1 - TAIL))
    return low, edge, high


RULES: dict[str, tuple[tuple[Any, str, Any], ...]] = {
    "all rules": (),
    "no random lrs": ((placement, "GUARD_SHARE", 0.0),),
    "one narrow interval ends it": ((edge_search.CurveSearch, "known", property(lambda _: True, lambda *_: None)),),
    "the interval of the logistic alone": ((placement, "edge_interval", _logistic_alone),),
}
RULES["neither of the last two"] = (*list(RULES.values())[2], *list(RULES.values())[3])

ORACLES = {"slope known": "all rules", "slope known, neither of the last two": "neither of the last two"}
"""Searches whose fits know the scale, and their rules."""

SCALES = {"cliff": posterior_grid.SIGMA[0], STEEPEST: 0.02, STEEP: 0.05}
"""Of the logistic, in decades. For a cliff it is the smallest of the grid."""


def cost(shape: str, level: float, precision: float, simulations: int) -> list[dict[str, Any]]:
    """The same, and the runs of a grid of 12 lrs whose intervals are as wide on average.

    The grid's runs are all independent, or each seed keeps its threshold over all lrs.
    """
    found, edges, curves = _found(SHAPES[shape], level, precision, simulations, [2, *shape.encode()])
    runs, hits = [one.runs for one in found], _hits(found, edges)
    rng = np.random.default_rng(3)
    row = {"runs": float(np.mean(runs)), "most_runs": float(np.quantile(runs, 0.9))}
    for name, kept in (("grid_independent", 0.0), ("grid_kept", 1.0)):
        row[name] = _grid_runs([replace(one, share=kept) for one in curves[:100]], level, hits["width"], rng)
    return [row | hits]


def _found(
    shape: Shape, level: float, precision: float, simulations: int, seed: Sequence[int]
) -> tuple[list[Found], list[float], list[Shape]]:
    rng = np.random.default_rng([int(1000 * level), int(100 * precision), *seed])
    curves = []
    for place in rng.uniform(-1.7, -0.3, simulations):
        edge = shape.edge(level) / shape.lr50
        curves.append(shape.at(10**place / edge if 0 < edge < math.inf else 10**place))
    found = [search(curve, 10_000 + i, level=level, precision=precision, budget=2000) for i, curve in enumerate(curves)]
    return found, [math.log10(edge) if (edge := curve.edge(level)) else -math.inf for curve in curves], curves


def _hits(found: Sequence[Found], edges: Sequence[float]) -> dict[str, float]:
    error = [
        (f.edge - edge) / (f.high - f.low)
        for f, edge in zip(found, edges, strict=True)
        if -math.inf < f.low < f.high < math.inf
    ]
    return {
        "covered": float(np.mean([f.low <= edge <= f.high for f, edge in zip(found, edges, strict=True)])),
        "covered_alone": float(
            np.mean([f.alone[0] <= edge <= f.alone[1] for f, edge in zip(found, edges, strict=True)])
        ),
        "width": float(np.mean([f.high - f.low for f in found if math.isfinite(f.high - f.low)])),
        "bias": float(np.mean(error)),
    }


GRID_SEEDS = (3, 5, 8, 12, 20, 32, 50, 80, 130, 200)
MOST_GRID_RUNS = GRID_SEEDS[-1] * len(LRS)


def _grid_runs(curves: Sequence[Shape], level: float, width: float, rng: np.random.Generator) -> float:
    """Runs of a grid whose intervals of the logistic have this mean width: between GRID_SEEDS, in logarithms.

    NaN above MOST_GRID_RUNS.
    """
    widths = []
    for seeds in GRID_SEEDS:
        _, which, fitted = fitted_once(LRS, np.array([curve.draw(LRS, seeds, rng) for curve in curves]))
        ends = np.array([one.edge(level, (TAIL, 1 - TAIL)) for one in fitted])[which]
        widths.append(float(np.mean(ends[:, 1] - ends[:, 0])))
        if widths[-1] < width:
            break
    if widths[-1] > width:
        return math.nan
    x, y = np.log(widths[::-1]), np.log(GRID_SEEDS[: len(widths)][::-1])
    return float(np.exp(np.interp(math.log(width), x, y))) * len(LRS)


def search_differences(shape: str, against: str, simulations: int) -> list[dict[str, Any]]:
    """How often two searches of curves with the same LR50 are said to differ at 5%."""
    rng = np.random.default_rng([13, *shape.encode()])
    claimed = 0
    for i, place in enumerate(rng.uniform(-1.7, -0.3, simulations)):
        a, b = (_searched(SHAPES[name].at(10**place), 40_000 + 2 * i + k) for k, name in enumerate((shape, against)))
        claimed += ratio_interval(a, b)[2] <= 0.05
    return [{"wrong": claimed / simulations}]


def _searched(curve: Shape, seed: int) -> Points:
    _, of_runs = recorded_search(curve, seed, level=0.5, precision=1.25, budget=400)
    return points(fit(*_matrix(of_runs)))


def _matrix(of_runs: Sequence[tuple[float, bool]]) -> tuple[list[float], np.ndarray]:
    """The lrs and outcomes of runs that each have a seed of their own, as `fit` takes them."""
    tried = sorted({lr for lr, _ in of_runs})
    outcomes_SK = np.full((len(of_runs), len(tried)), np.nan)
    for seed, (lr, diverged) in enumerate(of_runs):
        outcomes_SK[seed, tried.index(lr)] = diverged
    return tried, outcomes_SK


def falls(shape: str, level: float, precision: float, simulations: int) -> list[dict[str, Any]]:
    """How many searches of at most 400 runs leave a record that is flagged as falling again.

    wrong: Those flagged whose edge is wrong by more than a factor of 1.25.
    """
    rng = np.random.default_rng([int(1000 * level), 7, *shape.encode()])
    runs, lrs, pools, flagged, wrong = [], [], [], 0, 0
    for i, place in enumerate(rng.uniform(-1.7, -0.3, simulations)):
        curve = SHAPES[shape].at(10**place)
        found, of_runs = recorded_search(curve, 20_000 + i, level=level, precision=precision, budget=400)
        tried, outcomes_SK = _matrix(of_runs)
        row = edge_of(tried, outcomes_SK, fit(tried, outcomes_SK), level)
        flagged += not row["monotone"]
        wrong += not row["monotone"] and not 1 / 1.25 <= row["edge"] / curve.edge(level) <= 1.25
        runs.append(found.runs)
        lrs.append(len(tried))
        pools.append(len(set(octave_bins(tried).tolist())))
    means = {"runs": np.mean(runs), "lrs": np.mean(lrs), "quarter_octaves": np.mean(pools)}
    return [{name: float(mean) for name, mean in means.items()} | {"flagged": flagged, "wrong": wrong}]


SEARCHED = [name for name, shape in SHAPES.items() if math.isfinite(shape.edge()) and math.isinf(shape.falls)]
"""Curves that reach 0.5 and do not fall again."""


def _cells(*rows: tuple[str, float, float]) -> list[dict[str, Any]]:
    return [{"shape": name, "level": level, "precision": precision} for name, level, precision in rows]


TABLES = {
    "safe": (
        safe,
        [
            {"shape": shape, "grid": grid, "seeds": seeds}
            for shape in SEARCHED
            for grid in ("12 even", "quick", "lr_curve")
            for seeds in (59, 100, 130)
        ],
    ),
    "families": (
        families,
        [
            {"shape": shape, "seeds": seeds, "kept": kept}
            for shape in (SHALLOW, STEEP, "cliff", LAPSING)
            for seeds in (3, 8, 16, 32)
            for kept in (0.0, 1.0)
        ],
    ),
    "models": (
        across,
        [
            {"shape": shape, "grid": grid, "seeds": seeds, "most": most, "paired": paired}
            for shape in (SHALLOW, STEEP, "cliff", TWO_GROUPS[0], "exponential tail to the right, 0.2")
            for grid in ("12 even", "quick")
            for seeds, most in ((3, 3), (3, 64), (5, 5), (16, 16))
            for paired in (0.0, 1.0)
        ],
    ),
    "doublings": (
        doublings,
        [
            {"shape": shape, "grid": grid, "seeds": seeds, "paired": paired}
            for shape in SEARCHED
            for grid in ("12 even", "quick", "lr_curve")
            for seeds in (4, 8, 16, 64)
            for paired in (0.0, 1.0)
        ],
    ),
    "scale": (
        extrapolations,
        [
            {"law": law, "sizes": sizes, "drawn": drawn}
            for drawn in ("edges", "runs")
            for law in LAWS
            for sizes in SIZES
            if (sizes, drawn) != ("seven", "runs")
        ],
    ),
    "searches": (
        searches,
        _cells(
            *(
                (name, level, precision)
                for level, precision in ((0.5, 1.25), (0.05, 1.5))
                for name in SEARCHED
                if SHAPES[name].edge(level) > 0
            )
        ),
    ),
    "search_differences": (
        search_differences,
        [{"shape": shape, "against": against} for shape in DIFFERING for against in ("cliff", STEEP)],
    ),
    "starts": (
        starts,
        [{"shape": shape, "start": start} for shape in ("cliff", STEEPEST, STEEP) for start in STARTS]
        + [{"shape": shape, "start": "range tests"} for shape in SEARCHED if shape not in ("cliff", STEEPEST, STEEP)],
    ),
    "spending": (
        spending,
        [{"shape": shape, "rule": rule} for shape in SCALES for rule in (*RULES, *ORACLES)],
    ),
    "cost": (
        cost,
        _cells((STEEP, 0.5, 1.25), (STEEP, 0.5, 1.15), (SHALLOW, 0.5, 1.25), (STEEP, 0.05, 1.5)),
    ),
    "falls": (
        falls,
        _cells(
            *((name, 0.5, 1.25) for name in (SHALLOW, LAPSING, STEEP, FLOOR)), (STEEP, 0.05, 1.5), (FALLING, 0.5, 1.25)
        ),
    ),
}


def main() -> None:
    asked = options(__doc__, 400, tables=TABLES)
    for name in asked.tables:
        of_cell, cells = TABLES[name]
        simulate(name, of_cell, cells, asked.simulations)


if __name__ == "__main__":
    main()
