"""The long simulations of docs/statistics.md: how often intervals of edges cover, how wide and how biased they are; how
often a claim of safety, or of a difference between methods, is wrong; what an adaptive search saves, and how often its
record is flagged as falling again.

    python tests/helpers/simulation_long.py [edges claims contrasts searches falls] [--simulations 2000] [--minutes 60]

A cell of the tables is a curve and a number of seeds; a third of its simulations each has none, half and all of the
threshold's variance the seed's own. Works in rounds over all cells, and stops early, with as many simulations in each,
when the minutes (of CPU) are over.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from simulated_search import Found, recorded_search, search
from simulation import CURVES, LRS, Curve, draw

from analysis.stats.contrasts import holm, points, ratio_interval
from analysis.stats.edges import REACHED, edge_of
from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import Fit, fit, fit_many
from analysis.stats.rates import octave_bins
from analysis.stats.recommend import fixed_sequence

SEEDS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64)
SHARES = (0.0, 0.5, 1.0)
LEVELS = (0.5, 0.05)
PLACES = 20
"""Values of lr50 in a round of a cell."""


def simulated_edges(
    curve: Curve,
    seeds: int,
    share: float,
    simulations: int,
    rng: np.random.Generator,
    *,
    lrs: Sequence[float] = LRS,
    levels: Sequence[float] = LEVELS,
    missing: float = 0.0,
) -> pd.DataFrame:
    """What `analysis.stats.edges` says of records drawn from a curve whose lr50 lies anywhere in the range of lrs (in
    its lower half, where the curve falls again, so that the fall is seen), log-uniformly.

    One row a simulation and level; columns: level, true (the edge), low, edge, high, status, monotone, bound_low,
    bound_high, median and width (of the posterior, in decades, whatever was said).
    """
    x = np.log10(lrs)
    top = x[-1] if not np.isfinite(curve.falls) else (x[0] + x[-1]) / 2
    curves = [curve.at(10**place) for place in rng.uniform(x[0], top, min(PLACES, simulations))]
    each = -(-simulations // len(curves))
    drawn = [draw([c], lrs, seeds, rng=rng, share=share, simulations=each, missing=missing)[:, 0] for c in curves]
    true = {level: np.repeat([c.edge(level) for c in curves], each) for level in levels}
    records_NSK, which, fitted = fitted_once(lrs, np.concatenate(drawn))
    rows = []
    for level in levels:
        said = []
        for y, one in zip(records_NSK, fitted, strict=True):
            low, median, high = one.edge(level, (TAIL, 0.5, 1 - TAIL))
            said.append(edge_of(list(lrs), y, one, level) | {"median": median, "width": high - low})
        rows += [{"level": level, "true": t} | said[i] for t, i in zip(true[level], which, strict=True)]
    return pd.DataFrame(rows)


def fitted_once(lrs: Sequence[float], outcomes_NSK: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Fit]]:
    """The distinct records (many are the same but for the order of seeds), which each one is, and their fits."""
    ordered = [y[np.lexsort(np.nan_to_num(y, nan=2.0).T)] for y in outcomes_NSK]
    records_NSK, which = np.unique(np.array(ordered), axis=0, return_inverse=True)
    return records_NSK, which.ravel(), fit_many(lrs, records_NSK)


def tallies(table: pd.DataFrame) -> dict[str, float]:
    """What one cell's simulations come to, at one level.

    covered: share of intervals, as said (0 and infinity where they leave the range), that hold the true edge. bound:
    the same of the model-free bound. reached, flagged: shares. width: median, in decades, where both ends were given.
    bias: mean error of an edge that was said, in decades, over the mean width of the posterior's interval; over
    simulations whose true edge lies at least half a decade inside the range.
    """
    true, low, edge, high, width, bound_low, bound_high = (
        table[name].to_numpy(dtype=float)
        for name in ("true", "low", "edge", "high", "width", "bound_low", "bound_high")
    )
    given = (low > 0) & np.isfinite(high)
    reached = table["status"].to_numpy() == REACHED
    said = reached & (true > LRS[0] * 10**0.5) & (true < LRS[-1] / 10**0.5) & np.isfinite(width)
    return {
        "n": len(table),
        "covered": float(np.mean((low <= true) & (true <= high))),
        "bound": float(np.mean((bound_low <= true) & (true <= bound_high))),
        "reached": float(np.mean(reached)),
        "flagged": float(np.mean(~table["monotone"].to_numpy(dtype=bool))),
        "width": float(np.median(np.log10(high[given] / low[given]))) if given.any() else np.nan,
        "bias": float(np.mean(np.log10(edge[said] / true[said])) / np.mean(width[said])) if said.any() else np.nan,
    }


def report(parts: Sequence[pd.DataFrame]) -> str:
    """The tables, from rows of `simulated_edges` with their cell: curve, share, seeds_drawn."""
    every = pd.concat(parts, ignore_index=True)
    pages = []
    for level in LEVELS:
        of_level = every.loc[(every["level"] == level).to_numpy()]
        by_seeds = _tallied(of_level, "seeds_drawn", SEEDS)
        n = [tally["n"] for tally in by_seeds.values()]
        pages.append(f"level {level:g}, {min(n):g} to {max(n):g} simulations a cell")
        pages += [_table("seeds", what, by_seeds, SEEDS) for what in next(iter(by_seeds.values())) if what != "n"]
        pages.append(_table("share", "covered", _tallied(of_level, "share", SHARES), SHARES))
    return "\n\n".join(pages)


def _tallied(table: pd.DataFrame, by: str, values: Sequence[float]) -> dict[tuple[str, float], dict[str, float]]:
    curve, value = table["curve"].to_numpy(), table[by].to_numpy()
    return {(c, v): tallies(table.loc[(curve == c) & (value == v)]) for c in CURVES for v in values}


def _table(by: str, what: str, cells: dict[tuple[str, float], dict[str, float]], values: Sequence[float]) -> str:
    """One tally as Markdown: a row a value, a column a curve."""
    rows = [[f"{v:g}", *(_number(cells[c, v][what]) for c in CURVES)] for v in values]
    return f"{what}\n\n{_markdown([[by, *CURVES], *rows])}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def wrong_claims(simulations: int) -> str:
    """How often the fixed-sequence test claims an lr whose risk is above 5%, from so many seeds at each lr.

    Curves that pass 5% just below the sixth of twelve lrs (risk 5.1% there), and a floor of 5.1% at every lr."""
    at = LRS[5]
    curves = {name: Curve(slope=s, lr50=at * 10 ** (np.log(0.949 / 0.051) / s)) for name, s in SLOPES.items()}
    curves["floor 0.051"] = Curve(lr50=10.0, floor=0.051)
    rows = []
    for seeds, share in itertools.product((59, 100, 130), SHARES):
        drawn = draw(
            list(curves.values()),
            LRS,
            seeds,
            rng=np.random.default_rng([seeds, 4]),
            share=share,
            simulations=simulations,
        )
        safe = [np.cumprod(curve.rate(LRS) <= 0.05).sum() for curve in curves.values()]
        wrong = (fixed_sequence(drawn.sum(axis=2), seeds) > safe).mean(axis=0)
        rows.append([str(seeds), f"{share:g}", *map(_number, wrong)])
    head = f"claims that are wrong, {simulations} simulations a cell (target: at most 0.05)"
    return f"{head}\n\n{_markdown([['seeds', 'share', *curves], *rows])}"


SLOPES = {"shallow": 6, "steep": 20}


def wrong_differences(simulations: int) -> str:
    """How often any of four contrasts claims a difference at 5%, Holm over them, where five methods are truly equal."""
    rows = []
    for seeds, share in itertools.product((3, 4, 8, 16, 32), (0.0, 1.0)):
        row = [str(seeds), "its own with each method" if share else "none"]
        for name in ("shallow", "steep", "lapse 0.3"):
            rng = np.random.default_rng([seeds, int(share), len(name)])
            curve = CURVES[name].at(0.13)  # between two lrs
            drawn = [draw([curve], LRS, seeds, rng=rng, share=share, simulations=simulations)[:, 0] for _ in range(5)]
            _, which, fitted = fitted_once(LRS, np.concatenate(drawn))
            of_record = [points(one) for one in fitted]
            which_MN = which.reshape(5, simulations)
            claimed = 0
            for none, *others in which_MN.T:
                p = [ratio_interval(of_record[i], of_record[none])[2] for i in others]
                claimed += bool((holm(p) <= 0.05).any())
            row.append(_number(claimed / simulations))
        rows.append(row)
    head = f"families that claim a difference, {simulations} simulations a cell (target: at most 0.05)"
    return f"{head}\n\n{_markdown([['seeds', 'threshold of a seed', 'shallow', 'steep', 'lapse 0.3'], *rows])}"


GRID_SEEDS = (3, 5, 8, 12, 20, 32, 50, 80, 130, 200)

SEARCHED = (("steep", 0.5, 1.25), ("steep", 0.5, 1.15), ("shallow", 0.5, 1.25), ("steep", 0.05, 1.5))
"""Curve, level and precision of searches."""


def searches(simulations: int) -> str:
    """What a search takes, and the grid of 12 lrs over two decades whose intervals are as wide on average, on curves
    with an edge anywhere in the range but for 0.3 decades at its ends. Every run of a search has a seed of its own. The
    grid's runs are all independent, or each seed carries its threshold over all lrs."""
    rows = []
    for name, level, precision in SEARCHED:
        rng = np.random.default_rng([len(name), int(1000 * level), int(100 * precision)])
        curves = [CURVES[name].at(10**place) for place in rng.uniform(-1.7, -0.3, simulations)]
        found = [
            search(curve, 10_000 + i, level=level, precision=precision, budget=2000) for i, curve in enumerate(curves)
        ]
        edges = [math.log10(curve.edge(level)) for curve in curves]
        width, runs = (
            float(np.mean(values)) for values in zip(*((f.high - f.low, f.runs) for f in found), strict=True)
        )
        grids = [_grid_runs(curves[:100], level, width, share, rng) for share in (0.0, 1.0)]
        often, taken = np.quantile([f.runs for f in found], 0.9), [f"{grid:.0f} ({grid / runs:.1f}x)" for grid in grids]
        row = [name, f"{level:g}", f"{precision:g}", f"{runs:.0f}", f"{often:.0f}", f"{width:.3f}"]
        rows.append([*row, *taken, *_hits(found, edges)])
    head = f"searches, {simulations} a row; grids: means of 100"
    columns = ["curve", "level", "precision", "runs, mean", "90% of searches", "width, decades"]
    columns += ["grid, independent", "grid, seeds carry", "covered", "bias / width"]
    return f"{head}\n\n{_markdown([columns, *rows])}"


