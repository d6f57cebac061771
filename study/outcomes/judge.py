"""Outcomes: the rule that calls a run diverged, undertrained or completed.

    h_t = g_t / G                             the trailing median gain in units of the reference gain G
    kept = h_T                                at the last step

    nonfinite      a loss or weight is not finite
    collapsed      kept < 0.25, and max h >= 0.5
    never_learned  kept < 0.25, and max h < 0.5
    undertrained   kept < 0.25, but h never fell more than 0.25 below its best, rose by at least 0.05 in the last
                   quarter, and the loss never exceeded twice its first value; or the network moved less than half
                   as far from its start as the control's. Slow, not unstable, hence not diverged. Where no distance
                   is known, an lr up to the control's safe one counts like the rise in the last quarter
    exploded       the trailing median of the loss is above twice its first value at the end
    declared       the trainer says that the run diverged: a loop that ended itself
    completed      every other run
    episode        a micro divergence: a stretch of steps with h more than 0.25 below its best, at its deepest 0.5 or
                   more, that ends before the run does. Falls count from step 24 on, when windows are whole
    spike          a step whose d_t / G lies 1 or more below h_t

The numbers are `study.config.Rule`. A value exactly at a threshold counts as good (`kept`, `slow_*`), or as an event
(`once_had`, `micro_fall`, `spike`).

The distance from the start separates a slow run from a dead one, where losses cannot: both stay flat. (On real data,
dead networks had moved 2 to 100 times as far as the control's, runs at an lr under 0.002 less than a fifth as far.) A
run that a method returned to a snapshot has no such distance; only its losses can show that it is slow.

"Twice its first value" is paired: loss_t / c_t against loss_0 / c_0. The loss of a rare task on one batch is often
twice that on another, only because the batch holds twice the positives.

Source: our definition. It states in numbers what Tang et al. show as divergences and micro-divergences in "Improving
Training Stability for Multitask Ranking Models in Recommender Systems", KDD 2023 (arXiv 2302.09178).

Letters: R runs, T steps, K tasks, C = 1 + K columns: the training loss (the sum over tasks), then each task.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from study.config import Rule, canonical_json
from study.outcomes.gains import (
    checked_columns,
    falls,
    gains_of_columns,
    median_of_last_axis,
    trailing_median,
    window_starts,
)
from study.outcomes.reference import Reference

LEAST_POINTS_SLOW = 20
"""A run with fewer logged steps is not called slow: the last quarter would hold less than five."""

Episode = tuple[int, float | None, int]
"""A micro divergence: its first step, its deepest fall in units of G (None where that is not finite), its steps."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of one run, in plain JSON-able values.

    Args:
        outcome: completed, diverged or undertrained.
        reason: nonfinite, collapsed, never_learned, exploded or declared; None unless diverged.
        diverged_at_step: None unless diverged. For `nonfinite`, the first step whose loss is not finite, or the last
            step if only the weights are not. Otherwise the first step of the last stretch with h below `kept`; 0 for a
            run that never reached it.
        micro_episodes: Number of micro divergences of the training loss.
        episodes: Start, depth and length of each.
        spikes: Number of spikes of the training loss.
        final_loss: Mean training loss over the last `median_steps` steps; None if it or a weight is not finite.
        kept: h at the last step; None if it or a weight is not finite.
        task_kept: The same for each task; None also if the task is not learnable.
        task_diverged: By the same rule on the task's loss; None if the task is not learnable.
    """

    outcome: str
    reason: str | None
    diverged_at_step: int | None
    micro_episodes: int
    episodes: tuple[Episode, ...]
    spikes: int
    final_loss: float | None
    kept: float | None
    task_kept: tuple[float | None, ...]
    task_diverged: tuple[bool | None, ...]

    def columns(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Return the columns of one row of the record (`study.record.schema`), with those of each task."""
        columns = {f.name: getattr(self, f.name) for f in fields(self) if not f.name.startswith("task_")}
        columns["episodes"] = canonical_json([list(episode) for episode in self.episodes])
        for task, kept, diverged in zip(tasks, self.task_kept, self.task_diverged, strict=True):
            columns |= {f"kept_{task}": kept, f"diverged_{task}": diverged}
        return columns


