"""Edges at shorter horizons of one record: how far an edge moved over the last doubling, paired by seeds.

The runs at both horizons are the same, so their edges share most of their error. The interval of the ratio comes from a
bootstrap of seeds (B. Efron, Annals of Statistics 7, 1979); its edges are where isotonic rates cross the level, which
needs no model. Nothing says where between two tried lrs an edge lies, so each end of the interval takes the worst place
in either gap. Coverage: docs/statistics.md.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import CURVE, of_curves, records
from analysis.stats.edges import REACHED, edges, fits, outcomes_by_curve
from analysis.stats.intervals import bootstrap_shares

SETTLED_WITHIN = 1.25
"""An edge is settled if the ratio's whole interval is within this factor of 1, to which a search finds edges."""

SETTLED, FALLING, RISING, NOT_KNOWN = "settled", "still falling", "still rising", "not known"

RESAMPLES = 400

FEWEST = 4
"""Seeds from which an interval is given: with 3, it held 89% of the ratios of shallow curves in simulation."""


def last_doubling(half: pd.DataFrame, full: pd.DataFrame) -> pd.DataFrame:
    """Return how each LR50 changed between two horizons.

    Args:
        half: Runs judged at half of the steps, with the column `curve` (`analysis.load`).
        full: The same runs judged at all steps.

    Returns:
        One row a curve; columns model, curve, method, level, steps_half, steps; runs (judged at both), late (diverged
        only at the full horizon), recovered (only at half of it), p (two-sided, that late and recovered are equally
        likely; of seeds, by the sign of their runs); edge_half, edge, ratio (NaN unless both were reached), low, high
        (95% interval, 0 and inf where an end is open; NaN below FEWEST seeds or if an edge was not reached), status
        ("settled", "still falling", "still rising", "not known").
    """
    half, full = of_curves(half), of_curves(full)
    both = sorted(set(half["run_id"]) & set(full["run_id"]))
    half, full = (t.loc[t["run_id"].isin(both)].sort_values("run_id", ignore_index=True) for t in (half, full))
    of_half, of_full = (
        {(row["model"], row["curve"]): row for row in records(edges(table, fitted=fits(table)))}
        for table in (half, full)
    )
    matrices = [outcomes_by_curve(table) for table in (half, full)]
    later_N = ((full["outcome"] == "diverged").astype(int) - (half["outcome"] == "diverged").astype(int)).to_numpy()
    seed_N, of_curve = full["seed"].to_numpy(dtype=np.int64), full.groupby(CURVE, sort=False).indices
    rows = []
    for key, row in of_full.items():
        at = of_curve[key]
        changed, before = later_N[at], of_half[key]
        _, of_seed = np.unique(seed_N[at], return_inverse=True)
        by_seed = np.sign(np.bincount(of_seed, changed))
        found = {name: row[name] for name in (*CURVE, "method", "level")}
        found |= {"steps_half": before["steps"], "steps": row["steps"], "runs": len(at)}
        found |= {"late": int((changed > 0).sum()), "recovered": int((changed < 0).sum())}
        found["p"] = _sign_test(int((by_seed > 0).sum()), int((by_seed < 0).sum()))
        ratio = low = high = math.nan
        if before["status"] == row["status"] == REACHED:
            ratio = row["edge"] / before["edge"]
            low, high = doubling_interval(matrices[0][key], matrices[1][key], row["level"])
        found |= {"edge_half": before["edge"], "edge": row["edge"], "ratio": ratio, "low": low, "high": high}
        rows.append(found | {"status": doubling_status(low, high)})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


COLUMNS = (
    *(*CURVE, "method", "level", "steps_half", "steps", "runs", "late", "recovered", "p"),
    *("edge_half", "edge", "ratio", "low", "high", "status"),
)


def doubling_status(low: float, high: float) -> str:
    """Return what the interval of a ratio says of an edge: SETTLED, FALLING, RISING or NOT_KNOWN."""
    if math.isnan(low):
        return NOT_KNOWN
    if low >= 1 / SETTLED_WITHIN and high <= SETTLED_WITHIN:
        return SETTLED
    return FALLING if high < 1 else RISING if low > 1 else NOT_KNOWN


def _sign_test(more: int, fewer: int) -> float:
    return max(sys.float_info.min, min(1.0, 2 * float(special.bdtr(min(more, fewer), more + fewer, 0.5))))


def doubling_interval(half: Any, full: Any, level: float) -> tuple[float, float]:
    """Return the 95% interval of the ratio of two edges of the same runs; NaN with fewer than FEWEST seeds.

    Args:
        half, full: Lrs and outcomes at either horizon, as `edges.outcomes` returns them, with the same seeds.
        level: P(divergence) at the edges.
    """
    (lrs, half_SK), (_, full_SK) = half, full
    seeds = len(full_SK)
    if seeds < FEWEST:
        return math.nan, math.nan
    counts_BS = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    low_half_B, high_half_B = _gaps(lrs, half_SK, counts_BS, level)
    low_full_B, high_full_B = _gaps(lrs, full_SK, counts_BS, level)
    ends = zip((low_full_B - high_half_B, high_full_B - low_half_B), bootstrap_shares(seeds), strict=True)
    low, high = (float(np.exp(np.quantile(end_B, share, method="inverted_cdf"))) for end_B, share in ends)
    return low, high


def _gaps(
    lrs: Sequence[float], diverged_SK: np.ndarray, counts_BS: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Log of the two lrs between which the isotonic rates of each resample cross the level, each (B,).

    The lrs whose isotonic rate is below the level are those that make the sum of k - level * n smallest.
    """
    n_BK, k_BK = counts_BS @ np.isfinite(diverged_SK), counts_BS @ np.nan_to_num(diverged_SK)
    below_B = np.argmin(np.cumsum(np.insert(k_BK - level * n_BK, 0, 0.0, axis=1), axis=1), axis=1)
    x_K, below_BK = np.log(lrs), np.arange(len(lrs)) < below_B[:, None]
    low_B = np.where((n_BK > 0) & below_BK, x_K, -math.inf).max(axis=1)
    return low_B, np.where((n_BK > 0) & ~below_BK, x_K, math.inf).min(axis=1)