def _hits(found: Sequence[Found], edges: Sequence[float]) -> tuple[str, str]:
    covered = np.mean([f.low <= edge <= f.high for f, edge in zip(found, edges, strict=True)])
    error = np.mean([(f.edge - edge) / (f.high - f.low) for f, edge in zip(found, edges, strict=True)])
    return f"{covered:.3f}", f"{error:+.3f}"


def _grid_runs(curves: Sequence[Curve], level: float, width: float, share: float, rng: np.random.Generator) -> float:
    """Runs of a grid whose intervals have this mean width: between grids of `GRID_SEEDS`, in logarithms."""
    widths = []
    for seeds in GRID_SEEDS:
        drawn = np.concatenate([draw([curve], LRS, seeds, rng=rng, share=share)[:, 0] for curve in curves])
        _, which, fitted = fitted_once(LRS, drawn)
        ends = np.array([one.edge(level, (TAIL, 1 - TAIL)) for one in fitted])[which]
        widths.append(float(np.mean(ends[:, 1] - ends[:, 0])))
        if widths[-1] < width:
            break
    if widths[-1] > width:
        return math.nan
    x, y = np.log(widths[::-1]), np.log(GRID_SEEDS[: len(widths)][::-1])
    return float(np.exp(np.interp(math.log(width), x, y))) * len(LRS)


