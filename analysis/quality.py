"""What a learning rate costs: held-out quality and `kept` per cell, with a diverged run as the worst result.

A run that diverged counts as AUC 0.5 and the constant predictor's RMSE, whatever its dead network scores; a `kept`
that is not finite counts as minus infinity. Nothing is dropped: a cell of 8 has the quantiles of 8 runs.

LR sensitivity: M. Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities", ICLR 2024
(arXiv 2309.14322). The median's interval is of order statistics: W. R. Thompson, Annals of Mathematical Statistics 7
(1936).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.rates import CONFIDENCE
from analysis.runs import CELL, CURVE, in_order, records, tasks_of, threshold_columns, with_curves
from study.config import EdgeSearch
from study.record import Definition

BAND = (0.1, 0.9)
WORST_AUC = 0.5

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)


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


def judged_at_own_best(runs: pd.DataFrame, definition: Definition, name: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Each seed of a curve at that curve's best lr, which the seed has no say in: (model, curve) -> a table indexed by
    seed with the columns lr and quality.

    name: the column of held-out quality to judge by (`worst_filled`); the lr is chosen by `kept` of the same task
    (`chosen_by_others`). A seed without this quality is left out, and so are all seeds of a search for edges, which
    trains few where quality is best.
    """
    runs = with_curves(runs)
    quality_N = worst_filled(runs, definition).get(name, np.full(len(runs), math.nan))
    searched = isinstance(definition.study.search, EdgeSearch)
    found = {}
    for (model, curve), chosen in chosen_by_others(runs, definition, name.partition("_")[2], CURVE).items():
        judged = chosen.assign(quality=quality_N[chosen["row"]])[["lr", "quality"]]
        found[model, curve] = judged.iloc[:0] if searched else judged.loc[np.isfinite(judged["quality"])]
    return found


def chosen_by_others(
    runs: pd.DataFrame, definition: Definition, task: str, of: Sequence[str]
) -> dict[tuple[str, str], pd.DataFrame]:
    """What the other seeds choose for each seed, of all curves and lrs with the same values in the columns `of` (two):
    those values -> a table indexed by seed, with the columns curve, lr and row: where the seed's run there stands in
    `with_curves(runs)`.

    The choice for a seed has the highest median `kept` over the other seeds, of the task where that is learnable: other
    seeds, and other rows (kept is a progressive validation), than those that judge on the held-out day. It is one at
    which at least half as many of them ran as at the median one; of equals, the lowest lr. A seed without a run there
    is left out.
    """
    runs = with_curves(runs)
    filled = worst_filled(runs, definition)
    kept = filled.get(f"kept_{task}", filled["kept"])
    kept = filled["kept"] if np.isnan(kept).any() else kept
    scored = runs[["model", "method", "curve", "lr", "seed"]].assign(by=kept, row=np.arange(len(runs)))
    found = {}
    for key, alike in scored.groupby(list(of), sort=False):
        by = alike.pivot_table(index="seed", columns=["lr", "curve"], values="by")
        run_at = {(run["seed"], run["lr"], run["curve"]): run["row"] for run in records(alike)}
        by_SK, rows = by.to_numpy(dtype=float), []
        for s, seed in enumerate(by.index):
            k = _best(np.delete(by_SK, s, axis=0))
            if k is not None and (row := run_at.get((seed, *by.columns[k]))) is not None:
                rows.append({"seed": seed, "curve": by.columns[k][1], "lr": float(by.columns[k][0]), "row": row})
        first, second = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
        found[first, second] = pd.DataFrame(rows, columns=pd.Index(["seed", "curve", "lr", "row"])).set_index("seed")
    return found


def _best(by_SK: np.ndarray) -> int | None:
    """The number of the column with the highest median over seeds; None where nobody ran."""
    n_K = (~np.isnan(by_SK)).sum(0)
    enough = np.flatnonzero((n_K > 0) & (2 * n_K >= np.median(n_K)))
    medians = [_lower_median(by_SK[:, k]) for k in enough]
    return int(enough[int(np.argmax(medians))]) if medians else None