def judge(
    loss_RTK: np.ndarray,
    constant_RTK: np.ndarray,
    constant_loss_K: np.ndarray,
    finite_weights_R: Sequence[bool] | np.ndarray,
    reference: Reference,
    rule: Rule,
    moved_R: Sequence[float] | np.ndarray | None = None,
    *,
    step_T: np.ndarray | None = None,
    declared_R: Sequence[bool] | np.ndarray | None = None,
    lr_R: Sequence[float] | None = None,
) -> list[Outcome]:
    """Return the outcome of each run. A run alone has the same outcome, bit for bit.

    Args:
        loss_RTK: Losses, as in `gains`; T is the number of trained steps.
        constant_RTK: Losses of the constant predictor, as in `gains`.
        constant_loss_K: Mean losses of the constant predictor.
        finite_weights_R: Whether all weights are finite after the last step.
        reference: What the control learns.
        moved_R: Distance of each network from its start, NaN if unknown. Without it, or without the reference's, only
            the losses can show that a run is slow.
        step_T: Numbers of the logged steps; None is every step. T is then the number of logged steps.
        declared_R: Runs of which the trainer says that they diverged.
        lr_R: Learning rate of each run, used only where `moved_R` is not given.

    Raises:
        ValueError: If the shapes do not agree, or a reference gain is not positive.
    """
    loss_RTC, constant_RTC, unit_C = checked_columns(loss_RTK, constant_RTK, constant_loss_K)
    finite_R = np.asarray(finite_weights_R, bool)
    if finite_R.shape != loss_RTC.shape[:1]:
        raise ValueError(f"need finite_weights of {loss_RTC.shape[0]} runs, got shape {finite_R.shape}")
    if len(reference.task_gain) != loss_RTC.shape[2] - 1:
        raise ValueError(f"the reference has {len(reference.task_gain)} tasks, the losses have {loss_RTC.shape[2] - 1}")
    G_C = np.array([reference.gain, *(math.nan if g is None else g for g in reference.task_gain)])
    if not (math.isfinite(reference.gain) and np.all((G_C > 0) | np.isnan(G_C))):
        raise ValueError(f"need reference gains > 0, got {reference.gain:g} and {reference.task_gain}")
    begun_R = np.ones(len(loss_RTC), bool)
    if moved_R is not None and reference.moved is not None:
        begun_R = ~(np.asarray(moved_R, np.float64) < rule.slow_moved * reference.moved)
    d_RTC = gains_of_columns(loss_RTC, constant_RTC, unit_C)
    g_RTC = trailing_median(d_RTC, rule.median_steps, step_T)
    declared_R = np.zeros(len(loss_RTC), bool) if declared_R is None else np.asarray(declared_R, bool)
    return outcomes_of_gains(
        loss_RTC,
        constant_RTC,
        d_RTC,
        g_RTC,
        finite_R,
        begun_R,
        G_C,
        rule,
        step_T=step_T,
        declared_R=declared_R,
        safe_lr_R=None if lr_R is None or moved_R is not None else np.asarray(lr_R) <= reference.lr,
    )


