"""Edges at shorter horizons of one record: how far an edge moved over the last doubling, paired by seeds.

The runs at both horizons are the same, so their edges share most of their error. The error of the ratio comes from a
bootstrap of seeds (B. Efron, Annals of Statistics 7, 1979); its edges are where isotonic rates cross the level, which
needs no model. A bootstrap cannot see where between two tried lrs a seed's threshold lies. So a variance of g^2 / (6 S)
is added, for S seeds and the gap g between the lrs around the edge: the difference of two uniform variables on a gap
has variance g^2 / 6.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, special

from analysis.loading import CURVE, records
from analysis.stats.edges import REACHED, edges, fits, outcomes_by_curve
from analysis.stats.intervals import TAIL

SETTLED_WITHIN = 1.1
"""An edge is settled if the ratio's whole interval is within this factor of 1."""

SETTLED, FALLING, RISING, NOT_KNOWN = "settled", "still falling", "still rising", "not known"

RESAMPLES = 200


def last_doubling(half: pd.DataFrame, full: pd.DataFrame, level: float = 0.5) -> pd.DataFrame:
    """Return how each edge changed between two horizons.

    Args:
        half: Runs judged at half of the steps, with the column `curve` (`analysis.load`).
        full: The same runs judged at all steps.
        level: P(divergence) at the edge.

    Returns:
        One row a curve; columns model, curve, method, level, steps_half, steps; runs (judged at both), late (diverged
        only at the full horizon), recovered (only at half of it), p (two-sided, that late and recovered are equally
        likely; of seeds, by the sign of their runs); edge_half, edge, ratio (NaN unless both were reached), low, high
        (95% interval; NaN if not known), status ("settled", "still falling", "still rising", "not known").
    """
    both = sorted(set(half["run_id"]) & set(full["run_id"]))
    half, full = (t.loc[t["run_id"].isin(both)].sort_values("run_id", ignore_index=True) for t in (half, full))
    of_half, of_full = (
        {(row["model"], row["curve"]): row for row in records(edges(table, level, fits(table)))}
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
        ratio = factor = math.nan
        if before["status"] == row["status"] == REACHED:
            ratio = row["edge"] / before["edge"]
            error = _error(matrices[0][key], matrices[1][key], level, (before["edge"], row["edge"]))
            factor = math.exp(-float(special.ndtri(TAIL)) * error)
        low, high = ratio / factor, ratio * factor
        found |= {"edge_half": before["edge"], "edge": row["edge"], "ratio": ratio, "low": low, "high": high}
        rows.append(found | {"status": _status(low, high)})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


COLUMNS = (
    *(*CURVE, "method", "level", "steps_half", "steps", "runs", "late", "recovered", "p"),
    *("edge_half", "edge", "ratio", "low", "high", "status"),
)


def _status(low: float, high: float) -> str:
    if math.isnan(low):
        return NOT_KNOWN
    if low >= 1 / SETTLED_WITHIN and high <= SETTLED_WITHIN:
        return SETTLED
    return FALLING if high < 1 else RISING if low > 1 else NOT_KNOWN


def _sign_test(more: int, fewer: int) -> float:
    return max(sys.float_info.min, min(1.0, 2 * float(special.bdtr(min(more, fewer), more + fewer, 0.5))))


def _error(half: Any, full: Any, level: float, edge: tuple[float, float]) -> float:
    """The standard deviation of the log ratio of two edges of the same runs; NaN if it cannot be estimated."""
    (lrs, half_SK), (_, full_SK) = half, full
    seeds = len(full_SK)
    if seeds < 2 or len(lrs) < 2:
        return math.nan
    counts_BS = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    ratios = _crossings(lrs, full_SK, counts_BS, level) - _crossings(lrs, half_SK, counts_BS, level)
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < 0.9 * RESAMPLES:
        return math.nan
    gaps = [math.log(lrs[i] / lrs[i - 1]) for i in np.clip(np.searchsorted(lrs, edge), 1, len(lrs) - 1)]
    return math.sqrt(float(np.var(ratios, ddof=1)) + max(gaps) ** 2 / (6 * seeds))


def _crossings(lrs: Sequence[float], diverged_SK: np.ndarray, counts_BS: np.ndarray, level: float) -> np.ndarray:
    """Log lr at which the isotonic rates of each resample cross the level; NaN if they do not."""
    seen_SK = np.isfinite(diverged_SK)
    n_BK, k_BK = counts_BS @ seen_SK, counts_BS @ np.nan_to_num(diverged_SK)
    found = np.full(len(counts_BS), math.nan)
    for b, (n, k) in enumerate(zip(n_BK, k_BK, strict=True)):
        tried = n > 0
        x = np.log(lrs)[tried]
        rate = optimize.isotonic_regression(k[tried] / n[tried], weights=n[tried]).x
        at = int(np.searchsorted(rate, level))
        if 0 < at < len(rate):
            part = (level - rate[at - 1]) / (rate[at] - rate[at - 1])
            found[b] = x[at - 1] + part * (x[at] - x[at - 1])
    return found
