"""Gains: how much lower a run's loss is than that of the best constant predictor, paired on the same batch.

    d_t = (c_t - loss_t) / c            the gain at step t; c_t is the constant's loss on the batch, c its mean loss
    g_t = median(d_{t-24} ... d_t)      its trailing median; the windows of the first steps are shorter

A loss that is not finite has gain minus infinity. Letters: R runs, T steps, K tasks, C = 1 + K columns: the training
loss (the sum over tasks), then each task.
"""

from typing import Any

import numpy as np


def gains(loss_RTK: np.ndarray, constant_RTK: np.ndarray, constant_loss_K: np.ndarray) -> np.ndarray:
    """Return d_t of the training loss and of every task, float64 (R, T, 1 + K).

    Args:
        loss_RTK: Each task's mean loss on the batch of each step, before its update.
        constant_RTK: The loss of the best constant predictor on the same batches.
        constant_loss_K: The constant's mean loss over the training part.

    Returns:
        Gains. Column 0 is the sum over tasks, in units of the sum of `constant_loss_K`.

    Raises:
        ValueError: If the shapes do not agree, or a mean loss of the constant is not positive.
    """
    loss_RTC, constant_RTC, unit_C = checked_columns(loss_RTK, constant_RTK, constant_loss_K)
    return gains_of_columns(loss_RTC, constant_RTC, unit_C)


LEAST_POINTS = 3
"""Least logged steps in the window of a median, where not every step is logged."""


def trailing_median(gain: np.ndarray, steps: int, step_T: np.ndarray | None = None) -> np.ndarray:
    """Return g_t, the median over the last `steps` steps; the first windows are shorter.

    Args:
        gain: (T,) or (R, T, ...). Minus infinity reaches the median once it fills half of a window.
        steps: Length of a window, at least 1.
        step_T: Numbers of the logged steps, increasing; None is every step. A window holds at least `LEAST_POINTS`
            logged steps, as far as there are so many.

    Returns:
        float64 of the same shape.
    """
    gain = np.asarray(gain, np.float64)
    if gain.ndim == 1:
        return trailing_median(gain[None], steps, step_T)[0]
    if step_T is not None:
        first_T = window_starts(gain.shape[1], steps, step_T)
        medians = [median_of_last_axis(np.moveaxis(gain[:, a : t + 1], 1, -1)) for t, a in enumerate(first_T)]
        return np.stack(medians, axis=1)
    by_time = np.ascontiguousarray(np.moveaxis(gain, 1, -1))
    median = np.empty_like(by_time)
    total = by_time.shape[-1]
    for t in range(min(steps - 1, total)):
        median[..., t] = median_of_last_axis(by_time[..., : t + 1])
    # A block at a time: a partition copies every window.
    block = max(1, 4_000_000 // (steps * max(1, by_time[..., 0].size)))
    for start in range(steps - 1, total, block):
        stop = min(start + block, total)
        windows = np.lib.stride_tricks.sliding_window_view(by_time[..., start - steps + 1 : stop], steps, axis=-1)
        median[..., start:stop] = median_of_last_axis(windows)
    return np.moveaxis(median, -1, 1)


def window_starts(T: int, steps: int, step_T: np.ndarray | None = None) -> np.ndarray:
    """Return the position of the first logged step of each trailing window of `steps` steps, as `trailing_median`."""
    if step_T is None:
        return np.maximum(np.arange(T) - steps + 1, 0)
    by_steps = np.searchsorted(step_T, np.asarray(step_T) - steps, side="right")
    return np.minimum(by_steps, np.maximum(np.arange(T) - LEAST_POINTS + 1, 0))


def checked_columns(
    loss_RTK: Any, constant_RTK: Any, constant_loss_K: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return losses, constant and unit with the sum over tasks as column 0. Raises ValueError for wrong shapes."""
    loss, constant, unit = (np.asarray(a, np.float64) for a in (loss_RTK, constant_RTK, constant_loss_K))
    if loss.ndim != 3 or constant.shape != loss.shape or unit.shape != loss.shape[2:]:
        raise ValueError(
            f"need losses (runs, steps, tasks), the constant's of the same shape, and its mean loss of each task;"
            f" got {loss.shape}, {constant.shape} and {unit.shape}"
        )
    if loss.shape[1] < 1 or loss.shape[2] < 1:
        raise ValueError(f"need at least one step and one task, got {loss.shape[1]} and {loss.shape[2]}")
    if not (np.isfinite(unit).all() and (unit > 0).all()):
        raise ValueError(f"need a positive constant_loss of each task, got {unit.tolist()}")
    if not np.isfinite(constant).all():
        raise ValueError("the best constant predictor's loss is not finite on some batch")
    with np.errstate(invalid="ignore"):
        return _with_total(loss), _with_total(constant), _with_total(unit)


def _with_total(values: np.ndarray) -> np.ndarray:
    # Task by task: the order of a library's sum may depend on the shape, and with it the last bit of a run.
    total = values[..., 0].copy()
    for k in range(1, values.shape[-1]):
        total += values[..., k]
    return np.concatenate([total[..., None], values], axis=-1)


def gains_of_columns(loss: np.ndarray, constant: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Return the gains of arrays that agree in shape."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(np.isfinite(loss), (constant - loss) / unit, -np.inf)


def median_of_last_axis(values: np.ndarray) -> np.ndarray:
    """Return the median over the last axis. (`np.median` warns of infinities.)"""
    count = values.shape[-1]
    high = count // 2
    if count % 2:
        return np.partition(values, high, axis=-1)[..., high]
    parted = np.partition(values, (high - 1, high), axis=-1)
    return (parted[..., high - 1] + parted[..., high]) / 2


def falls(h: np.ndarray) -> np.ndarray:
    """Return how far h lies below its best so far (time is axis 1); 0 before the first finite value."""
    best = np.maximum.accumulate(h, axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(best), best - h, 0.0)
