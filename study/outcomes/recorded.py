"""Outcomes of recorded runs: from tables of losses to arrays, and to outcomes under another rule."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from study.config import Rule
from study.outcomes.judge import Outcome, judge
from study.outcomes.reference import Reference


def stack_losses(losses: Any, tasks: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Return recorded losses as arrays, in the order of the record.

    Args:
        losses: A table from `study.record.tables.read_losses`.
        tasks: Names of the tasks.

    Returns:
        Run ids, loss_RTK, constant_RTK (float32) and steps_R. A run that became non-finite is shorter than others: its
        losses are NaN up to the longest.

    Raises:
        ValueError: If a run lacks a task.
    """
    by_run: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for run, task, loss, constant in zip(
        losses["run_id"], losses["task"], losses["loss"], losses["constant"], strict=True
    ):
        by_run.setdefault(run, {})[task] = (np.asarray(loss, np.float32), np.asarray(constant, np.float32))
    for run, parts in by_run.items():
        missing = [task for task in tasks if task not in parts]
        if missing:
            raise ValueError(f"the losses of run {run[:12]} lack {', '.join(missing)}")
    steps_R = np.array([len(parts[tasks[0]][0]) for parts in by_run.values()], int)
    shape = (len(by_run), int(steps_R.max(initial=0)), len(tasks))
    loss_RTK = np.full(shape, np.nan, np.float32)
    constant_RTK = np.ones(shape, np.float32)
    for r, parts in enumerate(by_run.values()):
        for k, task in enumerate(tasks):
            loss, constant = parts[task]
            loss_RTK[r, : len(loss), k] = loss
            constant_RTK[r, : len(loss), k] = constant[: len(loss)]
    return list(by_run), loss_RTK, constant_RTK, steps_R


def judge_recorded(
    losses: Any,
    tasks: Sequence[str],
    constant_loss_K: np.ndarray,
    lost_weights: Collection[str],
    reference: Reference,
    rule: Rule,
    moved: Mapping[str, float] | None = None,
) -> dict[str, Outcome]:
    """Return the outcomes of recorded runs under another rule: run id -> Outcome.

    Args:
        losses: A table from `study.record.tables.read_losses`.
        tasks: Names of the tasks.
        constant_loss_K: Mean losses of the constant predictor.
        lost_weights: Ids of the runs that ended with non-finite weights (reason "nonfinite" and no `kept`).
        reference: Under the new rule, too.
        rule: The new rule.
        moved: Distance of each network from its start, by run id; NaN or absent if unknown.
    """
    ids, loss_RTK, constant_RTK, steps_R = stack_losses(losses, tasks)
    outcomes: dict[str, Outcome] = {}
    for steps in np.unique(steps_R):
        rows = np.flatnonzero(steps_R == steps)
        finite_R = [ids[r] not in lost_weights for r in rows]
        far_R = None if moved is None else [moved.get(ids[r], math.nan) for r in rows]
        judged = judge(
            loss_RTK[rows, :steps], constant_RTK[rows, :steps], constant_loss_K, finite_R, reference, rule, far_R
        )
        outcomes |= zip((ids[r] for r in rows), judged, strict=True)
    return {run: outcomes[run] for run in ids}
