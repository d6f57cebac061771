"""What a learning rate costs: held-out quality and `kept` per cell, with a diverged run as the worst result.

A run that diverged counts as AUC 0.5 and the constant predictor's RMSE, whatever its dead network scores; a `kept`
that is not finite counts as minus infinity. Nothing is dropped: a cell of 8 has the quantiles of 8 runs. Where no run
has a score, as an AUC of held-out rows of one class, it is missing.

LR sensitivity: M. Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities", ICLR 2024
(arXiv 2309.14322).
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import (
    CELL,
    CURVE,
    in_order,
    make_curves,
    of_curves,
    records,
    tasks_of,
    threshold_columns,
    with_curves,
)
from analysis.stats.rates import bins
from study.config import EdgeSearch
from study.record.definition import Definition

BAND = {"_q10": 0.1, "_q90": 0.9}
"""The ends of a band over seeds: what follows the name of a column, and the quantile."""

WORST_AUC = 0.5

RESAMPLES = 2000
INTERVAL = (0.025, 0.975)


def quality(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """Return the quality of each cell.

    Args:
        runs: One row a run (`analysis.load`).

    Returns:
        One row a cell; columns model, curve, lr, n; then for each of `kept`, `kept_<task>`, `auc_<task>` and
        `rmse_<task>` the median over seeds under that name, and their 10% and 90% quantiles as <name>_q10 and
        <name>_q90; binned, lr_min, lr_max (as in `analysis.stats.rates.divergence_rates`); method, <thresholds>,
        options. kept is a share of the reference gain and can be -inf; RMSE has the task's unit. A task that is not
        learnable is NaN.
    """
    runs = with_curves(runs)
    same = ["method", *threshold_columns(runs), "options"]
    scored = runs[[*CELL, *same]].assign(**worst_filled(runs, definition))
    names = [c for c in scored.columns if c not in (*CELL, *same)]
    cell_N = scored.groupby(CELL, sort=False).ngroup().to_numpy()
    _, first, n = np.unique(cell_N, return_index=True, return_counts=True)
    table = scored.iloc[first][[*CELL, *same]].reset_index(drop=True)
    bands = {
        f"{name}{end}": _quantiles(scored[name].to_numpy(dtype=float), cell_N, share)
        for name in names
        for end, share in (("", 0.5), *BAND.items())
    }
    parts = [table[CELL].assign(n=n), pd.DataFrame(bands, index=table.index), bins(runs), table[same]]
    return in_order(pd.concat(parts, axis=1))


def worst_filled(runs: pd.DataFrame, definition: Definition) -> dict[str, np.ndarray]:
    """Return the quality of each run, name -> float column, with the worst value for runs that diverged or have none.

    A score that no run has stays NaN, unless all diverged.
    """
    kept = _floats(runs, "kept")
    columns = {"kept": np.where(np.isnan(kept), -math.inf, kept)}
    diverged = (runs["outcome"] == "diverged").to_numpy(dtype=bool)
    metric = str(definition.data.get("quality"))
    if metric in runs:
        values = _floats(runs, metric)
        finite = values[np.isfinite(values)]
        worst = (max if lower_is_better(metric) else min)(finite, default=math.nan)
        columns[metric] = np.where(diverged | ~np.isfinite(values), worst, values)
    for task in tasks_of(definition.data):
        name = task["name"]
        if f"kept_{name}" in runs:
            kept = _floats(runs, f"kept_{name}")
            learnable = runs[f"diverged_{name}"].notna().to_numpy() if f"diverged_{name}" in runs else ~np.isnan(kept)
            columns[f"kept_{name}"] = np.where(np.isnan(kept) & learnable, -math.inf, kept)
        for score, worst in ((f"auc_{name}", WORST_AUC), (f"rmse_{name}", task.get("constant_rmse"))):
            if score in runs and worst is not None:
                values = _floats(runs, score)
                # Where no run has a score there is nothing to judge by: held-out rows of one class.
                judged = np.isfinite(values).any() or diverged.all()
                columns[score] = np.where((diverged | ~np.isfinite(values)) & judged, worst, values)
    return columns


def judged_at_own_best(runs: pd.DataFrame, definition: Definition, name: str) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the quality of each seed at its curve's best lr, which the other seeds choose.

    Args:
        runs: One row a run.
        name: The column of held-out quality (`worst_filled`). The lr is chosen by `kept` of the same task
            (`chosen_by_others`).

    Returns:
        (model, curve) -> a table indexed by seed, with the columns lr and quality. Seeds without this quality are
        left out, and so are all seeds of a search for edges, which trains few of them at lrs of good quality.
    """
    runs = with_curves(runs)
    quality_N = worst_filled(runs, definition).get(name, np.full(len(runs), math.nan))
    searched = isinstance(definition.study.search, EdgeSearch)
    tables, none = {}, _no_choice().assign(quality=pd.Series(dtype=float))[["lr", "quality"]]
    for (model, curve), chosen in chosen_by_others(runs, definition, name.partition("_")[2], CURVE).items():
        if chosen.empty:
            tables[model, curve] = none
            continue
        judged = chosen.assign(quality=quality_N[chosen["row"]])[["lr", "quality"]]
        tables[model, curve] = judged.iloc[:0] if searched else judged.loc[np.isfinite(judged["quality"])]
    return tables