def _lower_median(values: np.ndarray) -> float:
    """The lower of the two middle values: minus infinity needs no mean. NaN where nothing is there."""
    there = np.sort(values[~np.isnan(values)])
    return float(there[(len(there) - 1) // 2]) if len(there) else math.nan


def lower_is_better(name: str) -> bool:
    """Whether a column of quality is an error."""
    return name.startswith("rmse_")


def lr_sensitivity(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """How much loss it costs on average not to know the best lr: one row a curve.

        mean over log lr of min(loss(lr), loss at initialization) - min over lr of the same

    over the range of lrs that all curves of the model were tried on, so that they can be compared; the mean is a
    trapezoid rule, since lrs need not be evenly spaced. loss: the final training loss, mean over seeds, in its own unit
    (a sum over the tasks); one that is not finite counts as the loss at initialization, which is the best constant
    predictor's (head biases start at the base rates).

    Columns: model, curve, method, sensitivity, sensitivity_low, sensitivity_high (95% bootstrap of whole seeds; NaN
    with one), sensitivity_lr_min, sensitivity_lr_max (the range; sensitivity is NaN where it is a single lr).
    """
    runs = with_curves(runs)
    top = sum(float(task["constant_loss"]) for task in tasks_of(definition.data))
    loss = _floats(runs, "final_loss")
    capped = runs[[*CURVE, "method", "lr", "seed"]].assign(loss=np.fmin(np.where(np.isnan(loss), top, loss), top))
    ends = capped.groupby(CURVE)["lr"].agg(["min", "max"]).groupby("model").agg({"min": "max", "max": "min"})
    rows = []
    for key, curve in capped.groupby(CURVE, sort=False):
        low, high = ends.loc[key[0]]  # pyright: ignore[reportIndexIssue]
        inside = curve.loc[(curve["lr"] >= low) & (curve["lr"] <= high)]
        loss_SK = inside.pivot_table(index="seed", columns="lr", values="loss")
        same = {"model": key[0], "curve": key[1], "method": curve["method"].iloc[0]}  # pyright: ignore[reportIndexIssue]
        rows.append(same | _sensitivity(loss_SK) | {"sensitivity_lr_min": low, "sensitivity_lr_max": high})
    columns = [*CURVE, "method", *SENSITIVITY, "sensitivity_lr_min", "sensitivity_lr_max"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


SENSITIVITY = ("sensitivity", "sensitivity_low", "sensitivity_high")


def _sensitivity(loss_SK: pd.DataFrame) -> dict[str, float]:
    S, K = loss_SK.shape
    if K < 2:
        return dict.fromkeys(SENSITIVITY, math.nan)
    x, values = np.log10(loss_SK.columns.to_numpy(dtype=float)), loss_SK.to_numpy(dtype=float)
    there = ~np.isnan(values)
    weight_BS = np.random.default_rng(0).multinomial(S, np.full(S, 1 / S), RESAMPLES)
    weight_BS = np.concatenate([np.ones((1, S)), weight_BS])
    n_BK = weight_BS @ there
    complete = (n_BK > 0).all(1)  # a resample without any run at some lr says nothing there
    mean_BK = (weight_BS @ np.where(there, values, 0.0))[complete] / n_BK[complete]
    area_B = ((mean_BK[:, 1:] + mean_BK[:, :-1]) / 2) @ np.diff(x) / (x[-1] - x[0])
    drawn = area_B - mean_BK.min(1)
    low, high = np.quantile(drawn[1:], INTERVAL) if S > 1 and len(drawn) > RESAMPLES / 2 else (math.nan, math.nan)
    return dict(zip(SENSITIVITY, (float(drawn[0]), float(low), float(high)), strict=True))


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


def median_interval(values: Any, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """(low, median, high): the median with its exact interval, between order statistics. The interval is NaN where
    there are too few values (below 6 at 95%); all is NaN where there are none, or one is NaN."""
    ordered = np.sort(np.asarray(values, dtype=float))
    if not len(ordered) or np.isnan(ordered).any():
        return math.nan, math.nan, math.nan
    # The r-th from either end: P(Binomial(n, 1/2) < r) <= (1 - confidence) / 2.
    outside = special.bdtr(np.arange(len(ordered)), len(ordered), 0.5) <= (1 - confidence) / 2
    r = int(outside.sum())
    middle = float(np.median(ordered))
    return (float(ordered[r - 1]), middle, float(ordered[-r])) if r else (math.nan, middle, math.nan)


def mean_interval(values: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Student's interval of the mean; NaN under 2 values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half
