"""Tables of runs that vary the thresholds of methods, and of an adaptive search."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from shapes import draw, logistic
from simulation import runs_table

LRS = (0.1, 0.2, 0.4, 0.8, 1.6)
SEEDS = range(6)
REL, ABS = (0.05, 0.5, 5.0), (0.001, 0.01, 0.1)


def runs_of(*arms, lrs: Sequence[float] = LRS, seeds: Sequence[int] = SEEDS, model="small", auc=0.7):
    """Return runs of arms (method, options, edge): even seeds diverge from the edge on, odd seeds from the next lr on.

    Options that are numbers are thresholds.
    """
    rows = []
    for method, options, edge in arms:
        thresholds = {key: value for key, value in options.items() if not isinstance(value, str)}
        words = {key: value for key, value in options.items() if isinstance(value, str)}
        for lr, seed in itertools.product(lrs, seeds):
            diverged = lr >= edge * (1 if seed % 2 == 0 else 1.9)
            scores = {"kept": 1.0, "auc_click": 0.5 if diverged else auc + 0.01 * lr, "rmse_play": 1.3 - 0.01 * lr}
            base = {"model": model, "method": method, "options": str(words).replace("'", '"'), "lr": lr, "seed": seed}
            outcome = {"outcome": "diverged" if diverged else "completed", "reason": "collapsed" if diverged else None}
            rest = {"role": "cell", "steps": 200, "micro_episodes": 0, "diverged_at_step": 9 if diverged else None}
            rows.append(base | outcome | rest | scores | thresholds)
    return pd.DataFrame(rows)


def star():
    """Return runs of none, agc at three thresholds, and clippy along rel and along abs, crossing at (0.5, 0.01)."""
    crossed = [(rel, 0.01) for rel in REL] + [(0.5, own) for own in ABS if own != 0.01]
    return runs_of(
        ("none", {}, 0.4),
        *(("agc", {"max_ratio": r}, edge) for r, edge in ((0.01, 1.6), (0.1, 0.8), (1.0, 0.4))),
        *(("clippy", {"rel": rel, "abs": own}, 0.8 if own > 0.01 else math.inf) for rel, own in crossed),
    )


def adaptive():
    """Return one run, with a seed of its own, at each of many lrs around the edge of each curve."""
    rng = np.random.default_rng(5)
    parts = []
    for i, method in enumerate(("none", "clippy")):
        lrs = sorted({float(f"{lr:.2g}") for lr in 0.3 * (i + 1) * 2 ** rng.normal(0, 0.8, size=48)})
        outcomes = draw([logistic(lr50=0.3 * (i + 1), slope=8)], lrs, len(lrs), rng=rng)[0]
        outcomes = np.where(np.eye(len(lrs), dtype=bool), outcomes, np.nan)
        parts.append(runs_table(outcomes, lrs, [method]))
    return pd.concat(parts, ignore_index=True)
