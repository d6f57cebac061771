"""The step from which each diverged run was lost.

`study.outcomes.judge` says when a run that had learned lost it; of a run that never learned, its `diverged_at_step` is
0. Where losses are recorded, both are found alike: the onset, from which the loss left that of a healthy run for good
(`study.outcomes.onset`). In the first steps every loss is above the constant's, so no run counts as lost before the
control first is healthy.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import tasks_of
from study.outcomes.gains import LEAST_POINTS, gains
from study.outcomes.onset import control_curve, floor, moments
from study.outcomes.recorded import RunLosses, losses_by_run
from study.record.definition import Definition

LOST_AT = "lost_at"
NEVER_LEARNED = "never_learned"


def with_onsets(
    runs: pd.DataFrame,
    every: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
    reference: Mapping[str, Mapping[str, Any]] | None = None,
    definition: Definition | None = None,
) -> pd.DataFrame:
    """Return the runs with the column lost_at: the step from which a diverged run was lost, else NaN.

    It is the onset if the losses of the run and of its control are there. Else it is `diverged_at_step`, and NaN for a
    run that never learned.

    Args:
        runs: One row a run (`analysis.load`).
        every: `study.record.tables.read_runs`, with the control.
        losses: `study.record.tables.read_losses`.
        reference: Model -> the control's "lr" and "gain", as in `analysis.report.page.write`.
        definition: Of the study.
    """
    diverged = runs["outcome"] == "diverged"
    known = diverged & (runs["reason"] != NEVER_LEARNED)
    lost = runs["diverged_at_step"].astype("Float64").astype(float).where(known)
    if every is not None and losses is not None and len(losses) and reference and definition is not None:
        found = _onsets(runs.loc[diverged], every, losses, reference, definition)
        at = pd.Series([found.get(run) for run in runs["run_id"]], index=runs.index, dtype=float)
        lost = at.fillna(lost)
    return runs.assign(**{LOST_AT: lost})


def are_known(
    runs: pd.DataFrame, losses: pd.DataFrame | None, reference: Mapping[str, Mapping[str, Any]] | None
) -> bool:
    """Return whether the losses of all diverged runs are there, and the references of their models.

    Args:
        runs, losses, reference: As in `with_onsets`.
    """
    diverged = runs.loc[runs["outcome"] == "diverged"]
    if losses is None or not reference:
        return False
    return bool((diverged["run_id"].isin(losses["run_id"]) & diverged["model"].isin(list(reference))).all())


def _onsets(
    diverged: pd.DataFrame,
    every: pd.DataFrame,
    losses: pd.DataFrame,
    reference: Mapping[str, Mapping[str, Any]],
    definition: Definition,
) -> dict[str, int]:
    tasks = [task["name"] for task in tasks_of(definition.data)]
    unit_K = np.array([task["constant_loss"] for task in tasks_of(definition.data)], dtype=float)

    def read(ids: pd.Series) -> dict[str, RunLosses]:
        return losses_by_run(losses.loc[losses["run_id"].isin(list(ids))], tasks)

    found = {}
    for model, control in reference.items():
        safe = np.isclose(every["lr"].to_numpy(dtype=float), float(control["lr"]), rtol=1e-6)
        own = read(every.loc[(every["role"] == "control") & (every["model"] == model) & safe, "run_id"])
        if not own:
            continue
        length = min(len(run.loss) for run in own.values())
        step_T = next(iter(own.values())).step
        curve_T = control_curve(np.stack([_gain(run, unit_K, float(control["gain"]))[:length] for run in own.values()]))
        healthy = int(np.argmax(curve_T >= floor(curve_T, definition.study.rule)))
        for run_id, run in read(diverged.loc[diverged["model"] == model, "run_id"]).items():
            if len(run.loss) > length or not _same_steps(run, step_T):
                continue
            points = definition.study.rule.median_steps
            if run.step is not None:
                points = max(1, LEAST_POINTS, round(points * len(run.step) / (int(run.step[-1]) + 1))) | 1  # odd
            rule = dataclasses.replace(definition.study.rule, median_steps=points)
            at = moments(_gain(run, unit_K, float(control["gain"])), curve_T, rule)
            if at is not None:
                lost = max(at.rising, healthy)
                found[run_id] = lost if run.step is None else int(run.step[min(lost, len(run.step) - 1)])
    return found


def _gain(run: RunLosses, unit_K: np.ndarray, reference: float) -> np.ndarray:
    """Gains in units of the reference gain, (T,); minus infinity where a loss is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        gain_T = gains(run.loss[None], run.constant[None], unit_K)[0, :, 0] / reference
    return np.where(np.isnan(gain_T), -math.inf, gain_T)


def _same_steps(run: RunLosses, step_T: np.ndarray | None) -> bool:
    if run.step is None or step_T is None:
        return run.step is None and step_T is None
    return len(run.step) <= len(step_T) and bool((run.step == step_T[: len(run.step)]).all())
