"""Runs that failed for good: whether they depend on the learning rate, and the edge if each of them had diverged.

A missing run counts in no rate. That is fair only if runs fail whatever their lr. A loop that exits where its loss is
high loses the very runs that diverge, and its curve then has no divergence at any lr.
"""

import math
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, in_order, records, with_curves
from analysis.stats.edges import edge_of, outcomes
from analysis.stats.psychometric import fit
from study.config import CONTROL_SEEDS, Arm, canonical_json, planned_ids
from study.record.confirmations import read_confirmations
from study.record.definition import Definition
from study.record.failures import FailedRun, read_failed_runs

FAILED = ("run_id", "model", "curve", "method", "lr", "seed", "reason")
"""Columns of `failed_runs`."""

SIGNIFICANT = 0.05
PERMUTATIONS = 9_999

RISES, ONLY_ABOVE, NO_TREND = "rises", "only above", "no trend"
"""How the missing share of a curve depends on the lr (`missing_by_curve`)."""

COUNTED = ("edge", "low", "high", "status", "lr_min", "lr_max")

COLUMNS = ("method", "missing", "recorded", "lowest_lr", "highest_lr", "complete_lr", "p", "trend", "level", *COUNTED)


def failed_runs(folder: Path, definition: Definition, runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of cells that failed and are not recorded, one row a run.

    Args:
        folder: The folder of the study.
        definition: The study.
        runs: The recorded runs of cells (`analysis.load`).

    Returns:
        Columns `FAILED`. Without runs whose lr is not known: those that a search chose, in a record of an older
        version.
    """
    failed = read_failed_runs(folder, set(runs["run_id"]))
    about = {run.run_id: run.about for run in failed if run.about}
    if len(about) < len(failed):
        about |= _planned(folder, definition, {run.run_id for run in failed} - about.keys())
    known = [run for run in failed if run.run_id in about and about[run.run_id]["seed"] not in CONTROL_SEEDS]
    arms = [Arm(about[run.run_id]["method"], about[run.run_id]["options"]) for run in known]
    labels = _labels(definition, runs, arms)
    rows = [_row(run, about[run.run_id], labels) for run in known]
    return pd.DataFrame(rows, columns=pd.Index(FAILED)).astype({"lr": float, "seed": "int64"})


def _row(run: FailedRun, about: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    curve = labels[_key(Arm(about["method"], about["options"]))]
    same = {name: about[name] for name in ("model", "method", "lr", "seed")}
    return same | {"run_id": run.run_id, "curve": curve, "reason": run.reason}


def _planned(folder: Path, definition: Definition, wanted: Set[str]) -> dict[str, dict[str, Any]]:
    """Run id -> model, method, options, lr and seed of runs that are planned or named by a confirmation."""
    runs = [run for confirmation in read_confirmations(folder) for run in confirmation.runs(definition)]
    names = ("model", "method", "options", "lr", "seed")
    found = {run.id: {name: getattr(run, name) for name in names} for run in runs if run.id in wanted}
    for model, arm, lr, seed, run_id in planned_ids(definition.study, definition.data["content"]):
        if run_id in wanted:
            found[run_id] = dict(zip(names, (model, arm.method, arm.options, lr, seed), strict=True))
    return found


def _labels(definition: Definition, runs: pd.DataFrame, arms: Sequence[Arm]) -> dict[str, str]:
    """Return the curve of each arm: that of its recorded runs, else the method with all options."""
    study, content = definition.study, definition.data["content"]
    recorded = records(with_curves(runs).drop_duplicates("curve")) if arms and len(runs) else []
    labels = {}
    for arm in {_key(arm): arm for arm in arms}.values():
        alike = [row for row in recorded if row["method"] == arm.method]
        same = [
            row
            for row in alike
            if study.run(content, row["model"], arm, float(row["lr"]), int(row["seed"])).id == row["run_id"]
        ]
        if not same and [other.method for other in study.arms].count(arm.method) == 1 == len(alike):
            same = alike  # an arm that spells out a default of its method has another id
        options = (f"{name}={value}" for name, value in sorted(arm.options.items()))
        labels[_key(arm)] = str(same[0]["curve"]) if same else " ".join([arm.method, *options])
    return labels


def _key(arm: Arm) -> str:
    return canonical_json([arm.method, arm.options])


def missing_by_curve(runs: pd.DataFrame, failed: pd.DataFrame, level: float = 0.5) -> pd.DataFrame:
    """Return how the failed runs of each curve depend on the lr. Curves without failed runs have no row.

    A curve's `trend` is "rises" where the missing share rises with the lr: `trend_p` is below 0.05. It is "only above"
    where every missing run has an lr above all lrs whose runs are complete. That is no test, and a single lost run at
    the highest lr has it. But the edge is then known from lower lrs alone, and too few runs are missing to show a
    trend. So the report treats it as if the share rose. Otherwise it is "no trend".

    Args:
        runs: One row a run (`analysis.load`).
        failed: `failed_runs`.
        level: P(divergence) at the edge.

    Returns:
        One row a curve; columns model, curve, method; missing and recorded (runs); lowest_lr and highest_lr (of the
        missing runs); complete_lr (the highest lr without a missing run; NaN if there is none); p, trend; level; edge,
        low, high, status, lr_min, lr_max as in `edges`, with the missing runs counted as diverged (NaN and None for
        "no trend").
    """
    runs = with_curves(runs)
    of_curve = runs.groupby(CURVE, sort=False).indices if len(failed) else {}
    runs, rows = runs.loc[:, ["seed", "lr", "outcome"]], []
    for key, lost in failed.groupby(CURVE, sort=False):
        model, curve = key  # pyright: ignore[reportGeneralTypeIssues]
        there = runs.iloc[of_curve.get(key, [])]
        both = pd.concat([there, lost[["seed", "lr"]].assign(outcome="diverged")], ignore_index=True)
        lrs, of_lr = np.unique(both["lr"].to_numpy(dtype=float), return_inverse=True)
        total = np.bincount(of_lr, minlength=len(lrs))
        missing = np.bincount(of_lr[len(there) :], minlength=len(lrs))
        lowest, highest = float(lrs[missing > 0].min()), float(lrs[missing > 0].max())
        complete = float(lrs[missing == 0].max(initial=-math.inf))
        p = trend_p(lrs, missing, total)
        trend = RISES if p < SIGNIFICANT else ONLY_ABOVE if lowest > complete > 0 else NO_TREND
        row = {"model": model, "curve": curve, "method": lost["method"].iloc[0]}
        row |= {"missing": len(lost), "recorded": len(there), "lowest_lr": lowest, "highest_lr": highest}
        row |= {"complete_lr": complete if math.isfinite(complete) else math.nan, "p": p, "trend": trend}
        row |= {"level": level}
        if trend != NO_TREND:
            tried, diverged_SK = outcomes(both)
            edge = edge_of(tried, diverged_SK, fit(tried, diverged_SK), level)
            row |= {name: edge[name] for name in COUNTED}
        rows.append(row)
    table = pd.DataFrame(rows, columns=pd.Index([*CURVE, *COLUMNS]))
    return in_order(table) if rows else table


def trend_p(lrs: Sequence[float] | np.ndarray, missing: Sequence[int] | np.ndarray, total: Any) -> float:
    """Return the one-sided p of the hypothesis that the missing share does not rise with the lr.

    The statistic is that of Cochran and Armitage with the scores log lr: the sum of log lr over the missing runs. Its
    distribution is that of random draws of as many runs out of all runs of the curve (9,999 draws of a fixed seed), so
    small counts need no normal approximation. NaN if all runs are at one lr, or all or none are missing.

    Sources: W. G. Cochran, Biometrics 10 (1954); P. Armitage, Biometrics 11 (1955).

    Args:
        lrs: Learning rates, (K,).
        missing: Missing runs at each, (K,).
        total: Runs at each, recorded or missing, (K,).
    """
    missing, total = np.asarray(missing, dtype=np.int64), np.asarray(total, dtype=np.int64)
    if len(lrs) < 2 or not 0 < missing.sum() < total.sum():
        return math.nan
    score = np.log(np.asarray(lrs, dtype=float))
    drawn = np.random.default_rng(0).multivariate_hypergeometric(total, missing.sum(), PERMUTATIONS, method="marginals")
    as_high = (drawn @ score >= missing @ score - 1e-9).sum()
    return float(1 + as_high) / (1 + PERMUTATIONS)
