"""What happens during training: when runs diverge, gains over steps, and pairs of runs to compare."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, in_order, of_curves, records, with_curves
from analysis.stats.onsets import LOST_AT, with_onsets
from study.outcomes.gains import LEAST_POINTS


def diverged_by_step(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the share of a curve's runs that have diverged by each step, over all lrs and seeds.

    Args:
        runs: One row a run. A run counts from its `lost_at` on (`analysis.stats.onsets.with_onsets`).

    Returns:
        Columns model, curve, method, runs, step, share, known; the first row of a curve is step 0, the last its last
        step. If it is not known when some diverged runs were lost, a further row has the share with them, at the last
        step; known is False there.
    """
    runs = of_curves(with_curves(runs))
    runs = runs if LOST_AT in runs else with_onsets(runs)
    rows = []
    for key, curve in runs.groupby(CURVE, sort=False):
        model, name = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
        diverged = curve.loc[curve["outcome"] == "diverged", LOST_AT]
        at, last = sorted(int(s) for s in diverged.dropna()), max(curve["steps"].tolist())
        steps = [0, *at, last]
        shares = [*(i / len(curve) for i in range(len(at) + 1)), len(at) / len(curve)]
        same = {"model": model, "curve": name, "method": curve["method"].iloc[0], "runs": len(curve)}
        rows += [same | {"step": x, "share": share, "known": True} for x, share in zip(steps, shares, strict=True)]
        if len(diverged) > len(at):
            rows.append(same | {"step": last, "share": len(diverged) / len(curve), "known": False})
    columns = pd.Index([*CURVE, "method", "runs", "step", "share", "known"])
    table = pd.DataFrame(rows, columns=columns)
    return in_order(table.assign(lr=table["step"])).drop(columns="lr")


def gain_by_step(losses: pd.DataFrame, tasks: Sequence[Mapping[str, Any]], median_steps: int = 25) -> pd.DataFrame:
    """Return the gain of the training loss over the best constant predictor, by run and step.

    Args:
        losses: `study.record.tables.read_losses`.
        tasks: The tasks of the data, with their constant_loss.
        median_steps: Steps of the trailing median.

    Returns:
        Columns run_id, step, gain (in units of the constant's mean loss; NaN where a loss is not finite) and smooth
        (the trailing median).
    """
    unit = sum(float(task["constant_loss"]) for task in tasks)
    parts = []
    for run_id, of_run in losses.groupby("run_id", sort=True):
        loss, constant = (np.sum([np.asarray(v, dtype=float) for v in of_run[c]], axis=0) for c in ("loss", "constant"))
        constant = constant[: len(loss)]
        with np.errstate(over="ignore", invalid="ignore"):
            gain = pd.Series((constant - loss) / unit).replace([np.inf, -np.inf], np.nan)
        logged = of_run["step"].iloc[0] if "step" in of_run else None
        step = np.arange(len(gain)) if logged is None else np.asarray(logged)
        points = max(1, round(median_steps * len(step) / (step[-1] + 1)))
        smooth = gain.rolling(max(points, min(LEAST_POINTS, median_steps)), min_periods=1).median().where(gain.notna())
        parts.append(pd.DataFrame({"run_id": run_id, "step": step, "gain": gain, "smooth": smooth}))
    empty = pd.DataFrame({"run_id": [], "step": [], "gain": [], "smooth": []})
    return pd.concat(parts, ignore_index=True) if parts else empty


def example_pairs(runs: pd.DataFrame, limit: int = 8) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return pairs of a diverged run and a completed run of the same curve, at most `limit`.

    The completed run has the same lr if possible, else the nearest. The first pair of each curve is at the lowest lr
    where a run diverged; further pairs show other reasons.
    """
    runs = with_curves(runs).sort_values(["lr", "seed"])
    per_curve = []
    for _, curve in in_order(runs).groupby(CURVE, sort=False):
        every = records(curve)
        healthy = [r for r in every if r["outcome"] == "completed"]
        broken = [r for r in every if r["outcome"] == "diverged"]
        reasons = list(dict.fromkeys(r["reason"] for r in broken))
        first = [next(r for r in broken if r["reason"] == reason) for reason in reasons]
        nearest = [min(healthy, key=lambda h: _distance(h, b), default=None) for b in first]
        if pairs := [(b, h) for b, h in zip(first, nearest, strict=True) if h is not None]:
            per_curve.append(pairs)
        if len(per_curve) == limit:  # the first pairs of so many curves are enough
            break
    rounds = range(max(map(len, per_curve), default=0))
    return [pairs[i] for i in rounds for pairs in per_curve if i < len(pairs)][:limit]


def _distance(healthy: Mapping[str, Any], broken: Mapping[str, Any]) -> tuple[float, bool]:
    return abs(math.log(healthy["lr"] / broken["lr"])), healthy["seed"] != broken["seed"]
