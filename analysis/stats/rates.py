"""P(divergence | lr) per cell: k of n with an interval that is honest at 0 and n.

Intervals: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
Safety claims: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), one-sided.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import CELL, in_order, records, threshold_columns, with_curves

CONFIDENCE = 0.95


def divergence_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a cell, from one row a run (`analysis.load`).

    Columns: model, curve, method, <thresholds>, options, lr; n (runs), k (diverged runs), rate = k/n with its 95%
    Wilson interval low, high; undertrained (runs; in n, not in k); nonfinite, collapsed, never_learned (k by reason);
    micro (runs with a micro divergence), micro_rate, micro_low, micro_high; steps (the horizon of the rate: the
    most steps of any of its runs). Missing runs are in no column.
    """
    runs = with_curves(runs)
    same = ["method", *threshold_columns(runs), "options"]
    diverged = runs["outcome"] == "diverged"
    counted = runs[[*CELL, *same]].assign(
        n=1,
        k=diverged.astype("int64"),
        undertrained=(runs["outcome"] == "undertrained").astype("int64"),
        **{why: (diverged & (runs["reason"] == why)).astype("int64") for why in REASONS},
        micro=(runs["micro_episodes"].fillna(0) > 0).astype("int64"),
        steps=runs["steps"].astype("int64"),
    )
    how: dict[str, Any] = dict.fromkeys(same, "first") | dict.fromkeys(COUNTS, "sum") | {"steps": "max"}
    # "first" would skip a missing threshold, but within a cell all are missing or none is.
    cells = counted.groupby(CELL, as_index=False, sort=False).agg(how)
    for name, k in (("", "k"), ("micro_", "micro")):
        cells[f"{name}rate"] = cells[k] / cells["n"]
        cells[f"{name}low"], cells[f"{name}high"] = wilson(cells[k], cells["n"])
    order = [*CELL[:2], *same, "lr", "n", "k", "rate", "low", "high", "undertrained", *REASONS]
    return in_order(cells).reindex(columns=[*order, "micro", "micro_rate", "micro_low", "micro_high", "steps"])


REASONS = ("nonfinite", "collapsed", "never_learned")
COUNTS = ("n", "k", "undertrained", *REASONS, "micro")


def in_bins(runs: pd.DataFrame) -> pd.DataFrame:
    """The same runs as they can be read: where a study has few runs at each of many lrs, as an adaptive search leaves
    them, lr is the middle of its quarter octave, to two digits. An lr alone in its bin, and every study on a grid,
    stay as they are. For tables and figures of cells; edges are fitted to the lrs that were trained."""
    runs = with_curves(runs)
    lrs = sorted(set(runs["lr"]))
    if len(lrs) <= MANY_LRS or len(runs) >= FEW_RUNS * runs.groupby(CELL).ngroups:
        return runs
    bins: dict[int, list[float]] = {}
    for lr, i in zip(lrs, octave_bins(lrs).tolist(), strict=True):
        bins.setdefault(i, []).append(lr)
    middle = {i: float(f"{2 ** (i / BINS_AN_OCTAVE):.2g}") for i in bins}
    shown = {lr: lr if len(own) == 1 else middle[i] for i, own in bins.items() for lr in own}
    return runs.assign(lr=[shown[lr] for lr in runs["lr"]])


def octave_bins(lrs: Sequence[float] | np.ndarray) -> np.ndarray:
    """The number of each lr's quarter octave, int64, about 2^(i/4). Lrs farther apart than that never share one."""
    return np.floor(BINS_AN_OCTAVE * np.log2(lrs) + 0.5).astype(np.int64)


MANY_LRS = 16
FEW_RUNS = 3
"""Runs a cell, on average, from which a cell can stand for itself."""

BINS_AN_OCTAVE = 4


def wilson(k: Any, n: Any, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """The two-sided Wilson score interval of k successes in n >= 1 trials: (low, high), arrays of k's shape."""
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    return np.where(k == 0, 0.0, centre - half), np.where(k == n, 1.0, centre + half)


def upper_bound(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided upper bound of a probability, after k events in n >= 1 trials. 0 of 8: 0.312."""
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, confidence))


def lower_bound(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Clopper and Pearson's one-sided lower bound of a probability, after k events in n >= 1 trials."""
    return 0.0 if k <= 0 else float(special.betaincinv(k, n - k + 1, 1 - confidence))


def rates_table(rates: pd.DataFrame, width: int = 120) -> str:
    """Divergence rates for a terminal: a block per model, a row per lr, a column per curve; `3/8 .14-.69` is k of n
    with the 95% interval, `2u` that two of the n were undertrained. Curves that do not fit into `width` characters go
    into a further block of the model."""
    if rates.empty:
        return "no runs recorded yet"
    blocks = []
    for model, of_model in rates.groupby("model", sort=False):
        curves = list(dict.fromkeys(of_model["curve"]))
        cell = {(row["curve"], row["lr"]): _cell(row) for row in records(of_model)}
        lrs = sorted(set(of_model["lr"]))
        names = [f"{lr:g}" for lr in lrs]
        left = max(len("lr"), *map(len, names))
        columns = [[c, *(cell.get((c, lr), "-") for lr in lrs)] for c in curves]
        widths = [max(map(len, column)) for column in columns]
        while columns:
            fit = 1
            while fit < len(columns) and left + sum(w + 2 for w in widths[: fit + 1]) <= width:
                fit += 1
            rows = zip(["lr", *names], *columns[:fit], strict=True)
            lines = ["  ".join([r[0].rjust(left), *map(str.ljust, r[1:], widths)]).rstrip() for r in rows]
            blocks.append("\n".join([f"{model}: diverged runs of n, 95% interval", *lines]))
            columns, widths = columns[fit:], widths[fit:]
    return "\n\n".join(blocks)


def _cell(row: dict[str, Any]) -> str:
    slow = f" {row['undertrained']}u" if row["undertrained"] else ""
    return f"{row['k']}/{row['n']} {_share(row['low'])}-{_share(row['high'])}{slow}"


def _share(p: float) -> str:
    return {"0.00": "0", "1.00": "1"}.get(f"{p:.2f}", f"{p:.2f}"[1:])
