"""When a run that diverged began to: the step at which its loss first left that of a healthy run for good.

    c_t            the control's gain at step t in units of the reference gain G, a median of 5 steps and of its seeds
    floor_t        kept * (2 min(max(c_t, 0), 1) - 1): from -0.25, while the control has learned nothing, to 0.25
    gone           the first step from which on the gain (in units of G) is below the floor in the trailing median of 25
                   steps for good
    rising         the onset: where the stretch of steps that `gone` lies in begins, all of which are below the floor in
                   the median of 5 steps, two to either side
    healthy        as far before the onset as `gone` is after it, and at least 5 steps; not before step 0

`study.outcomes.judge` knows when a run was lost: `diverged_at_step` is 0 for one that never had a quarter of G. Most
divergences happen within some 20 steps of warm-up, when nobody has learned a quarter of G yet; what tells them is the
control at the same step. A trailing median of 25 steps shows a fall up to 12 steps late, one of 5 at most two.
The loss of the first steps, while a network's random scores shrink, is above the constant's in every run, so a run
that never once rose above the floor has its onset at step 0: nothing came before.
"""

from dataclasses import dataclass

import numpy as np

from study.config import Rule
from study.outcomes.judge import trailing_median

SMOOTH = 5
"""Steps of the median that finds the onset."""

BEFORE = 5
"""Steps by which the healthy moment lies ahead of the onset, at least."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Three steps of a run: still healthy, its loss rising, and what it had learned gone."""

    healthy: int
    rising: int
    gone: int


def control_curve(gain_ST: np.ndarray) -> np.ndarray:
    """c_t, (T,): of the control's gains at the reference lr, one row a seed, in units of G."""
    return centred_median(np.median(np.asarray(gain_ST, np.float64), axis=0), SMOOTH)


def floor(control_T: np.ndarray, rule: Rule) -> np.ndarray:
    """What a run keeps above as long as it is healthy, (T,)."""
    return rule.kept * (2 * np.clip(control_T, 0, 1) - 1)


def moments(gain_T: np.ndarray, control_T: np.ndarray, rule: Rule) -> Moments | None:
    """The moments of a run; None where it ends above the floor.

    gain_T: its gain of each step in units of G; minus infinity where the loss was not finite. control_T: as of
    `control_curve`, at least as long.
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
    """The median over `steps` steps, an odd number, with that one in their middle; at either end over those there are,
    the lower one of two in the middle."""
    half, ordered = steps // 2, []
    for t in range(len(values_T)):
        window = np.sort(values_T[max(0, t - half) : t + half + 1])
        ordered.append(window[(len(window) - 1) // 2])
    return np.array(ordered)


def _begins(true_T: np.ndarray, at: int) -> int:
    """Where the stretch of true values that `at` lies in begins."""
    false = np.flatnonzero(~true_T[:at])
    return int(false[-1]) + 1 if len(false) else 0
