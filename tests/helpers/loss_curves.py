"""Loss curves made by hand, and their judgement."""

import math

import numpy as np

from study.config import Rule
from study.outcomes.judge import Outcome, judge
from study.outcomes.reference import Reference

STEPS = 200
GAIN = 0.25
"""Reference gain. With a constant's loss of 1, a loss of 0.75 is kept = 1 and a loss of 1 is kept = 0, both exact."""

RULE = Rule()
ONE_TASK = Reference(lr=0.1, gain=GAIN, task_gain=(GAIN,))
TWO_TASKS = Reference(lr=0.1, gain=GAIN, task_gain=(GAIN, GAIN))
THREE_TASKS = Reference(lr=0.1, gain=GAIN, task_gain=(GAIN, None, GAIN))


def rising(top: float = 1.0, steps: int = 50, total: int = STEPS) -> np.ndarray:
    """Return h (total,): it rises from 0 to `top` in `steps` steps, and stays."""
    return top * np.minimum(np.arange(total) / steps, 1.0)


def losses_of(h: np.ndarray) -> np.ndarray:
    """Return the losses of a run whose gain is h in units of the reference gain."""
    return (1.0 - GAIN * np.asarray(h)).astype(np.float32)


def judge_one(
    loss: np.ndarray, rule: Rule = RULE, finite_weights: bool = True, reference: Reference = ONE_TASK
) -> Outcome:
    """Return the outcome of one run with losses (T,) or (T, K) against a constant's loss of 1."""
    loss_RTK = np.asarray(loss, np.float32).reshape(1, len(loss), -1)
    K = loss_RTK.shape[2]
    (outcome,) = judge(loss_RTK, np.ones_like(loss_RTK), np.ones(K), [finite_weights], reference, rule)
    return outcome


def random_runs(seed: int, runs: int = 5, steps: int = 90, tasks: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return losses (R, T, K) of every outcome, and those of the constant predictor."""
    rng = np.random.default_rng(seed)
    constant = rng.uniform(0.5, 1.5, (runs, steps, tasks))
    h = rng.choice([0.02, 0.3, 1.0], (runs, 1, tasks)) * np.minimum(np.arange(steps) / 40, 1)[None, :, None]
    for r in range(runs):
        start = rng.integers(0, steps)
        stop = rng.integers(start, steps + 1)
        h[r, start:stop] -= rng.choice([0.0, 0.6, 1.0, 9.0])
    loss = constant - GAIN * h + rng.normal(0, 0.02, h.shape)
    if rng.random() < 0.5:
        loss[rng.integers(runs), rng.integers(steps) :, rng.integers(tasks)] = rng.choice([math.nan, math.inf])
    return loss.astype(np.float32), constant.astype(np.float32)