def outcomes_of_gains(
    loss_RTC: np.ndarray,
    constant_RTC: np.ndarray,
    d_RTC: np.ndarray,
    g_RTC: np.ndarray,
    finite_weights_R: np.ndarray,
    begun_R: np.ndarray,
    G_C: np.ndarray,
    rule: Rule,
    *,
    step_T: np.ndarray | None = None,
    declared_R: np.ndarray | None = None,
    safe_lr_R: np.ndarray | None = None,
) -> list[Outcome]:
    """Return the outcomes of runs whose gains (d) and trailing medians (g) are known. G_C is NaN if not learnable."""
    R, T, _ = loss_RTC.shape
    enough = step_T is None or T >= LEAST_POINTS_SLOW
    start_T, logged_T = window_starts(T, rule.median_steps, step_T), step_T
    step_T = np.arange(T) if step_T is None else np.asarray(step_T)
    whole = min(int(np.searchsorted(step_T, step_T[0] + rule.median_steps - 1)), T - 1)
    quarter = max(1, round(rule.slow_rise_steps * (int(step_T[-1]) + 1)))
    before = max(int(np.searchsorted(step_T, step_T[-1] - quarter, side="right")) - 1, 0)
    with np.errstate(invalid="ignore"):
        h_RTC = np.where(np.isneginf(g_RTC), g_RTC, g_RTC / G_C)
        depth_RT = np.where(np.isfinite(h_RTC[:, :, 0]), h_RTC[:, :, 0] - d_RTC[:, :, 0] / G_C[0], 0.0)
        fall_RTC = np.zeros_like(h_RTC)
        fall_RTC[:, whole:] = falls(h_RTC[:, whole:])
        kept_RC = h_RTC[:, -1]
        rise_RC = kept_RC - h_RTC[:, before]
        # Cross-multiplied: the constant's loss on a batch may be 0.
        excess_RTC = loss_RTC * constant_RTC[:, :1] - rule.slow_loss * loss_RTC[:, :1] * constant_RTC
        grew_RC = (excess_RTC > 0).any(axis=1)
        exploded_RC = median_of_last_axis(np.moveaxis(excess_RTC[:, start_T[-1] :], 1, -1)) > 0

    finite_loss_RTC = np.isfinite(loss_RTC)
    nonfinite_RC = ~finite_loss_RTC.all(axis=1) | ~finite_weights_R[:, None]
    rises_RC = rise_RC >= rule.slow_rise
    if safe_lr_R is not None:
        rises_RC |= safe_lr_R[:, None]
    slow_RC = (fall_RTC.max(axis=1) <= rule.slow_fall) & rises_RC & ~grew_RC & enough | ~begun_R[:, None]
    low_RC = kept_RC < rule.kept
    lost_RC = low_RC & ~slow_RC
    diverged_RC = nonfinite_RC | lost_RC | exploded_RC
    if declared_R is not None:
        diverged_RC[:, 0] |= declared_R
    once_had_R = h_RTC[:, :, 0].max(axis=1) >= rule.once_had
    spikes_R = (depth_RT >= rule.spike).sum(axis=1).tolist()
    deep_R = ~(fall_RTC[:, :, 0].max(axis=1) < rule.micro_fall)
    kept_R, learnable_K = kept_RC.tolist(), [not math.isnan(G) for G in G_C[1:]]
    diverged_R = diverged_RC.tolist()

    outcomes = []
    for r in range(R):
        outcome, reason, at_step = ("undertrained" if low_RC[r, 0] else "completed"), None, None
        if nonfinite_RC[r, 0]:
            outcome, reason = "diverged", "nonfinite"
            bad = np.flatnonzero(~finite_loss_RTC[r, :, 0])
            at_step = int(step_T[bad[0] if len(bad) else T - 1])
        elif lost_RC[r, 0]:
            outcome, reason = "diverged", "collapsed" if once_had_R[r] else "never_learned"
            alive = np.flatnonzero(h_RTC[r, :, 0] >= rule.kept)
            at_step = int(step_T[min(alive[-1] + 1, T - 1)]) if len(alive) else 0
        elif exploded_RC[r, 0]:
            outcome, reason = "diverged", "exploded"
            below = np.flatnonzero(~exploded_steps(loss_RTC[r, :, 0], rule, constant_RTC[r, :, 0], logged_T))
            at_step = int(step_T[below[-1] + 1]) if len(below) else 0
        elif diverged_RC[r, 0]:
            outcome, reason, at_step = "diverged", "declared", int(step_T[-1])
        episodes = _episodes(fall_RTC[r, :, 0], step_T, rule) if deep_R[r] else ()
        last = loss_RTC[r, start_T[-1] :, 0]
        kept = [finite_or_none(k) if finite_weights_R[r] else None for k in kept_R[r]]
        outcomes.append(
            Outcome(
                outcome=outcome,
                reason=reason,
                diverged_at_step=at_step,
                micro_episodes=len(episodes),
                episodes=episodes,
                spikes=spikes_R[r],
                final_loss=_mean(last) if finite_weights_R[r] else None,
                kept=kept[0],
                task_kept=tuple(kept[1:]),
                task_diverged=tuple(
                    yes if learnable else None for learnable, yes in zip(learnable_K, diverged_R[r][1:], strict=True)
                ),
            )
        )
    return outcomes


def exploded_steps(
    loss_T: np.ndarray, rule: Rule, constant_T: np.ndarray | None = None, step_T: np.ndarray | None = None
) -> np.ndarray:
    """Return where the trailing median of a loss lies above `slow_loss` times the first loss, bool (T,).

    Args:
        loss_T: The training loss.
        rule: Numbers of the definition.
        constant_T: The losses that it is paired with: loss / constant is compared; None is a constant number.
        step_T: Numbers of the logged steps; None is every step.
    """
    loss_T = np.asarray(loss_T, np.float64)
    constant_T = np.ones(len(loss_T)) if constant_T is None else constant_T
    excess_T = loss_T * constant_T[0] - rule.slow_loss * loss_T[0] * constant_T
    return trailing_median(excess_T, rule.median_steps, step_T) > 0


def final_loss(loss_TK: np.ndarray, rule: Rule, step_T: np.ndarray | None = None) -> float | None:
    """Return the mean training loss of a run's last `median_steps` steps; None if it is not finite."""
    first = window_starts(len(loss_TK), rule.median_steps, step_T)[-1]
    return _mean(np.asarray(loss_TK, np.float64).sum(axis=1)[first:])


def _mean(last: np.ndarray) -> float | None:
    # fsum: exact, so the same for every shape of the array.
    return math.fsum(last.tolist()) / len(last) if np.isfinite(last).all() else None


def _episodes(fall_T: np.ndarray, step_T: np.ndarray, rule: Rule) -> tuple[Episode, ...]:
    down = np.concatenate([[False], fall_T > rule.micro_recovery, [False]])
    starts, stops = np.flatnonzero(down[1:] & ~down[:-1]), np.flatnonzero(down[:-1] & ~down[1:])
    episodes = []
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        depth = float(fall_T[start:stop].max())
        if depth >= rule.micro_fall and stop < len(fall_T):
            first, last = int(step_T[start]), int(step_T[stop])
            episodes.append((first, finite_or_none(depth), last - first))
    return tuple(episodes)


def finite_or_none(value: float) -> float | None:
    """Return the value, or None if it is not finite."""
    return float(value) if math.isfinite(value) else None
