"""P(divergence | lr) of each cell: k of n, with an interval."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CELL, TRAINED_LR, in_order, of_curves, threshold_columns, with_curves
from analysis.stats.intervals import wilson


def divergence_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the rate of divergence of each cell.

    Args:
        runs: One row a run (`analysis.load`). Missing runs count nowhere.

    Returns:
        One row a cell; columns model, curve, lr; n (runs), k (diverged runs), rate = k/n with its 95% Wilson interval
        low, high; undertrained (runs; in n, not in k); nonfinite, collapsed, never_learned (k by reason); micro (runs
        with a micro divergence), micro_rate with its 95% Wilson interval micro_low, micro_high; binned (whether lr is
        the middle of a bin of `in_bins`), lr_min, lr_max (the lowest and highest trained lr of the cell; the middle of
        a bin may lie outside them, since all curves share it); steps (the horizon: the most steps of any run); method,
        <thresholds>, options.
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
    cells[BINS] = bins(runs)
    order = [*CELL, "n", "k", "rate", "low", "high", "undertrained", *REASONS]
    order += ["micro", "micro_rate", "micro_low", "micro_high", *BINS, "steps", *same]
    return in_order(cells).reindex(columns=order)


REASONS = ("nonfinite", "collapsed", "never_learned")
COUNTS = ("n", "k", "undertrained", *REASONS, "micro")
BINS = ["binned", "lr_min", "lr_max"]


def bins(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the columns BINS of each cell, in the order in which cells first occur."""
    trained = runs[TRAINED_LR if TRAINED_LR in runs else "lr"].astype(float)
    ends = trained.groupby([runs[name] for name in CELL], sort=False).agg(["min", "max"]).reset_index()
    binned = (ends["min"] != ends["lr"]) | (ends["max"] != ends["lr"])
    return pd.DataFrame({"binned": binned.astype(bool), "lr_min": ends["min"], "lr_max": ends["max"]})


def in_bins(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with lrs grouped so that their cells can be read.

    If a study has few runs at most of many lrs, as an adaptive search does (fresh seeds that confirm an lr do not
    count), lr becomes the middle of its quarter octave, to two digits, and the trained lr stands in `lr_trained`. An
    lr alone in its bin and studies on a grid stay as they are. For tables and figures of cells; edges are fitted to
    the lrs that were trained.
    """
    runs = with_curves(runs)
    lrs, of_all_lrs = sorted(set(runs["lr"])), of_curves(runs)
    runs_of_cells: Any = of_all_lrs.groupby(CELL).size()
    if len(lrs) <= MANY_LRS or not runs_of_cells.median() < FEW_RUNS:
        return runs
    bins: dict[int, list[float]] = {}
    for lr, i in zip(lrs, octave_bins(lrs).tolist(), strict=True):
        bins.setdefault(i, []).append(lr)
    middle = {i: float(f"{2 ** (i / BINS_AN_OCTAVE):.2g}") for i in bins}
    shown = {lr: lr if len(own) == 1 else middle[i] for i, own in bins.items() for lr in own}
    return runs.assign(lr=[shown[lr] for lr in runs["lr"]], **{TRAINED_LR: runs["lr"]})


def octave_bins(lrs: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the number of each lr's quarter octave, about 2^(i/4), int64."""
    return np.floor(BINS_AN_OCTAVE * np.log2(lrs) + 0.5).astype(np.int64)


MANY_LRS = 16
FEW_RUNS = 3
"""Runs from which a cell is read by itself. `in_bins` asks for the median cell, `edges` for each lr of a curve."""

BINS_AN_OCTAVE = 4
