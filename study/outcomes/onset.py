"""The onset of a divergence: the step at which a run's loss left that of a healthy run for good.

    c_t        the control's gain in units of the reference gain G: the median over its seeds, then over 5 steps
    floor_t    kept * (2 min(max(c_t, 0), 1) - 1): from -0.25, before the control learns, to 0.25
    gone       the first step from which the gain stays below the floor, in the trailing median of 25 steps
    rising     the onset: the first step of the stretch around `gone` that is below the floor in the centred median of
               5 steps, or `gone` if there is none
    healthy    a step before the onset: as far before it as `gone` is after it, at least 5 steps, and not below 0

`study.outcomes.judge` states when a run was lost, but its `diverged_at_step` is 0 for a run that never reached a
quarter of G. Most runs diverge within about 20 steps of the warm-up, before any run has learned that much. The control
at the same step is the comparison that still works there. A trailing median of 25 steps shows a fall up to 12 steps
late, a centred median of 5 at most two.

In the first steps the random scores of a network shrink, and the loss of every run is above the constant's. So a run
that never rose above the floor has its onset at step 0.
"""

from dataclasses import dataclass

import numpy as np

from study.config import Rule
from study.outcomes.gains import trailing_median

SMOOTH = 5
"""Steps of the median that finds the onset."""

BEFORE = 5
"""Smallest number of steps between the healthy moment and the onset."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Three steps of a run that diverged.

    Args:
        healthy: A step before the onset.
        rising: The onset.
        gone: The first step from which the run stays lost.
    """

    healthy: int
    rising: int
    gone: int


def control_curve(gain_ST: np.ndarray) -> np.ndarray:
    """Return c_t, (T,).

    Args:
        gain_ST: Gains of the control at the reference lr in units of G, one row for each seed.
    """
    return centred_median(np.median(np.asarray(gain_ST, np.float64), axis=0), SMOOTH)


def floor(control_T: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the smallest gain of a healthy run at each step, in units of G, (T,)."""
    return rule.kept * (2 * np.clip(control_T, 0, 1) - 1)


def moments(gain_T: np.ndarray, control_T: np.ndarray, rule: Rule) -> Moments | None:
    """Return the moments of a run, or None if it ends above the floor.

    Args:
        gain_T: Gain of each step in units of G; minus infinity where the loss is not finite.
        control_T: From `control_curve`, at least as long as `gain_T`.
    """
    gain_T = np.asarray(gain_T, np.float64)
    floor_T = floor(control_T[: len(gain_T)], rule)
    lost_T = trailing_median(gain_T - floor_T, rule.median_steps) < 0
    if not lost_T[-1]:
        return None
    gone = _begins(lost_T, len(lost_T) - 1)
    low_T = centred_median(gain_T - floor_T, SMOOTH) < 0
    rising = _begins(low_T, gone) if low_T[gone] else gone
    return Moments(healthy=max(0, rising - max(BEFORE, gone - rising)), rising=rising, gone=gone)


def centred_median(values_T: np.ndarray, steps: int) -> np.ndarray:
    """Return the centred median, (T,). Windows at the ends are shorter; of two middle values, it takes the lower.

    Args:
        values_T: Values in the order of steps.
        steps: Length of a window, an odd number.
    """
    half, count = steps // 2, len(values_T)
    found_T = np.empty(count)
    if count >= steps:
        windows = np.lib.stride_tricks.sliding_window_view(np.asarray(values_T), steps)
        found_T[half : count - half] = np.sort(windows, axis=1)[:, half]
    ends = range(count) if count < steps else [*range(half), *range(count - half, count)]
    for t in ends:
        window = np.sort(values_T[max(0, t - half) : t + half + 1])
        found_T[t] = window[(len(window) - 1) // 2]
    return found_T


def _begins(true_T: np.ndarray, at: int) -> int:
    """Return the first index of the stretch of true values that contains `at`."""
    false = np.flatnonzero(~true_T[:at])
    return int(false[-1]) + 1 if len(false) else 0
