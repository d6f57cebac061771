"""The common course of the control: what falls at every lr and seed alike is a change of the data, no instability.

    share_q(s, t) = (max of g_q on [s, t] - g_q(t)) / max of g_q on [s, t]      what run q lost of its gain
    common(s, t)  = min over lrs of the lower median over seeds of the highest share_q(s - w, u), u within w of t
    fall of run r = max over t of (1 - common(s, t)) * g_r(s) - g_r(t)          s: its best step up to t

Shares are compared, since runs at low lrs have less to lose. The lowest of the lrs is taken, so that lrs that diverge
excuse no other. A share within a run's noise is 0, and a run whose noise would hide the loss of half of its gain is
left out. With fewer than two lrs left, nothing is common. w is the window of the medians: runs need not fall at the
same step, since seeds see the rows in another order.

Letters: R runs, S steps of all runs, T steps of a run, L lrs.
"""

from collections.abc import Sequence

import numpy as np


def falls_beyond_common(
    lrs_R: np.ndarray,
    g_R: Sequence[np.ndarray],
    step_R: Sequence[np.ndarray],
    noise_R: np.ndarray,
    whole_R: np.ndarray,
    window: int,
) -> np.ndarray:
    """Return how far the gain of each run falls below its best, beyond the common course, float64 (R,).

    Args:
        lrs_R: Learning rate of each run.
        g_R: Trailing median gains of each run, (T,), which are finite.
        step_R: Numbers of their steps, (T,).
        noise_R: The largest change of g that is noise. A fall within it is 0.
        whole_R: Step of each run from which the windows of its medians are whole.
        window: Steps of a median.
    """
    steps_S = np.unique(np.concatenate(step_R))
    g_RS = np.stack([_at(g_T, step_T, steps_S) for g_T, step_T in zip(g_R, step_R, strict=True)])
    found = np.zeros(len(g_R))
    for r, g_S in enumerate(g_RS):
        now_S = np.flatnonzero((steps_S >= whole_R[r]) & (steps_S <= step_R[r][-1]))
        best_S = now_S[_first_of_best(g_S[now_S])]
        fell = g_S[best_S] - g_S[now_S] > noise_R[r]
        for best in np.unique(best_S[fell]):
            now = now_S[fell & (best_S == best)]
            common = _common_share(lrs_R, g_RS, steps_S, noise_R, int(best), now, window)
            found[r] = max(found[r], float(np.max(g_S[best] - common * max(g_S[best], 0.0) - g_S[now])))
    return found


def _common_share(
    lrs_R: np.ndarray,
    g_RS: np.ndarray,
    steps_S: np.ndarray,
    noise_R: np.ndarray,
    best: int,
    now: np.ndarray,
    window: int,
) -> np.ndarray:
    """Return the share of their gains that runs of all lrs lost since the place `best`, at each place of `now`."""
    first = int(np.searchsorted(steps_S, steps_S[best] - window))
    top_RS, noise_R1 = np.fmax.accumulate(g_RS[:, first:], axis=1), noise_R[:, None]
    lost_RS = top_RS - g_RS[:, first:]
    with np.errstate(divide="ignore", invalid="ignore"):
        share_RS = np.where(lost_RS > noise_R1, lost_RS / top_RS, 0.0)
    share_RS = np.where((top_RS > 2 * noise_R1) & ~np.isnan(lost_RS), share_RS, np.inf)
    starts = np.maximum(np.searchsorted(steps_S, steps_S[now] - window) - first, 0)
    stops = np.searchsorted(steps_S, steps_S[now] + window, side="right") - first
    near = [share_RS[:, start:stop] for start, stop in zip(starts, stops, strict=True)]
    highest = np.stack([np.where(np.isfinite(part), part, -np.inf).max(axis=1) for part in near], axis=1)
    highest = np.where(np.isneginf(highest), np.inf, highest)
    of_lr = np.stack([_lower_median(highest[lrs_R == lr]) for lr in np.unique(lrs_R)])
    return np.where(np.isfinite(of_lr).sum(axis=0) >= 2, np.min(of_lr, axis=0), 0.0)


def _lower_median(values: np.ndarray) -> np.ndarray:
    return np.sort(values, axis=0)[(len(values) - 1) // 2]


def _first_of_best(values_S: np.ndarray) -> np.ndarray:
    """Return, for each place, the first place of the highest value so far."""
    best_S = np.maximum.accumulate(values_S)
    rises_S = np.concatenate([[True], best_S[1:] > best_S[:-1]])
    return np.maximum.accumulate(np.where(rises_S, np.arange(len(values_S)), 0))


def _at(values_T: np.ndarray, step_T: np.ndarray, steps_S: np.ndarray) -> np.ndarray:
    """Return the values at other steps: that of the last logged step, or of the first; NaN after the end."""
    values_S = values_T[np.maximum(np.searchsorted(step_T, steps_S, side="right") - 1, 0)]
    return np.where(steps_S <= step_T[-1], values_S, np.nan)
