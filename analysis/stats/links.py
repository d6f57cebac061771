"""Distributions of seeds' thresholds. Each has median 0 and the interquartile range of the standard logistic."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

QUARTILE = float(np.log(3))
"""Upper quartile of the standard logistic: half of its interquartile range."""

MEDIAN = 2 * float(np.log(2))
"""Median of an exponential variable with mean 2. Its interquartile range is 2 log 3."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A distribution. cdf: P(threshold <= z). quantile: its inverse on (0, 1)."""

    cdf: Callable[[np.ndarray], np.ndarray]
    quantile: Callable[[np.ndarray], np.ndarray]


LOGISTIC = Link(cdf=special.expit, quantile=special.logit)

OTHERS = (
    # Cauchy: heavy tails on both sides.
    Link(cdf=lambda z: 0.5 + np.arctan(z / QUARTILE) / np.pi, quantile=lambda p: QUARTILE * np.tan(np.pi * (p - 0.5))),
    # Exponential tail to the left: a slow rise with an abrupt end.
    Link(cdf=lambda z: np.exp(np.minimum(z - MEDIAN, 0) / 2), quantile=lambda p: 2 * np.log(p) + MEDIAN),
    # Exponential tail to the right: an abrupt start.
    Link(cdf=lambda z: -np.expm1(-np.maximum(z + MEDIAN, 0) / 2), quantile=lambda p: -2 * np.log1p(-p) - MEDIAN),
    # Uniform: no tails.
    Link(cdf=lambda z: np.clip(0.5 + z / (4 * QUARTILE), 0, 1), quantile=lambda p: 4 * QUARTILE * (p - 0.5)),
)
