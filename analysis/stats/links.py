"""Shapes of the distribution of seeds' thresholds, each with median 0 and the quartiles of the standard logistic."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import special

QUARTILE = float(np.log(3))
"""The upper quartile of the standard logistic."""

MEDIAN = 2 * float(np.log(2))
"""The median of an exponential variable of mean 2, whose quartiles are 2 log 3 apart."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A distribution. cdf: P(z). quantile: Its inverse, between 0 and 1."""

    cdf: Callable[[np.ndarray], np.ndarray]
    quantile: Callable[[np.ndarray], np.ndarray]


LOGISTIC = Link(cdf=special.expit, quantile=special.logit)

OTHERS = (
    # Cauchy: heavy tails on both sides.
    Link(cdf=lambda z: 0.5 + np.arctan(z / QUARTILE) / np.pi, quantile=lambda p: QUARTILE * np.tan(np.pi * (p - 0.5))),
    # Exponential to the left: a slow rise that ends at once.
    Link(cdf=lambda z: np.exp(np.minimum(z - MEDIAN, 0) / 2), quantile=lambda p: 2 * np.log(p) + MEDIAN),
    # Exponential to the right: a sudden start.
    Link(cdf=lambda z: -np.expm1(-np.maximum(z + MEDIAN, 0) / 2), quantile=lambda p: -2 * np.log1p(-p) - MEDIAN),
    # Uniform: no tails.
    Link(
        cdf=lambda z: np.clip(0.5 + z / (4 * QUARTILE), 0, 1), quantile=lambda p: 4 * QUARTILE * (np.asarray(p) - 0.5)
    ),
)
