"""Simulated runs from known curves, where each seed has its own threshold.

Seed s has at each learning rate, for every method alike, the threshold (in log10 lr)

    t = log10(lr50) + logit(Phi(z)) / slope        z = sqrt(share) z_s + sqrt(1 - share) e        z_s, e ~ Normal(0, 1)

with z_s the seed's own, at every lr and with every method, and e drawn anew for each run. Each threshold is exactly
logistic whatever the share, so a curve is what it says: runs of different seeds diverge with probability `Curve.rate`,
independently. At share 0 the runs of a seed are independent too; at 1 a seed switches once. A run diverges where its lr
lies above its threshold (and, with `falls`, less than that many decades above it) unless it lapses or its seed is
immune, or else by the floor.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.01, 1, 12))
"""Twelve learning rates over two decades."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A known P(divergence | lr). slope: slope of the logistic per decade of lr; its scale is 1 / slope."""

    lr50: float = 0.1
    slope: float = 20.0
    floor: float = 0.0
    lapse: float = 0.0
    immune: float = 0.0
    falls: float = math.inf

    def rate(self, lrs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return P(divergence) at each lr."""
        x = np.log10(np.asarray(lrs, dtype=float)) - math.log10(self.lr50)
        inside = special.expit(self.slope * x) - special.expit(self.slope * (x - self.falls))
        return self.floor + (1 - self.floor) * (1 - self.lapse) * (1 - self.immune) * inside

    def edge(self, level: float = 0.5) -> float:
        """Return the lowest lr at which P reaches the level: 0 if it is always above, infinity if it never is."""
        if self.floor >= level:
            return 0.0
        x = math.log10(self.lr50) + np.linspace(-4, 4, 80_001)
        rate = self.rate(10**x)
        above = np.flatnonzero(rate >= level)
        if not above.size:
            return math.inf
        i = int(above[0])
        return float(10 ** (x[i - 1] + (x[i] - x[i - 1]) * (level - rate[i - 1]) / (rate[i] - rate[i - 1])))

    def at(self, lr50: float) -> "Curve":
        """Return the same curve with another LR50."""
        return replace(self, lr50=lr50)


CURVES = {
    "shallow": Curve(slope=6),
    "steep": Curve(slope=20),
    "lapse 0.3": Curve(slope=20, lapse=0.3),
    "floor 0.02": Curve(slope=20, floor=0.02),
    "never": Curve(lapse=1.0),
    "falls again": Curve(slope=20, falls=0.6),
}


def draw(
    curves: Sequence[Curve],
    lrs: Sequence[float],
    seeds: int,
    *,
    rng: np.random.Generator,
    share: float = 1.0,
    simulations: int = 1,
    missing: float = 0.0,
) -> np.ndarray:
    """Return the outcomes of N simulated studies, (N, M, S, K): M curves (methods), S seeds, K lrs.

    1 is diverged, 0 is not, NaN is missing (a random share `missing` of the runs). The methods of a simulation share
    their seeds. `draw(...)[0, 0]` is the matrix that `analysis.stats.psychometric.fit` takes.
    """
    size = (simulations, len(curves), seeds, len(lrs))
    own = rng.normal(size=(simulations, 1, seeds, 1))
    z = math.sqrt(share) * own + math.sqrt(1 - share) * (rng.normal(size=size) if share < 1 else 0.0)
    immunity = rng.random((simulations, 1, seeds, 1))
    lapsing, by_floor = rng.random(size), rng.random(size)

    def of(name: str) -> np.ndarray:
        return np.array([getattr(curve, name) for curve in curves])[:, None, None]

    above = np.log10(lrs) - np.log10(of("lr50")) - special.logit(special.ndtr(z)) / of("slope")
    diverged = (above >= 0) & (above < of("falls")) & (lapsing >= of("lapse")) & (immunity >= of("immune"))
    outcomes = (diverged | (by_floor < of("floor"))).astype(float)
    return np.where(rng.random(size) < missing, np.nan, outcomes) if missing else outcomes


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
    """Return one simulated study (one of `draw`) as a table like that of `analysis.load`; missing runs have no row.

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
