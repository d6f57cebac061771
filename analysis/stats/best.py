"""The best quality of each method at which training is stable: the results of `study.search.quality_search`.

A cell is tuned on some seeds and judged on others. Its *gain* in tuning is a progressive validation: how much lower the
loss of the task is than the best constant predictor's, in units of that constant's mean loss. Each batch is scored
before it is trained on, over as many of the last training rows as a day holds. (For a binary task this is one minus the
normalized entropy of He et al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014.) The record
has the losses of every step, but no AUC of training rows, which would be noisy for a few rare positives a batch. A
diverged run has gain 0, the constant's.

    within risk    k / n <= risk, over the seeds it was tuned on
    best           the highest mean gain of the cells within risk that have at least half as many seeds as any of them:
                   with few seeds, the highest mean is mostly luck, and no divergence says little

The best cell is judged on seeds and a day that tuning never saw. That, not the gain, is its quality. Progressive
validation: A. Blum, A. Kalai, J. Langford, "Beating the hold-out", COLT 1999. Table 2 of Tang et al. (KDD 2023, arXiv
2302.09178) is the same comparison, with three seeds and without intervals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CELL, CURVE, in_order, records, tasks_of, threshold_columns, with_curves
from analysis.stats.intervals import mean_interval, median_interval, upper_bound, wilson
from analysis.stats.quality import worst_filled
from study.config import JUDGED_FROM, QualitySearch, Study
from study.record.definition import Definition

NEAR_END = 0.1
"""A value within this share of its range, in log, lies at the range's end."""


def task_of(definition_data: Mapping[str, Any], search: QualitySearch) -> str:
    """Return the task whose gain is maximized.

    Raises:
        ValueError: If the data have no such task.
    """
    names = [task["name"] for task in definition_data["tasks"]]
    if search.task is None:
        return names[0]
    if search.task not in names:
        raise ValueError(f"the data have no task {search.task!r}; there are {', '.join(names)}")
    return search.task


