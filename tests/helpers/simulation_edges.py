"""How often the intervals of edges cover on curves of any shape, how wide they are, and how often two curves with the
same LR50 are said to differ.

    python tests/helpers/simulation_edges.py [--simulations 500] [--seeds 3 8 16 64] [--grids quick]

A cell is a curve, a grid of lrs and a number of seeds. All curves of a grid and number of seeds have the same LR50 in
the same simulation, so each can be compared with the curves of REFERENCES.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from cells import options, simulate
from shapes import FAMILY, GRIDS, NEAR, SHAPES, places

from analysis.stats.contrasts import Points, points, ratio_interval
from analysis.stats.edges import REACHED, edge_of
from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import fit

LEVELS = (0.5, 0.05)
SEEDS = (3, 8, 16, 64)
REFERENCES = ("cliff", next(iter(FAMILY)))
"""The steepest and the shallowest of the curves."""

Said = tuple[tuple[Mapping[str, Any], ...], Points | None]
"""What is said of one study: a row for each of LEVELS, and the posterior of its LR50 unless it is flagged."""


@functools.lru_cache(maxsize=len(REFERENCES) + 1)
def studies(name: str, grid: str, seeds: int, simulations: int) -> list[tuple[float, Said]]:
    """Return LR50 and what is said of each simulated study of a cell."""
    lrs, shape = GRIDS[grid], SHAPES["cliff" if name == NEAR else name]
    of_grid = [list(GRIDS).index(grid), seeds]
    rng = np.random.default_rng([*of_grid, *name.encode()])
    known: dict[bytes, Said] = {}
    drawn = []
    for lr50 in places(name, lrs, simulations, np.random.default_rng(of_grid)):
        outcomes_SK = shape.at(float(lr50)).draw(lrs, seeds, rng)
        outcomes_SK = outcomes_SK[np.lexsort(outcomes_SK.T[::-1])]
        key = outcomes_SK.tobytes()
        if key not in known:
            known[key] = _said(lrs, outcomes_SK)
        drawn.append((float(lr50), known[key]))
    return drawn


def _said(lrs: Sequence[float], outcomes_SK: np.ndarray) -> Said:
    found, rows = fit(lrs, outcomes_SK), []
    for level in LEVELS:
        row = edge_of(list(lrs), outcomes_SK, found, level)
        low, high = (10**end for end in found.edge(level, (TAIL, 1 - TAIL)))
        if not row["monotone"]:
            low, high = row["low"], row["high"]
        row["low_alone"], row["high_alone"] = low if low >= lrs[0] else 0.0, high if high <= lrs[-1] else math.inf
        rows.append(row)
    return tuple(rows), points(found) if rows[0]["monotone"] else None


def intervals(name: str, grid: str, seeds: int, simulations: int) -> pd.DataFrame:
    """Return what `analysis.stats.edges` says of the simulated studies of one cell.

    Returns:
        One row a simulation and level: the columns of `edge_of`, with level, true (the edge), low_alone and high_alone
        (the interval of the logistic model alone).
    """
    shape = SHAPES["cliff" if name == NEAR else name]
    rows = []
    for lr50, (said, _) in studies(name, grid, seeds, simulations):
        curve = shape.at(lr50)
        rows += [dict(row, level=level, true=curve.edge(level)) for level, row in zip(LEVELS, said, strict=True)]
    return pd.DataFrame(rows)


def tally(table: pd.DataFrame) -> dict[str, float]:
    """Return what one cell comes to at one level.

    covered, bound: share of intervals, and of model-free bounds, that contain the edge. both, open_low: share with two
    ends, without the lower one. width: mean in decades, an open end at the last tried lr. covered_alone, width_alone
    and open_low_alone: the same of the logistic model alone. flagged: share of curves that are said to fall again.
    bias: mean error of the edge over the mean width, of edges half a decade inside the tried lrs.
    """
    true = table["true"].to_numpy()
    said: dict[str, float] = {}
    for of in ("", "_alone"):
        low, high = table[f"low{of}"].to_numpy(), table[f"high{of}"].to_numpy()
        said[f"covered{of}"] = _held(low, true, high)
        said[f"open_low{of}"] = float(np.mean(low == 0))
        ends = [np.clip(end, table["lr_min"], table["lr_max"]) for end in (low, high)]
        said[f"width{of}"] = float(np.mean(np.log10(ends[1] / ends[0])))
    said["bound"] = _held(table["bound_low"].to_numpy(), true, table["bound_high"].to_numpy())
    said["flagged"] = float(np.mean(~table["monotone"].to_numpy(dtype=bool)))
    inside = (true > table["lr_min"] * 10**0.5) & (true < table["lr_max"] / 10**0.5) & (table["status"] == REACHED)
    error = np.log10(table["edge"][inside] / true[inside])
    said["bias"] = float(error.mean() / said["width"]) if inside.any() else math.nan
    return said


def _held(low: np.ndarray, true: np.ndarray, high: np.ndarray) -> float:
    slack = 1 + 1e-9  # an end on a tried lr, computed from its logarithm
    return float(np.mean((low <= true * slack) & (true <= high * slack)))


def differences(name: str, grid: str, seeds: int, simulations: int) -> dict[str, float]:
    """Return the share of simulations in which a curve is said to differ at 5% from each reference, by LR50.

    All have the same LR50. NaN for curves without one, or whose LR50 is drawn otherwise, and for a reference itself.
    """
    here = studies(name, grid, seeds, simulations)
    shares = {}
    for reference in REFERENCES:
        there = studies(reference, grid, seeds, simulations)
        claims = [
            a is not None and b is not None and ratio_interval(a, b)[2] <= 0.05
            for (_, (_, a)), (_, (_, b)) in zip(here, there, strict=True)
        ]
        comparable = name not in (reference, "never") and [lr50 for lr50, _ in here] == [lr50 for lr50, _ in there]
        shares[f"differs from {reference}"] = float(np.mean(claims)) if comparable else math.nan
    return shares


def cell(shape: str, grid: str, seeds: int, simulations: int) -> list[dict[str, Any]]:
    """Return the rows of one cell: one for each level."""
    table, differs = intervals(shape, grid, seeds, simulations), differences(shape, grid, seeds, simulations)
    rows = []
    for level in LEVELS:
        of_level = table.loc[(table["level"] == level).to_numpy()].reset_index(drop=True)
        rows.append({"level": level} | tally(of_level) | (differs if level == LEVELS[0] else {}))
    return rows


def main() -> None:
    asked = options(__doc__, 500, seeds=SEEDS, grids=GRIDS)
    cells = [
        {"grid": grid, "seeds": seeds, "shape": shape}
        for grid in asked.grids
        for seeds in asked.seeds
        for shape in (*SHAPES, NEAR)
    ]
    simulate("edges", cell, cells, asked.simulations)


if __name__ == "__main__":
    main()
