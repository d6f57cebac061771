"""What an LR range test says: where its loss explodes, and the lr that Lightning or fastai would suggest.

In a range test the lr of one run rises exponentially, step by step (Smith, 2017, "Cyclical learning rates for training
neural networks", arXiv 1506.01186). Each function reads one curve: the lr and the loss of each step.

    smoothed loss      m_s = 0.98 m_(s-1) + 0.02 loss_s,  divided by 1 - 0.98^(s+1)
    explodes           the first lr at which the smoothed loss passes 4 times its best so far, or is not finite
    Lightning          the lr where the smoothed loss falls most steeply, per unit of lr, without 10 steps at the
                       beginning and 1 at the end
    fastai, valley     a point two thirds into the longest fall of the smoothed loss
    fastai, steep      the lr where the smoothed loss falls most steeply, per unit of log lr
    fastai, minimum    a tenth of the lr where the smoothed loss is lowest

The rules follow Lightning 2.6.6 (`tuner/lr_finder.py`) and fastai 2.8.12 (`callback/schedule.py`), with their defaults
and their arithmetic in single precision. Both end the test at the explosion. Lightning divides the smoothed loss by
1 - 0.98^(s+2), which is kept here. fastai leaves out a tenth of the steps at the beginning and 5 at the end.
"""

from collections.abc import Callable, Sequence

import numpy as np

BETA = 0.98
"""How much of the smoothed loss is that of the step before, in both libraries."""

EXPLODED = 4.0
"""Both libraries end a range test where the smoothed loss passes so many times its best."""

SKIP_BEGIN, SKIP_END = 10, 1
"""Of Lightning: steps that its rule leaves out."""

FASTAI_SKIP_END = 5


def explosion(lrs: Sequence[float], losses: Sequence[float], beta: float = BETA) -> float:
    """Return the lr at which the loss explodes: inf if it never does.

    Args:
        lrs: The lr of each step, increasing.
        losses: The loss of each step, before its update.
        beta: How much of the smoothed loss is that of the step before.
    """
    smooth, best = _smoothed(losses, 1, beta), np.inf
    for lr, loss, value in zip(lrs, losses, smooth, strict=True):
        if not (np.isfinite(loss) and np.isfinite(value)) or value > EXPLODED * best:
            return float(lr)
        best = min(best, value)
    return np.inf


def lightning(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return what `Tuner.lr_find` of Lightning suggests: NaN where it suggests nothing. Args as in `explosion`."""
    smooth, best, end = _smoothed(losses, 2), 0.0, len(losses)
    for step, value in enumerate(smooth):
        if step and value > EXPLODED * best:
            end = step + 1
            break
        if step == 0 or value < best:
            best = value
    kept = slice(SKIP_BEGIN, max(0, end - SKIP_END))
    with np.errstate(over="ignore", invalid="ignore"):
        values, at = smooth[kept].astype(np.float32), np.asarray(lrs, np.float64)[kept]
        finite = np.isfinite(values)
        values, at = values[finite], at[finite]
        if len(values) < 2:
            return np.nan
        return float(at[np.argmin(np.gradient(values, at.astype(np.float32)))])


def valley(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the suggestion `valley` of fastai's `lr_find`: NaN where it raises. Args as in `explosion`."""
    return _fastai(_valley, lrs, losses)


def steep(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the suggestion `steep` of fastai's `lr_find`: NaN where it raises. Args as in `explosion`."""
    return _fastai(_steep, lrs, losses)


def minimum(lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Return the suggestion `minimum` of fastai's `lr_find`: NaN where it raises. Args as in `explosion`."""
    return _fastai(lambda at, values: float(at[np.argmin(values)]) / 10, lrs, losses)


RULES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "explosion": explosion,
    "lightning": lightning,
    "valley": valley,
    "steep": steep,
    "minimum": minimum,
}
"""Name of a column -> what it holds for a curve."""


def _smoothed(losses: Sequence[float], first_power: int, beta: float = BETA) -> np.ndarray:
    """The smoothed loss of each step. first_power: what the first step's is divided by, 1 - beta^first_power."""
    average, smooth = 0.0, []
    for step, loss in enumerate(losses):
        average = beta * average + (1 - beta) * float(loss)
        smooth.append(average / (1 - beta ** (step + first_power)))
    return np.array(smooth)


def _fastai(rule: Callable[[np.ndarray, np.ndarray], float], lrs: Sequence[float], losses: Sequence[float]) -> float:
    """Apply a rule to what fastai's `lr_find` hands to it: the smoothed losses until the explosion, trimmed."""
    smooth, best, value = [], np.float32(np.inf), np.float32(0)
    share = np.float32(1) - np.float32(BETA)  # as torch's lerp has it
    with np.errstate(over="ignore", invalid="ignore"):
        for step, loss in enumerate(np.asarray(losses, np.float32)):
            value = value - (value - loss) * share
            smooth.append(value / np.float32(1 - BETA ** (step + 1)))
            best = smooth[-1] if smooth[-1] < best else best
            if smooth[-1] > EXPLODED * best:
                break
        kept = slice(len(losses) // 10, max(0, len(smooth) - FASTAI_SKIP_END))
        values, at = np.array(smooth, np.float32)[kept], np.asarray(lrs, np.float32)[: len(smooth)][kept]
        missing = np.flatnonzero(np.isnan(values))
        if len(missing):
            values, at = values[: missing[0]], at[: missing[0]]
        try:
            return rule(at, values)
        except (IndexError, ValueError):
            return np.nan


def _steep(at: np.ndarray, values: np.ndarray) -> float:
    return float(at[np.argmin(np.diff(values) / np.diff(np.log(at)))])


def _valley(at: np.ndarray, values: np.ndarray) -> float:
    """As fastai finds it: a fall may skip steps, and its start is taken as its length before its end."""
    lengths = np.ones(len(values), int)
    for i in range(1, len(values)):
        lengths[i] = 1 + lengths[:i][values[i] < values[:i]].max(initial=0)
    end = int(np.argmax(lengths))
    start = end - int(lengths[end]) if end else 0
    third = (end - start) / 3
    return float(at[start + int(third) + int(third / 2)])
