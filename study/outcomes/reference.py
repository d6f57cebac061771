"""The reference: the control's safe lr and what it learns there, the scale on which runs are judged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from study.config import Rule
from study.outcomes.common_course import falls_beyond_common
from study.outcomes.gains import gains, median_of_last_axis, trailing_median, window_starts

RISES = 1.25
"""The gain still rises at the highest lr if it is more than this many times the gain at half of that lr."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What the control learns: the scale on which every run of the same data, model and recipe is judged.

    Args:
        lr: The safe lr.
        gain: G of the training loss.
        task_gain: G of each task; None if the task is not learnable.
        moved: Median distance of the control's networks from their start; None if it was not measured.
        first_loss: Each task's loss at initialization, where runs are judged against it; else None.
        noise: Standard error of a run's g, from the noise of batches; None if it was not measured.
        rises: Whether `lr` is the control's highest, and its gain is more than `RISES` times that at half of it.
    """

    lr: float
    gain: float
    task_gain: tuple[float | None, ...]
    moved: float | None = None
    first_loss: tuple[float, ...] | None = None
    noise: float | None = None
    rises: bool = False


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
    no seed's g falls below its best, beyond the common course (`study.outcomes.common_course`), by more than
    `control_fall` of the final gain and more than `control_noise` standard errors of g. (Where little is learned, the
    noise of batches alone makes g fall by a quarter, at every lr.)
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
    for lr in np.unique(lrs):
        here = seeds[lrs == lr]
        if len(np.unique(here)) < max(2, len(here)):
            raise ValueError(f"the control needs two or more different seeds at lr={lr:g}, got {here.tolist()}")

    step_RT = [None] * len(lrs) if step_RT is None else step_RT
    runs = [
        _Course.of(gains(loss[None], constant[None], constant_loss_K), step_T, rule)
        for loss, constant, step_T in zip(loss_RTK, constant_RTK, step_RT, strict=True)
    ]
    final_RC = np.stack([run.final for run in runs])
    median_of = {float(lr): float(median_of_last_axis(final_RC[lrs == lr, 0])) for lr in np.unique(lrs)}
    best_lr = max(median_of, key=lambda lr: (median_of[lr], -lr))
    if median_of[best_lr] <= 0:
        raise ValueError(_not_learned(median_of[best_lr], best_lr, runs))

    fall_R = _falls_beyond_common(lrs, runs, rule.median_steps)
    fall_of = {lr: float(fall_R[lrs == lr].max()) for lr in median_of}
    safe = [lr for lr, gain in median_of.items() if gain > 0 and fall_of[lr] <= rule.control_fall * gain]
    if not safe:
        raise ValueError(_not_safe(median_of, fall_of, rule))
    lr = max(safe, key=lambda lr: (median_of[lr], -lr))
    final_CS = final_RC[lrs == lr].T
    gain_C = median_of_last_axis(final_CS)
    error_C = final_CS.std(axis=1, ddof=1) / math.sqrt(final_CS.shape[1])
    learnable_C = (gain_C > 0) & (gain_C >= rule.learnable_errors * error_C)
    if not learnable_C[0]:
        raise ValueError(
            f"the training loss is not learnable here: at lr={lr:g} the control gains {gain_C[0]:.3g}, less than"
            f" {rule.learnable_errors:g} standard errors of {error_C[0]:.3g}; {_SET}, or a smaller"
            " rule.learnable_errors"
        )
    task_gain = (float(g) if yes else None for g, yes in zip(gain_C[1:], learnable_C[1:], strict=True))
    moved = None if moved_R is None else float(np.median(np.asarray(moved_R, np.float64)[lrs == lr]))
    noise = float(np.median([run.noise for run, at in zip(runs, lrs, strict=True) if at == lr])) / rule.control_noise
    rises = lr == max(median_of) and median_of[lr] > RISES * median_of.get(lr / 2, math.inf)
    gain, of_tasks = float(gain_C[0]), tuple(task_gain)
    return Reference(lr=lr, gain=gain, task_gain=of_tasks, moved=moved, noise=noise, rises=rises)


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How the gain of a run went.

    Args:
        final: Gains at the end, (C,); minus infinity if a loss is not finite.
        g: Trailing median gains of the training loss, (T,).
        step: Numbers of their steps, (T,).
        whole: Place in them from which windows are whole.
        noise: The largest fall that is noise.
    """

    final: np.ndarray
    g: np.ndarray
    step: np.ndarray
    whole: int
    noise: float

    @classmethod
    def of(cls, d_1TC: np.ndarray, step_T: np.ndarray | None, rule: Rule) -> "_Course":
        T = d_1TC.shape[1]
        whole, points = min(rule.median_steps, T) - 1, rule.median_steps
        if step_T is not None:
            whole = min(int(np.searchsorted(step_T, step_T[0] + rule.median_steps - 1)), T - 1)
            points = T - int(window_starts(T, rule.median_steps, step_T)[-1])
        g_1TC = trailing_median(d_1TC, rule.median_steps, step_T)
        return cls(
            final=g_1TC[0, -1] if np.isfinite(d_1TC).all() else np.full(d_1TC.shape[2], -np.inf),
            g=g_1TC[0, :, 0],
            step=np.arange(T) if step_T is None else np.asarray(step_T),
            whole=whole,
            noise=rule.control_noise * float(_errors(d_1TC[:, :, 0], points)[0]),
        )

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.final).all())


