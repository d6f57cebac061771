"""Confidence intervals and bounds of probabilities, medians and means.

Intervals: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
Bounds for safety claims: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934), one-sided. Medians, between order
statistics: W. R. Thompson, Annals of Mathematical Statistics 7 (1936).
"""

import math
from typing import Any

import numpy as np
from scipy import special, stats

CONFIDENCE = 0.95

TAIL = (1 - CONFIDENCE) / 2

FEWEST = 3
"""Seeds from which a bootstrap says anything of others."""


def wilson(k: Any, n: Any, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
    """Return the two-sided Wilson score interval of k successes in n >= 1 trials: (low, high), arrays of k's shape."""
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    z2 = float(special.ndtri((1 + confidence) / 2)) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (k * (n - k) / n + z2 / 4)) / (n + z2)
    return np.where(k == 0, 0.0, centre - half), np.where(k == n, 1.0, centre + half)


def upper_bound(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided Clopper-Pearson upper bound after k events in n >= 1 trials. 0 of 8: 0.312."""
    return 1.0 if k >= n else float(special.betaincinv(k + 1, n - k, confidence))


def lower_bound(k: int, n: int, confidence: float = CONFIDENCE) -> float:
    """Return the one-sided Clopper-Pearson lower bound after k events in n >= 1 trials."""
    return 0.0 if k <= 0 else float(special.betaincinv(k, n - k + 1, 1 - confidence))


def median_interval(values: Any) -> tuple[float, float, float]:
    """Return (low, median, high): the median with its exact interval, between order statistics.

    The interval, at 95%, is NaN below 6 values. All three are NaN if there are no values or one
    is NaN.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    if not len(ordered) or np.isnan(ordered).any():
        return math.nan, math.nan, math.nan
    # The interval ends at the r-th value from either end: P(Binomial(n, 1/2) < r) <= TAIL.
    outside = special.bdtr(np.arange(len(ordered)), len(ordered), 0.5) <= TAIL
    r = int(outside.sum())
    middle = float(np.median(ordered))
    return (float(ordered[r - 1]), middle, float(ordered[-r])) if r else (math.nan, middle, math.nan)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95% interval of the mean; NaN below 2 values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return float(np.mean(values)) - half, float(np.mean(values)) + half


def bootstrap_shares(seeds: int) -> tuple[float, float]:
    """Return the shares of bootstrap draws of some seeds that lie below the two ends of an interval.

    Few seeds vary less in a bootstrap than they should, so both lie further out: Hesterberg's expanded percentiles
    (T. Hesterberg, The American Statistician 69, 2015). Below FEWEST seeds, those of FEWEST.
    """
    seeds = max(seeds, FEWEST)
    tail = float(special.ndtr(math.sqrt(seeds / (seeds - 1)) * stats.t.ppf(TAIL, seeds - 1)))
    return tail, 1 - tail
