"""Outcomes of recorded runs: from tables of losses to arrays, and to outcomes under another rule."""

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from study.config import Rule
from study.outcomes.judge import Outcome, judge
from study.outcomes.reference import Reference


@dataclass(frozen=True, kw_only=True)
class RunLosses:
    """The losses of one run (T logged steps, K tasks).

    Args:
        loss: float32 (T, K).
        constant: float32 (T, K), the losses that they are paired with.
        step: Numbers of the logged steps; None is every step.
    """

    loss: np.ndarray
    constant: np.ndarray
    step: np.ndarray | None = None


def losses_by_run(losses: Any, tasks: Sequence[str]) -> dict[str, RunLosses]:
    """Return recorded losses by run id, in the order of the record.

    Args:
        losses: A table from `study.record.tables.read_losses`.
        tasks: Names of the tasks.

    Raises:
        ValueError: If a run lacks a task.
    """
    names = ["run_id", "task", "loss", "constant", *(["step"] if "step" in losses else [])]
    by_run: dict[str, dict[str, Any]] = {}
    for run, task, *rest in zip(*(losses[name].to_numpy(dtype=object) for name in names), strict=True):
        by_run.setdefault(run, {})[task] = rest
    found = {}
    for run, parts in by_run.items():
        if missing := [task for task in tasks if task not in parts]:
            raise ValueError(f"the losses of run {run[:12]} lack {', '.join(missing)}")
        rows = [parts[task] for task in tasks]
        steps, step = len(rows[0][0]), rows[0][2] if "step" in names else None
        found[run] = RunLosses(
            loss=np.stack([np.asarray(row[0], np.float32) for row in rows], axis=1),
            constant=np.stack([np.asarray(row[1][:steps], np.float32) for row in rows], axis=1),
            step=np.asarray(step, np.int64) if isinstance(step, np.ndarray | list) else None,
        )
    return found


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
    by_run = losses_by_run(losses, tasks)
    steps_R = np.array([len(run.loss) for run in by_run.values()], int)
    shape = (len(by_run), int(steps_R.max(initial=0)), len(tasks))
    loss_RTK = np.full(shape, np.nan, np.float32)
    constant_RTK = np.ones(shape, np.float32)
    for r, run in enumerate(by_run.values()):
        loss_RTK[r, : steps_R[r]] = run.loss
        constant_RTK[r, : steps_R[r]] = run.constant
    return list(by_run), loss_RTK, constant_RTK, steps_R


def judge_recorded(
    losses: Any,
    tasks: Sequence[str],
    constant_loss_K: np.ndarray,
    lost_weights: Collection[str],
    reference: Reference,
    rule: Rule,
    moved: Mapping[str, float] | None = None,
    declared: Collection[str] = (),
    lrs: Mapping[str, float] | None = None,
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
        declared: Ids of the runs of which the trainer says that they diverged.
        lrs: Learning rates by run id, used only without `moved`.
    """
    outcomes: dict[str, Outcome] = {}
    # All runs at once would take several times the memory of the losses.
    of_run, runs = losses["run_id"].factorize()
    order = np.argsort(of_run, kind="stable")
    ends = np.searchsorted(of_run[order], np.arange(0, len(runs) + RUNS_AT_ONCE, RUNS_AT_ONCE))
    for start, end in itertools.pairwise(ends.tolist()):
        by_run = losses_by_run(losses.iloc[order[start:end]], tasks)
        outcomes |= _judge_part(
            by_run, constant_loss_K, lost_weights, reference, rule, moved=moved, declared=declared, lrs=lrs
        )
    return outcomes


RUNS_AT_ONCE = 500


def _judge_part(
    by_run: Mapping[str, RunLosses],
    constant_loss_K: np.ndarray,
    lost_weights: Collection[str],
    reference: Reference,
    rule: Rule,
    *,
    moved: Mapping[str, float] | None,
    declared: Collection[str],
    lrs: Mapping[str, float] | None,
) -> dict[str, Outcome]:
    alike: dict[tuple[int, bytes], list[str]] = {}
    for run, own in by_run.items():
        key = len(own.loss), b"" if own.step is None else own.step.tobytes()
        alike.setdefault(key, []).append(run)
    outcomes: dict[str, Outcome] = {}
    for ids in alike.values():
        outcomes |= zip(
            ids,
            judge(
                np.stack([by_run[run].loss for run in ids]),
                np.stack([by_run[run].constant for run in ids]),
                constant_loss_K,
                [run not in lost_weights for run in ids],
                reference,
                rule,
                None if moved is None else [moved.get(run, math.nan) for run in ids],
                step_T=by_run[ids[0]].step,
                declared_R=[run in declared for run in ids],
                lr_R=None if lrs is None else [lrs[run] for run in ids],
            ),
            strict=True,
        )
    return {run: outcomes[run] for run in by_run}