def chosen_by_others(
    runs: pd.DataFrame, definition: Definition, task: str, of: Sequence[str]
) -> dict[tuple[str, str], pd.DataFrame]:
    """Return the curve and lr that the other seeds choose for each seed.

    The choice has the highest median `kept` over the other seeds, of the task if that is learnable. So other seeds
    and other rows choose (kept is a progressive validation) than judge on the held-out day. Only choices at which at
    least half as many of them ran as at the median one are considered; of equals, the lowest lr wins.

    Args:
        runs: One row a run.
        task: The name of the task.
        of: Two columns. A choice is made among all curves and lrs with the same values in them.

    Returns:
        These values -> a table indexed by seed, with the columns curve, lr and row (the position of the seed's run in
        `with_curves(runs)`). A seed without a run there is left out.
    """
    runs = with_curves(runs)
    filled = worst_filled(runs, definition)
    kept = filled.get(f"kept_{task}", filled["kept"])
    kept = filled["kept"] if np.isnan(kept).any() else kept
    seed_N, lr_N = runs["seed"].to_numpy(dtype=np.int64), runs["lr"].to_numpy(dtype=float)
    curve_N, tables, none = runs["curve"].to_numpy(dtype=object), {}, _no_choice()
    own_N = make_curves(runs)
    for key, at in sorted(runs.groupby(list(of), sort=False).indices.items(), key=lambda item: item[1][0]):
        first, second = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
        tables[first, second], at = none, at[own_N[at]]
        seeds, of_seed = np.unique(seed_N[at], return_inverse=True)
        if len(seeds) < 2:
            continue  # there are no other seeds
        lrs, of_lr = np.unique(lr_N[at], return_inverse=True)
        curves, of_curve = np.unique(curve_N[at], return_inverse=True)
        choices, of_choice = np.unique(of_lr * len(curves) + of_curve, return_inverse=True)
        by_SK = mean_of(kept[at], of_seed, of_choice)
        run_SK = np.full(by_SK.shape, -1)
        run_SK[of_seed, of_choice] = at
        rows = []
        for s, seed in enumerate(seeds.tolist()):
            k = _best(np.delete(by_SK, s, axis=0))
            if k is not None and run_SK[s, k] >= 0:
                lr, curve = float(lrs[choices[k] // len(curves)]), curves[choices[k] % len(curves)]
                rows.append({"seed": seed, "curve": curve, "lr": lr, "row": int(run_SK[s, k])})
        if rows:
            tables[first, second] = pd.DataFrame(rows).set_index("seed")
    return tables


def _no_choice() -> pd.DataFrame:
    return pd.DataFrame(columns=pd.Index(["seed", "curve", "lr", "row"])).set_index("seed")


def _best(by_SK: np.ndarray) -> int | None:
    """The column with the highest median over seeds; None if there are no runs."""
    n_K = (~np.isnan(by_SK)).sum(0)
    enough = np.flatnonzero((n_K > 0) & (2 * n_K >= np.median(n_K)))
    if not enough.size:
        return None
    # The lower of the two middle values: minus infinity needs no mean.
    medians = np.sort(by_SK[:, enough], axis=0)[(n_K[enough] - 1) // 2, np.arange(len(enough))]
    return int(enough[np.argmax(medians)])


def mean_of(values_N: np.ndarray, row_N: np.ndarray, column_N: np.ndarray) -> np.ndarray:
    """Return the (rows, columns) matrix of the means of the values at each row and column; NaN where there are none."""
    shape = (row_N.max(initial=-1) + 1, column_N.max(initial=-1) + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row_N, column_N), values_N)
    np.add.at(count, (row_N, column_N), 1)
    return np.divide(total, count, out=np.full(shape, math.nan), where=count > 0)


def quality_column(definition: Definition, name: str | None = None, others: Sequence[str] = ()) -> str:
    """Return the requested column of held-out quality, by default a loop's metric, the first task's AUC, or its RMSE.

    Args:
        name: The column, such as `auc_click`; None for the default.
        others: Further columns that may be requested.

    Raises:
        ValueError: If there is no such column; the message lists those that exist.
    """
    of_task = {"binary": "auc", "regression": "rmse", "loss": "kept"}
    metric = [definition.data["quality"]] if "quality" in definition.data else []
    known = [*metric, *(f"{of_task[task['kind']]}_{task['name']}" for task in tasks_of(definition.data)), *others]
    if name is not None and name not in known:
        raise ValueError(f"unknown quality {name!r}; there are {', '.join(known)}")
    return name or known[0]


def lower_is_better(name: str) -> bool:
    """Return whether a column of quality is an error."""
    return name.startswith(("rmse_", "error_"))


def lr_sensitivity(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """Return the mean loss that a wrong lr costs, for each curve.

        mean over log lr of min(loss(lr), loss at initialization) - min over lr of the same

    The range is that of the lrs on which all curves of the model were tried, so that curves can be compared. A curve
    without an lr in that range, such as an arm with lrs of its own, does not narrow it, and has no sensitivity. The
    mean is a trapezoid rule, since lrs need not be evenly spaced. loss is the final training loss, the mean over
    seeds, in its own unit (a sum over tasks). A loss that is not finite counts as that at initialization, which is
    the best constant predictor's: head biases start at the base rates.

    Args:
        runs: One row a run.

    Returns:
        Columns model, curve, sensitivity, sensitivity_low, sensitivity_high (95% bootstrap of whole seeds;
        NaN with one), sensitivity_lr_min, sensitivity_lr_max (the range; sensitivity is NaN with fewer than two lrs in
        it), method.
    """
    runs = of_curves(with_curves(runs))
    top = sum(float(task["constant_loss"]) for task in tasks_of(definition.data))
    if "initial_loss" in runs:
        top = float(pd.Series(_floats(runs, "initial_loss")).median())
    loss = _floats(runs, "final_loss")
    capped = runs[[*CURVE, "method", "lr", "seed"]].assign(loss=np.fmin(np.where(np.isnan(loss), top, loss), top))
    ends_of: dict[str, tuple[float, float]] = {}
    tried = capped.groupby([*CURVE, "method"], sort=False)["lr"].agg(["min", "max"])
    own = {arm.method for arm in definition.study.arms if arm.lrs}
    for (model, _, _), low, high in sorted(tried.itertuples(name=None), key=lambda row: row[0][2] in own):
        before = ends_of.get(model, (low, high))
        both = max(before[0], low), min(before[1], high)
        ends_of[model] = both if both[0] < both[1] else before
    rows = []
    lr_N, seed_N = capped["lr"].to_numpy(dtype=float), capped["seed"].to_numpy(dtype=np.int64)
    loss_N, of_curve = capped["loss"].to_numpy(dtype=float), capped.groupby(CURVE, sort=False).indices
    firsts: Any = capped.drop_duplicates(CURVE)
    for same in records(firsts[[*CURVE, "method"]]):
        low, high = ends_of[same["model"]]
        at = of_curve[same["model"], same["curve"]]
        at = at[(lr_N[at] >= low) & (lr_N[at] <= high)]
        lrs, of_lr = np.unique(lr_N[at], return_inverse=True)
        _, of_seed = np.unique(seed_N[at], return_inverse=True)
        loss_SK = mean_of(loss_N[at], of_seed, of_lr)
        ends_here = {"sensitivity_lr_min": low, "sensitivity_lr_max": high}
        rows.append(same | _sensitivity(np.log10(lrs), loss_SK) | ends_here)
    columns = [*CURVE, *SENSITIVITY, "sensitivity_lr_min", "sensitivity_lr_max", "method"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


SENSITIVITY = ("sensitivity", "sensitivity_low", "sensitivity_high")


def _sensitivity(x: np.ndarray, loss_SK: np.ndarray) -> dict[str, float]:
    S, K = loss_SK.shape
    if K < 2:
        return dict.fromkeys(SENSITIVITY, math.nan)
    there = ~np.isnan(loss_SK)
    weight_BS = _resamples(S)
    n_BK = weight_BS @ there
    complete = (n_BK > 0).all(1)  # a resample without any run at some lr says nothing there
    mean_BK = (weight_BS @ np.where(there, loss_SK, 0.0))[complete] / n_BK[complete]
    area_B = ((mean_BK[:, 1:] + mean_BK[:, :-1]) / 2) @ np.diff(x) / (x[-1] - x[0])
    drawn = area_B - mean_BK.min(1)
    low, high = np.quantile(drawn[1:], INTERVAL) if S > 1 and len(drawn) > RESAMPLES / 2 else (math.nan, math.nan)
    return dict(zip(SENSITIVITY, (float(drawn[0]), float(low), float(high)), strict=True))


@functools.lru_cache(maxsize=8)
def _resamples(seeds: int) -> np.ndarray:
    """How often each resample holds each seed, after one that holds each once: (1 + RESAMPLES, seeds)."""
    drawn = np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), RESAMPLES)
    return np.concatenate([np.ones((1, seeds)), drawn])


def _floats(runs: pd.DataFrame, column: str) -> np.ndarray:
    return runs[column].to_numpy(dtype=float, na_value=np.nan)


def _quantiles(values_N: np.ndarray, cell_N: np.ndarray, share: float) -> np.ndarray:
    """A quantile of each cell, numbered from 0, linear between order statistics. NaN gives NaN."""
    ordered = values_N[np.lexsort((values_N, cell_N))]  # NaN last
    n = np.bincount(cell_N)
    ends = np.cumsum(n)
    below, part = np.divmod(share * (n - 1), 1)
    at = ends - n + below.astype(int)
    low, above = ordered[at], ordered[np.minimum(at + 1, ends - 1)]
    exact = (part < 1e-9) | (low == -math.inf)
    between = low + part * (np.where(exact, 0, above) - np.where(exact, 0, low))
    return np.where(np.isnan(ordered[ends - 1]), math.nan, np.where(exact, low, between))
