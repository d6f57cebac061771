"""The long simulations of docs/statistics.md: how often intervals of edges cover, how wide and how biased they are.

    python tests/simulation_long.py [--simulations 2000] [--minutes 60] [--out FILE]

A cell of the tables is a curve and a number of seeds; a third of its simulations each has none, half and all of the
threshold's variance the seed's own. Works in rounds over all cells, and stops early, with as many simulations in each,
when the minutes (of CPU) are over.
"""

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from simulation import CURVES, LRS, Curve, draw

from analysis.edges import REACHED, TAIL, edge_of, fit_many

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
    """What `analysis.edges` says of records drawn from a curve whose lr50 lies anywhere in the range of lrs (in its
    lower half, where the curve falls again, so that the fall is seen), log-uniformly.

    One row a simulation and level; columns: level, true (the edge), low, edge, high, status, monotone, bound_low,
    bound_high, median and width (of the posterior, in decades, whatever was said).
    """
    x = np.log10(lrs)
    top = x[-1] if not np.isfinite(curve.falls) else (x[0] + x[-1]) / 2
    curves = [curve.at(10**place) for place in rng.uniform(x[0], top, min(PLACES, simulations))]
    each = -(-simulations // len(curves))
    drawn = [draw([c], lrs, seeds, rng=rng, share=share, simulations=each, missing=missing)[:, 0] for c in curves]
    true = {level: np.repeat([c.edge(level) for c in curves], each) for level in levels}
    # Many simulations give the same record but for the order of seeds: each is fitted once.
    ordered = [y[np.lexsort(np.nan_to_num(y, nan=2.0).T)] for y in np.concatenate(drawn)]
    records_NSK, which = np.unique(np.array(ordered), axis=0, return_inverse=True, equal_nan=False)
    fitted = fit_many(lrs, records_NSK)
    rows = []
    for level in levels:
        said = []
        for y, one in zip(records_NSK, fitted, strict=True):
            low, median, high = one.edge(level, (TAIL, 0.5, 1 - TAIL))
            said.append(edge_of(list(lrs), y, one, level) | {"median": median, "width": high - low})
        rows += [{"level": level, "true": t} | said[i] for t, i in zip(true[level], which.ravel(), strict=True)]
    return pd.DataFrame(rows)


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
    rows = [[by, *CURVES], ["---"] * (1 + len(CURVES))]
    rows += [[f"{v:g}", *(_number(cells[c, v][what]) for c in CURVES)] for v in values]
    return f"{what}\n\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--simulations", type=int, default=2000, help="for each curve and number of seeds")
    options.add_argument("--minutes", type=float, default=60.0, help="of CPU")
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--out", type=Path, help="a file for the tables, written after each round")
    asked = options.parse_args()
    parts: list[pd.DataFrame] = []
    each = -(-asked.simulations // (asked.rounds * len(SHARES)))
    for number in range(asked.rounds):
        if number and time.process_time() > 60 * asked.minutes * number / (number + 1):
            break  # the next round would end after the minutes
        for i, (name, share, seeds) in enumerate(itertools.product(CURVES, SHARES, SEEDS)):
            rng = np.random.default_rng([number, i])
            part = simulated_edges(CURVES[name], seeds, share, each, rng)
            parts.append(part[KEPT].assign(curve=name, share=share, seeds_drawn=seeds))
        if asked.out:
            asked.out.write_text(report(parts) + "\n")
        print(f"round {number + 1}: {time.process_time() / 60:.1f} minutes", flush=True)
    print(report(parts))


KEPT = ["level", "true", "low", "edge", "high", "status", "monotone", "bound_low", "bound_high", "width"]


if __name__ == "__main__":
    main()
