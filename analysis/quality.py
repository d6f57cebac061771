"""What a learning rate costs: held-out quality and `kept` per cell, with a diverged run as the worst result.

A run that diverged counts as AUC 0.5 and the constant predictor's RMSE, whatever its dead network scores; a `kept`
that is not finite counts as minus infinity. Nothing is dropped: a cell of 8 has the quantiles of 8 runs.
"""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.runs import CELL, in_order, tasks_of, threshold_columns, with_curves
from study.record import Definition

BAND = (0.1, 0.9)
WORST_AUC = 0.5


def quality(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """One row a cell, from one row a run (`analysis.load`) and the definition of the study (`study.record`).

    Columns: model, curve, method, <thresholds>, options, lr, n; then for each of `kept`, `kept_<task>`, `auc_<task>`
    and `rmse_<task>` the median under that name and the 10% and 90% quantiles as <name>_low and <name>_high. kept is a
    share of the reference gain, RMSE in the task's unit. `kept` can be -inf; a task that is not learnable is NaN.
    """
    runs = with_curves(runs)
    same = ["method", *threshold_columns(runs), "options"]
    scored = runs[[*CELL, *same]].assign(**worst_filled(runs, definition))
    names = [c for c in scored.columns if c not in (*CELL, *same)]
    rows = []
    for _, cell in scored.groupby(CELL, sort=False):
        row = {name: cell[name].iloc[0] for name in (*CELL[:2], *same, "lr")} | {"n": len(cell)}
        for name in names:
            values = cell[name].to_numpy(dtype=float)
            row |= {name: quantile(values, 0.5)}
            row |= {f"{name}_low": quantile(values, BAND[0]), f"{name}_high": quantile(values, BAND[1])}
        rows.append(row)
    columns = [*CELL[:2], *same, "lr", "n", *(f"{name}{end}" for name in names for end in ("", "_low", "_high"))]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


def worst_filled(runs: pd.DataFrame, definition: Definition) -> dict[str, np.ndarray]:
    """Quality of each run, name -> float column, the worst result where the run diverged or has no finite value."""
    kept = _floats(runs, "kept")
    columns = {"kept": np.where(np.isnan(kept), -math.inf, kept)}
    diverged = (runs["outcome"] == "diverged").to_numpy(dtype=bool)
    for task in tasks_of(definition.data):
        name = task["name"]
        if f"kept_{name}" in runs:
            kept = _floats(runs, f"kept_{name}")
            learnable = runs[f"diverged_{name}"].notna().to_numpy() if f"diverged_{name}" in runs else ~np.isnan(kept)
            columns[f"kept_{name}"] = np.where(np.isnan(kept) & learnable, -math.inf, kept)
        for score, worst in ((f"auc_{name}", WORST_AUC), (f"rmse_{name}", task.get("constant_rmse"))):
            if score in runs and worst is not None:
                values = _floats(runs, score)
                columns[score] = np.where(diverged | ~np.isfinite(values), worst, values)
    return columns


def _floats(runs: pd.DataFrame, column: str) -> np.ndarray:
    return runs[column].to_numpy(dtype=float, na_value=np.nan)


def quantile(values: Sequence[float] | np.ndarray, share: float) -> float:
    """A quantile, linear between order statistics, that takes minus infinity for what it is. NaN gives NaN."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if ordered.size == 0 or np.isnan(ordered).any():
        return math.nan
    below, part = divmod(share * (ordered.size - 1), 1)
    low = float(ordered[int(below)])
    if part < 1e-9 or low == -math.inf:
        return low
    return low + part * (float(ordered[int(below) + 1]) - low)
