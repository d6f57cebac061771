"""Curves P(divergence | lr) of any shape, and the studies that are drawn from them.

Seed s has at each lr, for every method alike, the threshold (in log10 lr, relative to LR50)

    t = quantile(Phi(z))        z = sqrt(share) z_s + sqrt(1 - share) e        z_s, e ~ Normal(0, 1)

with z_s the seed's own and e drawn anew for each run. Whatever the share, thresholds have the distribution of
`quantile`, and runs of different seeds diverge independently with probability `Shape.rate`. At share 0 the runs of a
seed are independent too; at 1 a seed switches once. A run diverges if its lr lies above its seed's threshold (and, with
`falls`, less than that many decades above it), unless it lapses or its seed is immune. Else the floor decides.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special, stats

GRIDS: Mapping[str, tuple[float, ...]] = {
    "12 even": tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.01, 1, 12)),
    "5 even": tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.01, 1, 5)),
    "quick": (0.02, 0.1, 0.3, 0.6, 0.85, 1.2, 1.7, 3.2),
    "lr_curve": (0.02, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 3.2),
}
"""Two decades of evenly spaced lrs, and the lrs of two search spaces."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A known P(divergence | lr).

    Attributes:
        quantile: Threshold in decades, by its share of seeds; from any zero.
        lr50: Where P is 0.5.
        floor, lapse, immune: As in `analysis.stats.psychometric`.
        share: 1 if a seed keeps its threshold, 0 if it is drawn anew for each run.
        falls: Decades above its threshold from which a run does not diverge; far above those in which P rises.
    """

    quantile: Callable[[np.ndarray], np.ndarray]
    lr50: float = 0.1
    floor: float = 0.0
    lapse: float = 0.0
    immune: float = 0.0
    share: float = 1.0
    falls: float = math.inf

    def edge(self, level: float = 0.5) -> float:
        """Return the lr at which P reaches the level: 0 if it is always above, infinity if it never is."""
        return self.lr50 * 10 ** (self._place(level) - self._center)

    def rate(self, lrs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return P(divergence) at each lr."""
        x = np.log10(np.asarray(lrs, dtype=float) / self.lr50) + self._center
        inside = self._below(x) - self._below(x - self.falls)
        return self.floor + (1 - self.floor) * (1 - self.lapse) * (1 - self.immune) * inside

    def at(self, lr50: float) -> "Shape":
        """Return the same curve with another LR50."""
        return replace(self, lr50=lr50)

    def draw(self, lrs: Sequence[float], seeds: int, rng: np.random.Generator) -> np.ndarray:
        """Return the outcomes of one study, (S, K): 1 is diverged, 0 is not."""
        return draw([self], lrs, seeds, rng=rng, share=self.share)[0, 0]

    def thresholds(self, z: np.ndarray) -> np.ndarray:
        """Return log10 of the lr above which runs with these normal scores diverge."""
        return math.log10(self.lr50) - self._center + self.quantile(special.ndtr(z).clip(1e-9, 1 - 1e-9))

    def _below(self, x: np.ndarray) -> np.ndarray:
        return np.interp(x, _table(self.quantile), UNITS, left=0.0, right=1.0)

    @property
    def _center(self) -> float:
        place = self._place(0.5)
        return place if math.isfinite(place) else 0.0

    def _place(self, level: float) -> float:
        """Where P reaches the level, in decades from the zero of `quantile`."""
        if self.floor >= level:
            return -math.inf
        top = (1 - self.floor) * (1 - self.lapse) * (1 - self.immune)
        if level - self.floor >= top:
            return math.inf
        return float(self.quantile(np.array((level - self.floor) / top)))


UNITS = special.expit(np.linspace(-18, 18, 20_001))