FALLING = (
    ("shallow", 0.5, 1.25),
    ("lapse 0.3", 0.5, 1.25),
    ("steep", 0.5, 1.25),
    ("floor 0.02", 0.5, 1.25),
    ("steep", 0.05, 1.5),
    ("falls again", 0.5, 1.25),
)
"""Curve, level and precision of searches whose records may be flagged as falling again."""


def falls(simulations: int) -> str:
    """How many searches leave a record that is flagged as falling again, of at most 400 runs each, on curves with an
    edge anywhere in the range but for 0.3 decades at its ends; and how many of the flagged are off by more than 1.25.
    """
    rows = []
    for name, level, precision in FALLING:
        rng = np.random.default_rng([len(name), int(1000 * level), 7])
        runs, lrs, pools, flagged, off = [], [], [], 0, 0
        for i, place in enumerate(rng.uniform(-1.7, -0.3, simulations)):
            curve = CURVES[name].at(10**place)
            found, of_runs = recorded_search(curve, 20_000 + i, level=level, precision=precision, budget=400)
            tried = sorted({lr for lr, _ in of_runs})
            y = np.full((len(of_runs), len(tried)), np.nan)
            for seed, (lr, diverged) in enumerate(of_runs):
                y[seed, tried.index(lr)] = diverged
            row = edge_of(tried, y, fit(tried, y), level)
            flagged += not row["monotone"]
            off += not row["monotone"] and not 1 / 1.25 <= row["edge"] / curve.edge(level) <= 1.25
            runs.append(found.runs)
            lrs.append(len(tried))
            pools.append(len(set(octave_bins(tried).tolist())))
        means = [f"{np.mean(values):.0f}" for values in (runs, lrs, pools)]
        rows.append([name, f"{level:g}", f"{precision:g}", *means, f"{flagged} of {simulations}", str(off)])
    head = f"searches flagged as falling again, {simulations} a row (target: at most 1% of curves that rise)"
    columns = ["curve", "level", "precision", "runs, mean", "learning rates", "quarter octaves", "flagged"]
    return f"{head}\n\n{_markdown([[*columns, 'flagged, edge off by over 1.25'], *rows])}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("parts", nargs="*", choices=[[], "edges", "claims", "contrasts", "searches", "falls"])
    options.add_argument(
        "--simulations", type=int, default=2000, help="a cell; of contrasts and falls a tenth, of searches a fifth"
    )
    options.add_argument("--minutes", type=float, default=60.0, help="of CPU, for edges")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--out", type=Path, help="a file for the tables of edges, written after each round")
    asked = options.parse_args()
    parts = asked.parts or ["claims", "contrasts", "searches", "falls", "edges"]
    if "claims" in parts:
        print(wrong_claims(10 * asked.simulations), flush=True)
    if "contrasts" in parts:
        print(wrong_differences(asked.simulations // 10), flush=True)
    if "searches" in parts:
        print(searches(asked.simulations // 5), flush=True)
    if "falls" in parts:
        print(falls(asked.simulations // 10), flush=True)
    if "edges" in parts:
        print(coverage(asked.simulations, asked.rounds, asked.minutes, asked.out))


def coverage(simulations: int, rounds: int, minutes: float, out: Path | None) -> str:
    """The tables of `report`, from simulations in rounds."""
    parts: list[pd.DataFrame] = []
    start, each = time.process_time(), -(-simulations // (rounds * len(SHARES)))
    for number in range(rounds):
        spent = (time.process_time() - start) / 60
        if number and spent > minutes * number / (number + 1):
            break  # the next round would end after the minutes
        for i, (name, share, seeds) in enumerate(itertools.product(CURVES, SHARES, SEEDS)):
            rng = np.random.default_rng([number, i])
            part = simulated_edges(CURVES[name], seeds, share, each, rng)
            parts.append(part[KEPT].assign(curve=name, share=share, seeds_drawn=seeds))
        if out:
            out.write_text(report(parts) + "\n")
    return report(parts)


KEPT = ["level", "true", "low", "edge", "high", "status", "monotone", "bound_low", "bound_high", "width"]


if __name__ == "__main__":
    main()