def last_steps(definition: Definition, steps: int) -> int:
    """Return how many of a run's last steps are its progressive validation.

    They cover as many training rows as are held out (the last day; a source's rows carry no date), and at most a
    quarter of the run.
    """
    day = round(definition.data["heldout_rows"] / definition.study.recipe.batch)
    return max(1, min(day, steps // 4))


def gains(runs: pd.DataFrame, losses: pd.DataFrame, definition: Definition) -> dict[str, float]:
    """Return run_id -> gain, finite.

    Args:
        runs: `study.record.tables.read_runs`.
        losses: `study.record.tables.read_losses`.
    """
    task = task_of(definition.data, quality_search(definition))
    unit = next(t["constant_loss"] for t in tasks_of(definition.data) if t["name"] == task)
    diverged = dict(zip(runs["run_id"], runs["outcome"] == "diverged", strict=True))
    gain_of = {}
    for row in records(losses.loc[losses["task"] == task, ["run_id", "loss", "constant"]]):
        if row["run_id"] not in diverged:
            continue
        last = last_steps(definition, len(row["loss"]))
        lower = np.asarray(row["constant"], np.float64)[-last:] - np.asarray(row["loss"], np.float64)[-last:]
        gain = 0.0 if diverged[row["run_id"]] else math.fsum(lower) / (last * unit)
        gain_of[row["run_id"]] = gain if math.isfinite(gain) else 0.0
    return gain_of


def tuned_of(study: Study) -> dict[str, tuple[str, ...]]:
    """Return method -> the thresholds that the study's search tunes beside the lr."""
    search = study.search
    assert isinstance(search, QualitySearch)
    return {arm.method: tuple(search.ranges.get(arm.method, ())) for arm in study.arms}


def by_arm(runs: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Return the runs of cells with their arm as the curve: tuned values do not tell curves apart."""
    runs = with_curves(runs).drop(columns="curve")
    plain, tuned = runs.copy(), tuned_of(study)
    for name in threshold_columns(runs):
        plain.loc[[name in tuned.get(method, ()) for method in runs["method"]], name] = math.nan
    curves = with_curves(plain)["curve"]
    return runs.loc[curves.index].assign(curve=curves)


def tuned_cells(runs: pd.DataFrame, gain: Mapping[str, float], definition: Definition) -> pd.DataFrame:
    """Return the cells that were tuned.

    Args:
        runs: `study.record.tables.read_runs`.
        gain: `gains` of these runs. A run without one is left out.

    Returns:
        One row a cell; columns model, curve (the arm), method, <thresholds>, options, lr; n, k (runs and diverged
        runs of the seeds it was tuned on), gain (their mean), within_risk, best (bool; at most one cell of a model
        and curve).
    """
    search = quality_search(definition)
    runs = by_arm(runs, definition.study)
    runs = runs.loc[runs["seed"] < JUDGED_FROM]
    runs = runs.loc[runs["run_id"].isin(list(gain))]
    keys = _cell_keys(runs)
    scored = runs[keys].assign(diverged=runs["outcome"] == "diverged", gain=[gain[run] for run in runs["run_id"]])
    rows = []
    for _, cell in scored.groupby(keys, dropna=False, sort=True):
        row = {name: cell[name].iloc[0] for name in keys}
        rows.append(row | {"n": len(cell), "k": sum(cell["diverged"]), "gain": math.fsum(cell["gain"]) / len(cell)})
    cells = pd.DataFrame(rows, columns=pd.Index([*keys, "n", "k", "gain"]))
    cells["within_risk"] = within_risk(cells["k"].to_numpy(), cells["n"].to_numpy(), search.risk)
    best = [of_arm.index[i] for _, of_arm in cells.groupby(CURVE) if (i := best_of(of_arm)) is not None]
    return in_order(cells.assign(best=cells.index.isin(best)))


def best_like(
    run_id: str, runs: pd.DataFrame, gain: Mapping[str, float], definition: Definition
) -> dict[str, Any] | None:
    """Return the best cell of a run's model and arm, as a row of `tuned_cells`; None if there is none."""
    named = by_arm(runs, definition.study)
    model, curve = named.loc[named["run_id"] == run_id, CURVE].iloc[0]
    of_arm = named.loc[(named["model"] == model) & (named["curve"] == curve), "run_id"]
    cells = tuned_cells(runs.loc[runs["run_id"].isin(of_arm)], gain, definition)
    rows = records(cells.loc[cells["best"]])
    return rows[0] if rows else None


def within_risk(k: np.ndarray, n: np.ndarray, risk: float) -> np.ndarray:
    """Return whether k of n is at most the risk, bool of k's shape."""
    return np.asarray(k) <= risk * np.asarray(n) + 1e-9


def best_of(cells: pd.DataFrame) -> int | None:
    """Return the position of the best of one arm's cells, the first of equals; None if none is within risk.

    Args:
        cells: Columns n, gain, within_risk.
    """
    within = cells["within_risk"].to_numpy(dtype=bool)
    if not within.any():
        return None
    n = cells["n"].to_numpy(dtype=float)
    tested = within & (2 * n >= n[within].max())
    return int(np.argmax(np.where(tested, cells["gain"].to_numpy(dtype=float), -math.inf)))


def best(runs: pd.DataFrame, gain: Mapping[str, float], definition: Definition) -> pd.DataFrame:
    """Return the best cell of each model and arm, judged on fresh seeds and the held-out day.

    Args:
        runs: As for `tuned_cells`.
        gain: As for `tuned_cells`.

    Returns:
        One row a model and arm; columns model, curve, lr (NaN if no cell is within risk); of judging: n, k, rate, low,
        high (Wilson), bound (Clopper-Pearson, one-sided); for each score (`auc_<task>`, `rmse_<task>`) the median
        under that name, <name>_low, <name>_high, <name>_mean, <name>_mean_low, <name>_mean_high, a diverged run as the
        worst result; of tuning: cells, runs, n_tuned, k_tuned, gain, at_end (the values at an end of their range,
        comma-separated); method, <thresholds>, options. All intervals are at 95%; NaN before judging, and with too few
        seeds.

    Raises:
        ValueError: If the study is no search for the best quality.
    """
    study = definition.study
    cells = tuned_cells(runs, gain, definition)
    judged = by_arm(runs, study)
    judged = judged.loc[judged["seed"] >= JUDGED_FROM]
    scores = [f"{kind}_{task['name']}" for task in tasks_of(definition.data) for kind in ("auc", "rmse")]
    scores = [name for name in scores if name in runs]
    keys = _cell_keys(cells)
    rows = []
    for model, curve in dict.fromkeys(zip(cells["model"], cells["curve"], strict=True)):
        of_arm = cells.loc[(cells["model"] == model) & (cells["curve"] == curve)]
        trained = {"cells": len(of_arm), "runs": sum(of_arm["n"])}
        chosen = records(of_arm.loc[of_arm["best"]])
        if not chosen:
            method, options = of_arm["method"].iloc[0], of_arm["options"].iloc[0]
            none = {"model": model, "curve": curve, "method": method, "options": options}
            rows.append(none | trained | _judged(judged.iloc[:0], scores, definition))
            continue
        cell = chosen[0]
        fresh = judged.merge(of_arm.loc[of_arm["best"], keys], on=keys)  # a missing threshold equals a missing one
        tuned = {"n_tuned": cell["n"], "k_tuned": cell["k"], "gain": cell["gain"]}
        row = {name: cell[name] for name in keys} | trained | tuned | {"at_end": ", ".join(_at_end(cell, study))}
        rows.append(row | _judged(fresh, scores, definition))
    tuning = ["cells", "runs", "n_tuned", "k_tuned", "gain", "at_end"]
    same = [name for name in keys if name not in CELL]
    columns = [*CELL, *_judged(judged.iloc[:0], scores, definition), *tuning, *same]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


def quality_search(definition: Definition) -> QualitySearch:
    search = definition.study.search
    if not isinstance(search, QualitySearch):
        raise ValueError(f"{definition.study.name} is no search for the best quality")
    return search


def _cell_keys(runs: pd.DataFrame) -> list[str]:
    known = ("cells", "runs", "n", "k", "gain", "within_risk", "best")
    return [*CURVE, "method", *(c for c in threshold_columns(runs) if c not in known), "options", "lr"]


def _at_end(cell: Mapping[str, Any], study: Study) -> list[str]:
    search = study.search
    assert isinstance(search, QualitySearch)
    lrs = {lr for arm in study.arms if arm.method == cell["method"] for lr in study.lrs_of(arm)} or study.lrs
    ranges = {"lr": (min(lrs), max(lrs))} | search.ranges.get(cell["method"], {})
    names = []
    for name, (low, high) in ranges.items():
        place = math.log(cell[name] / low) / math.log(high / low) if high > low else 0.5
        if not NEAR_END <= place <= 1 - NEAR_END:
            names.append(name)
    return names


def _judged(runs: pd.DataFrame, scores: Sequence[str], definition: Definition) -> dict[str, Any]:
    n, k = len(runs), sum(runs["outcome"] == "diverged")
    low, high = (math.nan, math.nan) if n == 0 else (float(end) for end in wilson(k, n))
    row: dict[str, Any] = {"n": n, "k": k, "rate": k / n if n else math.nan, "low": low, "high": high}
    row["bound"] = upper_bound(k, n) if n else math.nan
    filled = worst_filled(runs, definition)
    for name in scores:
        values = filled[name][np.isfinite(filled[name])]
        row |= dict(zip((f"{name}_low", name, f"{name}_high"), median_interval(values), strict=True))
        row |= {f"{name}_mean": float(np.mean(values)) if len(values) else math.nan}
        row |= dict(zip((f"{name}_mean_low", f"{name}_mean_high"), mean_interval(values), strict=True))
    return row
