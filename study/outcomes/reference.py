"""The reference: the control's safe lr and what it learns there, the scale on which runs are judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from study.config import Rule
from study.outcomes.gains import falls, gains, median_of_last_axis, trailing_median, window_starts


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the control learns: the scale on which every run of the same data, model and recipe is judged.

    Args:
        lr: The safe lr.
        gain: G of the training loss.
        task_gain: G of each task; None if the task is not learnable.
        moved: Median distance of the control's networks from their start; None if it was not measured.
        first_loss: Each task's loss at initialization, where runs are judged against it; else None.
    """

    lr: float
    gain: float
    task_gain: tuple[float | None, ...]
    moved: float | None = None
    first_loss: tuple[float, ...] | None = None


def control_reference(
    lrs_R: Sequence[float] | np.ndarray,
    seeds_R: Sequence[int] | np.ndarray,
    loss_RTK: Sequence[np.ndarray] | np.ndarray,
    constant_RTK: Sequence[np.ndarray] | np.ndarray,
    constant_loss_K: np.ndarray,
    rule: Rule,
    moved_R: Sequence[float] | np.ndarray | None = None,
    *,
    step_RT: Sequence[np.ndarray | None] | None = None,
) -> Reference:
    """Return the safe lr and its gains, from the control's runs: untreated, a few seeds at every lr of a ladder.

    The final gain of an lr is the median over seeds of g at the last step. An lr is safe if all losses are finite, and
    no seed's g falls below its best by more than `control_fall` of the final gain and more than `control_noise`
    standard errors of g. (Where little is learned, the noise of batches alone makes g fall by a quarter, at every lr.)
    The reference is the safe lr with the highest final gain; of equals, the lower. A task is learnable if its final
    gain is positive and at least `learnable_errors` standard errors, std(ddof=1) / sqrt(seeds).

    Args:
        lrs_R: Learning rate of each run.
        seeds_R: Seed of each run; at least two at every lr.
        loss_RTK: Losses, as in `gains`, of each run; runs may differ in length.
        constant_RTK: Losses of the constant predictor, as in `gains`.
        constant_loss_K: Mean losses of the constant predictor.
        moved_R: Distance of each network from its start, if it was measured.
        step_RT: Numbers of each run's logged steps; None is every step.

    Raises:
        ValueError: If the training loss is not learnable, no lr is safe, an lr has fewer than two seeds, or as `gains`.
    """
    lrs = np.asarray(lrs_R, np.float64)
    seeds = np.asarray(seeds_R)
    if not len(lrs) == len(seeds) == len(loss_RTK):
        raise ValueError(f"need an lr and a seed for each of {len(loss_RTK)} runs, got {len(lrs)} and {len(seeds)}")
    if not len(lrs):
        raise ValueError("the control has no runs")
    for lr in np.unique(lrs):
        here = seeds[lrs == lr]
        if len(np.unique(here)) < max(2, len(here)):
            raise ValueError(f"the control needs two or more different seeds at lr={lr:g}, got {here.tolist()}")

    step_RT = [None] * len(lrs) if step_RT is None else step_RT
    ends = [
        _end_of_run(gains(loss[None], constant[None], constant_loss_K), step_T, rule)
        for loss, constant, step_T in zip(loss_RTK, constant_RTK, step_RT, strict=True)
    ]
    final_RC, fall_R = np.stack([final_C for final_C, _ in ends]), np.array([fall for _, fall in ends])
    ladder = []
    for lr in np.unique(lrs):
        final_C = median_of_last_axis(final_RC[lrs == lr].T)
        ladder.append((float(final_C[0]), -float(lr), float(fall_R[lrs == lr].max())))

    best, negative_lr, _ = max(ladder)
    if best <= 0:
        raise ValueError(
            f"the training loss is not learnable here: at no lr does the control beat the best constant predictor"
            f" (its best gain is {best:.3g}, at lr={-negative_lr:g})"
        )
    safe = [step for step in ladder if step[0] > 0 and step[2] <= rule.control_fall * step[0]]
    if not safe:
        raise ValueError(
            f"no lr of the control's ladder is safe: from {lrs.min():g} to {lrs.max():g}, the gain falls by more than"
            f" {rule.control_fall:g} of what is learned"
        )
    lr = -max(safe)[1]
    final_CS = final_RC[lrs == lr].T
    gain_C = median_of_last_axis(final_CS)
    error_C = final_CS.std(axis=1, ddof=1) / math.sqrt(final_CS.shape[1])
    learnable_C = (gain_C > 0) & (gain_C >= rule.learnable_errors * error_C)
    if not learnable_C[0]:
        raise ValueError(
            f"the training loss is not learnable here: at lr={lr:g} the control gains {gain_C[0]:.3g}, less than"
            f" {rule.learnable_errors:g} standard errors of {error_C[0]:.3g}"
        )
    task_gain = (float(g) if yes else None for g, yes in zip(gain_C[1:], learnable_C[1:], strict=True))
    moved = None if moved_R is None else float(np.median(np.asarray(moved_R, np.float64)[lrs == lr]))
    return Reference(lr=lr, gain=float(gain_C[0]), task_gain=tuple(task_gain), moved=moved)


def _end_of_run(d_1TC: np.ndarray, step_T: np.ndarray | None, rule: Rule) -> tuple[np.ndarray, float]:
    """Return the final gains (C,) of a run, and how far its g fell below its best beyond noise.

    A run with a loss that is not finite has gained minus infinity.
    """
    if not np.isfinite(d_1TC).all():
        return np.full(d_1TC.shape[2], -np.inf), math.inf
    g_1TC = trailing_median(d_1TC, rule.median_steps, step_T)
    T = d_1TC.shape[1]
    whole, points = min(rule.median_steps, T) - 1, rule.median_steps
    if step_T is not None:
        whole = min(int(np.searchsorted(step_T, step_T[0] + rule.median_steps - 1)), T - 1)
        points = T - int(window_starts(T, rule.median_steps, step_T)[-1])
    fall = float(falls(g_1TC[:, whole:, 0]).max())
    noise = float(_errors(d_1TC[:, :, 0], points)[0])
    return g_1TC[0, -1], 0.0 if fall <= rule.control_noise * noise else fall


def _errors(d_RT: np.ndarray, steps: int) -> np.ndarray:
    """Return the standard error (R,) of a median of `steps` gains, from differences of neighbouring gains."""
    if d_RT.shape[1] < 2:
        return np.zeros(len(d_RT))
    with np.errstate(invalid="ignore"):
        differences = np.nan_to_num(np.abs(np.diff(d_RT, axis=1)), nan=0.0, posinf=0.0)
    # A normal variable's median absolute value is 0.6745 of its deviation; a difference deviates sqrt(2) times as
    # much as its terms; a median of n deviates sqrt(pi / 2n) times as much as its terms.
    deviation = np.median(differences, axis=1) / (0.6745 * math.sqrt(2))
    return deviation * math.sqrt(math.pi / (2 * steps))