@functools.lru_cache(maxsize=64)
def _table(quantile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return quantile(UNITS)


def _mixture(*parts: tuple[float, float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Quantiles of a mixture of logistic distributions: (share, place, scale) of each."""
    x = np.linspace(-4, 4, 80_001)
    below = sum(share * special.expit((x - place) / scale) for share, place, scale in parts)
    return lambda u: np.interp(u, below, x)


@functools.cache
def _logistic(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: scale * special.logit(u)


def logistic(slope: float = 20.0, **options: float) -> Shape:
    """Return a curve of the logistic model; its scale is 1 / slope decades."""
    return Shape(quantile=_logistic(1 / slope), **options)


def draw(
    curves: Sequence[Shape],
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
    their seeds. `share` counts in place of the curves' own.
    """
    size = (simulations, len(curves), seeds, len(lrs))
    z = math.sqrt(share) * rng.normal(size=(simulations, 1, seeds, 1))
    if share < 1:
        z = z + math.sqrt(1 - share) * rng.normal(size=size)
    lapsing, immunity, by_floor = rng.random(size), rng.random((simulations, 1, seeds, 1)), rng.random(size)

    def of(name: str) -> np.ndarray:
        return np.array([getattr(curve, name) for curve in curves])[:, None, None]

    z = np.broadcast_to(z, (*z.shape[:1], len(curves), *z.shape[2:]))
    above = np.log10(lrs) - np.stack([curve.thresholds(z[:, i]) for i, curve in enumerate(curves)], axis=1)
    diverged = (above >= 0) & (above < of("falls")) & (lapsing >= of("lapse")) & (immunity >= of("immune"))
    outcomes = (diverged | (by_floor < of("floor"))).astype(float)
    return np.where(rng.random(size) < missing, np.nan, outcomes) if missing else outcomes


FAMILY = {
    "logistic, scale 0.24": Shape(quantile=_logistic(0.24)),
    "logistic, scale 0.167": Shape(quantile=_logistic(1 / 6)),
    "logistic, scale 0.05": Shape(quantile=_logistic(0.05)),
    "logistic, scale 0.02": Shape(quantile=_logistic(0.02)),
}
"""Curves of the logistic model itself, for comparison. Scales in decades."""

SHAPES = FAMILY | {
    "cliff": Shape(quantile=lambda u: 0.005 * (u - 0.5)),
    "two groups of seeds, 60% and 40%, 0.8 decades apart": Shape(quantile=_mixture((0.6, 0, 0.03), (0.4, 0.8, 0.03))),
    "two groups, 35% and 65%, 0.6 decades apart": Shape(quantile=_mixture((0.35, -0.6, 0.03), (0.65, 0, 0.03))),
    "two groups, 10% and 90%, 0.6 decades apart": Shape(quantile=_mixture((0.1, -0.6, 0.03), (0.9, 0, 0.03))),
    "Cauchy, scale 0.05": Shape(quantile=lambda u: 0.05 * np.tan(np.pi * (u - 0.5))),
    "exponential tail to the right, 0.2": Shape(quantile=lambda u: -0.2 * np.log1p(-u)),
    "exponential tail to the left, 0.2": Shape(quantile=lambda u: 0.2 * np.log(u)),
    "half steep, half shallow": Shape(quantile=_mixture((0.5, 0, 0.02), (0.5, 0, 0.2))),
    "shoulder of 20% before a cliff": Shape(quantile=_mixture((0.2, -0.4, 0.05), (0.8, 0, 0.01))),
    "shoulder of 35% before a cliff": Shape(quantile=_mixture((0.35, -0.4, 0.05), (0.65, 0, 0.01))),
    "probit": Shape(quantile=lambda u: 0.085 * special.ndtri(u)),
    "Gumbel": Shape(quantile=lambda u: -0.08 * np.log(-np.log(u))),
    "uniform": Shape(quantile=lambda u: 0.3 * (u - 0.5)),
    "Student's t, 3 degrees": Shape(quantile=lambda u: 0.07 * stats.t.ppf(u, 3)),
    "plateau 0.6, runs lapse": Shape(quantile=_logistic(0.05), lapse=0.4),
    "plateau 0.6, seeds are immune": Shape(quantile=_logistic(0.05), immune=0.4),
    "floor 0.05": Shape(quantile=_logistic(0.05), floor=0.05),
    "threshold redrawn at each run": Shape(quantile=_logistic(0.1), share=0.0),
    "noise of the threshold at each lr": Shape(quantile=_logistic(0.05), share=0.75),
    "never": Shape(quantile=_logistic(0.05), lapse=1.0),
    "falls again": Shape(quantile=_logistic(0.05), falls=0.6),
}

NEAR = "cliff near the end of a gap"
"""A cliff within a tenth of a gap's end: what an interval misses that takes the middle of a gap."""


def places(name: str, lrs: Sequence[float], simulations: int, rng: np.random.Generator) -> np.ndarray:
    """Return LR50 of each simulation: log-uniform over the tried lrs; in their lower half for a curve that falls."""
    x = np.log10(lrs)
    if name != NEAR:
        top = x[-1] if np.isinf(SHAPES[name].falls) else (x[0] + x[-1]) / 2
        return 10 ** rng.uniform(x[0], top, simulations)
    gap = rng.integers(len(x) - 1, size=simulations)
    share = rng.uniform(0, 0.1, simulations)
    share = np.where(rng.random(simulations) < 0.5, share, 1 - share)
    return 10 ** (x[gap] + share * (x[gap + 1] - x[gap]))