def _falls_beyond_common(lrs: np.ndarray, runs: Sequence[_Course], window: int) -> np.ndarray:
    """Return how far each run fell beyond noise and the common course; infinity if a loss is not finite."""
    finite_R = np.array([run.finite for run in runs])
    own, fall_R = [run for run in runs if run.finite], np.full(len(runs), math.inf)
    noise = np.array([run.noise for run in own])
    whole = np.array([run.step[run.whole] for run in own])
    found = falls_beyond_common(lrs[finite_R], [run.g for run in own], [run.step for run in own], noise, whole, window)
    fall_R[finite_R] = np.where(found <= noise, 0.0, found)
    return fall_R


def _not_safe(median_of: Mapping[float, float], fall_of: Mapping[float, float], rule: Rule) -> str:
    """Return why no lr is safe, and what to set."""
    share_of = {lr: fall_of[lr] / gain for lr, gain in median_of.items() if gain > 0}
    lr = min(share_of, key=lambda lr: (share_of[lr], lr))
    least = f"least at lr={lr:g}, by {share_of[lr]:.2g}" if math.isfinite(share_of[lr]) else "or the loss is not finite"
    return (
        f"no lr of the control's ladder is safe: from {min(median_of):g} to {max(median_of):g}, the gain falls by more "
        f"than {rule.control_fall:g} of what is learned ({least}); set lower control_lrs, a larger rule.control_fall, "
        "or steps that end before the fall"
    )


def _not_learned(gain: float, lr: float, runs: Sequence[_Course]) -> str:
    """Return that the control beats no constant, and what to set."""
    steps = max(int(run.step[-1]) + 1 for run in runs)
    best = max((run for run in runs if run.finite), key=lambda run: float(run.g.max()), default=None)
    once = ""
    if best is not None and float(best.g.max()) > best.noise and best.g.argmax() >= best.whole:
        once = f"; it was {best.g.max():.3g} at step {int(best.step[best.g.argmax()])}"
    return (
        "the training loss is not learnable here: at no lr does the control beat the best constant predictor (its best"
        f" gain after {steps} steps is {gain:.3g}, at lr={lr:g}{once}); {_SET_FEWER if once else _SET}"
    )


_SET_FEWER = "set steps that end before it is lost, or lower control_lrs"
_SET = "set more steps, or higher control_lrs where the network learns slowly"


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
