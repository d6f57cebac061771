"""What `analysis.stats.edges` says of records drawn from the curves of `simulation`, and how often that is right."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from shapes import Shape, draw
from simulation import LRS

from analysis.stats.edges import REACHED, edge_of
from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import Fit, fit_many

LEVELS = (0.5, 0.05)
PLACES = 20
"""Values of lr50 in a round of a cell."""


def simulated_edges(
    curve: Shape,
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
    the same of the model-free bound. reached, flagged: shares. width: mean, in decades; an open end counts at the last
    tried lr. bias: mean error of an edge that was said, in decades, over the mean width of the posterior's interval;
    over simulations whose true edge lies at least half a decade inside the range.
    """
    true, low, edge, high, width, bound_low, bound_high = (
        table[name].to_numpy(dtype=float)
        for name in ("true", "low", "edge", "high", "width", "bound_low", "bound_high")
    )
    ends = [np.clip(end, LRS[0], LRS[-1]) for end in (low, high)]
    reached = table["status"].to_numpy() == REACHED
    said = reached & (true > LRS[0] * 10**0.5) & (true < LRS[-1] / 10**0.5) & np.isfinite(width)
    return {
        "n": len(table),
        "covered": float(np.mean((low <= true) & (true <= high))),
        "bound": float(np.mean((bound_low <= true) & (true <= bound_high))),
        "reached": float(np.mean(reached)),
        "flagged": float(np.mean(~table["monotone"].to_numpy(dtype=bool))),
        "width": float(np.mean(np.log10(ends[1] / ends[0]))),
        "bias": float(np.mean(np.log10(edge[said] / true[said])) / np.mean(width[said])) if said.any() else np.nan,
    }
