"""Where the next runs of a curve go: to the lr at which the variance of its edge is expected to fall most.

With the edge e in decades and P(x) the probability of divergence at lr x, under the posterior of
`analysis.stats.psychometric`,

    fall(x) = Cov(e, P(x))^2 / (p (1 - p))        p = E[P(x)]

This is the squared correlation of e and the run's outcome, times the variance of e. The runs of a batch are placed one
after another. Each takes the outcome of those before it as a draw from the posterior. A tenth of the runs go to random
lrs within the tried range, in case the model is wrong.

Source: L. L. Kontsevich and C. W. Tyler, "Bayesian adaptive estimation of psychometric slope and threshold", Vision
Research 39 (1999). They minimize entropy; for an edge at a low level, variance needs fewer runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.stats.edge_posterior import edge_interval
from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import Fit, fit
from study.config import EdgeSearch

HIGHEST, LOWEST = 100.0, 1e-4
"""The bounds up to which a range grows. Below the lower one, networks are too slow to learn at all."""

SMALLEST_BATCH, LARGEST_BATCH, BATCH_SHARE = 6, 32, 0.15
"""A batch has this share of the runs so far, within these bounds. Larger batches end too late; smaller ones fill no
stack.
"""

GUARD_SHARE = 0.1

RUNGS = 4
"""Factors of 2 by which a range grows in one batch."""

MORE_LIKELY_THAN_NOT = 0.5

DRAWS = 1500

CANDIDATES = 120

GOLDEN = 0.6180339887498949

KNOWN, ABOVE, BELOW, SPENT = "known", "above", "below", "spent"


@dataclass(frozen=True, kw_only=True)
class CurvePosterior:
    """What the runs of a curve say about its edge.

    Attributes:
        one: The fit.
        low, edge, high: The median of log10 of the edge with its 95% interval; possibly infinite.
        lowest, highest: log10 of the lowest and highest lr tried.
        above, below: The probability that the edge lies above, below the lrs tried.
        spread: The median of the logistic's scale, in decades.
    """

    one: Fit
    low: float
    edge: float
    high: float
    lowest: float
    highest: float
    above: float
    below: float
    spread: float

    def end(self, search: EdgeSearch) -> str | None:
        """Return why the search of this curve is over, or None."""
        if self.above >= 1 - TAIL and self.highest >= math.log10(HIGHEST):
            return ABOVE
        if self.below >= 1 - TAIL and self.lowest <= math.log10(LOWEST):
            return BELOW
        inside = self.lowest <= self.low and self.high <= self.highest
        return KNOWN if inside and self.high - self.low <= math.log10(search.precision) else None


def curve_posterior(lrs: Sequence[float], diverged: Sequence[bool | None], level: float) -> CurvePosterior:
    """Return the posterior of a curve whose runs each have a seed of their own.

    Args:
        lrs: One a run.
        diverged: One a run; None if the run is missing.
        level: P(divergence) at the edge.
    """
    tried = sorted(set(lrs))
    seen = [(lr, bool(dead)) for lr, dead in zip(lrs, diverged, strict=True) if dead is not None]
    matrix = np.full((max(1, len(seen)), len(tried)), np.nan)
    for i, (lr, dead) in enumerate(seen):
        matrix[i, tried.index(lr)] = dead
    one = fit(tried, matrix)
    low, edge, high = edge_interval(one, level)
    lowest, highest = math.log10(tried[0]), math.log10(tried[-1])
    edges = one.edges(level)
    order = np.argsort(one.sigma)
    middle = np.searchsorted(np.cumsum(one.weight[order]), 0.5)
    return CurvePosterior(
        one=one,
        low=low,
        edge=edge,
        high=high,
        lowest=lowest,
        highest=highest,
        above=float(one.weight[edges > highest].sum()),
        below=float(one.weight[edges < lowest].sum()),
        spread=float(one.sigma[order][min(middle, len(order) - 1)]),
    )


def first_batch(ladder: Sequence[float]) -> list[float]:
    """Return the ladder, repeated until it makes about a batch."""
    return [lr for lr in ladder for _ in range(max(1, round(SMALLEST_BATCH / len(ladder))))]


def next_batch(now: CurvePosterior, tried: int, level: float, rng: np.random.Generator) -> list[float]:
    """Return the lrs of a curve's next runs.

    Args:
        now: The posterior after all runs so far.
        tried: The number of these runs.
        level: P(divergence) at the edge.
        rng: Draws the outcomes of a batch's earlier runs, and the random lrs.
    """
    if now.above > MORE_LIKELY_THAN_NOT and now.highest < math.log10(HIGHEST):
        return _rungs(now.one.lrs[-1], 2.0)
    if now.below > MORE_LIKELY_THAN_NOT and now.lowest > math.log10(LOWEST):
        return _rungs(now.one.lrs[0], 0.5)
    count = min(max(SMALLEST_BATCH, round(BATCH_SHARE * tried)), LARGEST_BATCH)
    guards = int(rng.binomial(count, GUARD_SHARE))
    x = [*_placed(now, count - guards, level, rng), *rng.uniform(now.lowest, now.highest, guards)]
    return [_rounded(10**value) for value in x]


def _rungs(end: float, factor: float) -> list[float]:
    """A batch on the next factors of 2 beyond an end of the range."""
    rungs = [_rounded(min(max(end * factor**i, LOWEST), HIGHEST)) for i in range(1, RUNGS + 1)]
    return first_batch(list(dict.fromkeys(rungs)))


def _placed(now: CurvePosterior, count: int, level: float, rng: np.random.Generator) -> list[float]:
    """log10 of the lrs at which runs are expected to reduce the variance of the edge most."""
    ends = np.cumsum(now.one.weight)
    at = np.minimum(np.searchsorted(ends, (np.arange(DRAWS) + 0.5) / DRAWS * ends[-1]), len(ends) - 1)
    mu, sigma, floor, plateau = (v[at] for v in (now.one.mu, now.one.sigma, now.one.floor, now.one.plateau))
    # Lrs up to a factor of 2 beyond the range are candidates; an edge farther out counts as just there.
    low = max(now.lowest - math.log10(2), math.log10(LOWEST))
    high = min(now.highest + math.log10(2), math.log10(HIGHEST))
    edge = np.clip(now.one.edges(level)[at], low, high)
    # Candidates are points of the drawn curves between 1% and 99% of their rise, where the outcome is open.
    some = np.linspace(0, DRAWS - 1, CANDIDATES).astype(int)
    rise = special.logit(0.01 + 0.98 * ((np.arange(CANDIDATES) * GOLDEN) % 1))
    x = np.unique(np.clip(mu[some] + sigma[some] * rise, low, high))
    rate = floor[:, None] + ((1 - floor) * plateau)[:, None] * special.expit((x - mu[:, None]) / sigma[:, None])
    weight, placed = np.full(DRAWS, 1 / DRAWS), []
    for _ in range(count):
        p = weight @ rate
        fall = ((weight * (edge - weight @ edge)) @ rate) ** 2 / (p * (1 - p))
        best = int(np.argmax(fall))
        placed.append(float(x[best]))
        weight = weight * (rate[:, best] if rng.random() < p[best] else 1 - rate[:, best])
        weight /= weight.sum()
    return placed


def _rounded(lr: float) -> float:
    """Three digits: finer than any edge is known."""
    return float(f"{lr:.3g}")
