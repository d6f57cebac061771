"""Known curves and simulated runs as a table like that of `analysis.load`."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from shapes import GRIDS, logistic

LRS = GRIDS["12 even"]

CURVES = {
    "shallow": logistic(6),
    "steep": logistic(),
    "lapse 0.3": logistic(lapse=0.3),
    "floor 0.02": logistic(floor=0.02),
    "never": logistic(lapse=1.0),
    "falls again": logistic(falls=0.6),
}


def runs_table(
    outcomes_MSK: np.ndarray,
    lrs: Sequence[float],
    methods: Sequence[str] = ("none", "layer_clip", "agc", "lamb", "clippy"),
    *,
    seeds: Sequence[int] | None = None,
    quality: Mapping[str, float] | None = None,
    rng: np.random.Generator | None = None,
    model: str = "small",
) -> pd.DataFrame:
    """Return one study of `shapes.draw` as a table like that of `analysis.load`; missing runs have no row.

    quality: method -> mean of auc_click of the runs that did not diverge (0.7 where not given); with an rng a run's own
    has a standard deviation of 0.003 about it, two thirds of the variance the seed's. A diverged run has 0.5.
    """
    _, S, K = outcomes_MSK.shape
    seeds = range(S) if seeds is None else seeds
    of_seed = rng.normal(size=S) if rng else np.zeros(S)
    rows = []
    for m, method in enumerate(methods[: len(outcomes_MSK)]):
        own = rng.normal(size=(S, K)) if rng else np.zeros((S, K))
        auc = (quality or {}).get(method, 0.7) + 0.003 * (math.sqrt(2) * of_seed[:, None] + own) / math.sqrt(3)
        for s, k in zip(*np.nonzero(np.isfinite(outcomes_MSK[m])), strict=True):
            diverged = bool(outcomes_MSK[m, s, k])
            rows.append(
                {"run_id": f"{model}-{method}-{seeds[s]}-{lrs[k]!r}", "study": "simulated", "data": "5" * 64}
                | {"model": model, "method": method, "options": "{}", "lr": float(lrs[k]), "seed": int(seeds[s])}
                | {"role": "cell", "outcome": "diverged" if diverged else "completed"}
                | {"reason": "collapsed" if diverged else None, "diverged_at_step": 100 if diverged else None}
                | {"micro_episodes": 0, "episodes": "[]", "spikes": 0, "final_loss": 0.7 if diverged else 0.6}
                | {"kept": 0.0 if diverged else 1.0, "moved": 1.0, "steps": 200, "seconds": 1.0}
                | {"device": "cpu", "version": "1", "kept_click": 0.0 if diverged else 1.0}
                | {"diverged_click": diverged, "auc_click": 0.5 if diverged else float(auc[s, k]), "curve": method}
            )
    return pd.DataFrame(rows)
