"""A power law with a bend: how an edge depends on a size (depth, width, batch, horizon).

    log edge = a + b u + c u^2 + scatter        u = log size, centred on the sizes that are fitted

b is the exponent in the middle of the sizes, and c bends the line. The scatter of the true edges about the curve is
normal with standard deviation tau. Each edge also has a measurement error, from its 95% interval. Given tau, the
posterior is normal and exact; tau is summed on a grid. Censored edges weight draws of it by their probability.

Sizes share seeds, so their measurement errors may be correlated. For fixed weights, the variance of a prediction is
linear in that correlation. So an interval spans those for no correlation and for almost full correlation
(`CORRELATIONS`).

Beyond the largest size the exponent may change again: there it is a random walk over log size, with a standard
deviation of 2 BEND_SD at a factor of e, as the bend's prior has. At log distance d this adds a variance of
(2 BEND_SD)^2 d^3 / 3.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import records
from analysis.stats.edges import NOT_REACHED, REACHED
from analysis.stats.intervals import TAIL

CORRELATIONS = (0.0, 0.9)
"""Correlations between the measurement errors of two sizes."""

LEVEL_SD, EXPONENT_SD, BEND_SD = 10.0, 1.0, 0.1
"""Standard deviations of the normal priors of a, b and c. At one BEND_SD the exponent changes by 0.2 as the size grows
by a factor of e."""

SCATTER = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6)
"""Values of tau, in log edge."""

SCATTER_SD = 0.1
"""Scale of the half-normal prior of tau."""

DRAWS, LEAST_DRAWS = 8000, 50
"""Draws of a posterior, and their least effective number. Censored edges that contradict the others leave fewer."""

LEAST_ERROR = 0.02
"""Smallest standard deviation of a measured log edge, and of a censored one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Weighted draws of a line's curve, D of them.

    Attributes:
        correlation: Of the measurement errors.
        centre: The mean log size.
        end: The largest log size, minus the centre.
        coefficients: a, b and c, (D, 3).
        tau: Scatter of the edges, (D,).
        normal: Standard normal numbers, for the scatter at a new size, (D,).
        weight: Sum 1, (D,).
    """

    correlation: float
    centre: float
    end: float
    coefficients: np.ndarray
    tau: np.ndarray
    normal: np.ndarray
    weight: np.ndarray

    def curve(self, size: float) -> np.ndarray:
        """Return the log edge of the curve at a size, (D,)."""
        return self.coefficients @ _terms(math.log(size) - self.centre)

    def edge(self, size: float, error: float = 0.0) -> np.ndarray:
        """Return the log edge at a size with scatter, (D,). error: of its measurement, a standard deviation."""
        beyond = max(0.0, math.log(size) - self.centre - self.end)
        wander = 2 * BEND_SD * math.sqrt(beyond**3 / 3)
        return self.curve(size) + np.sqrt(self.tau**2 + error**2 + wander**2) * self.normal

    def exponent(self, size: float) -> np.ndarray:
        """Return the slope of the curve at a size, (D,)."""
        return self.coefficients[:, 1] + 2 * self.coefficients[:, 2] * (math.log(size) - self.centre)


def posteriors(line: pd.DataFrame) -> tuple[Posterior, ...]:
    """Return the posterior of a line for each of `CORRELATIONS`; none if its edges do not determine one.

    Args:
        line: Columns size, edge, low, high and status (`analysis.stats.edges.edges`).
    """
    columns = ("size", "edge", "low", "high", "status")
    return _posteriors_of(tuple(tuple(row[name] for name in columns) for row in records(line)))


@functools.lru_cache(maxsize=512)
def _posteriors_of(rows: tuple[tuple[float, float, float, float, str], ...]) -> tuple[Posterior, ...]:
    centre = float(np.mean([math.log(row[0]) for row in rows]))
    errors = [measurement_error(*row[1:4]) if row[4] == REACHED else math.nan for row in rows]
    known = np.isfinite(errors)
    if not known.any():
        return ()
    u = np.log([row[0] for row, yes in zip(rows, known, strict=True) if yes]) - centre
    y = np.log([row[1] for row, yes in zip(rows, known, strict=True) if yes])
    error = np.array(errors)[known]
    censored = [row for row in rows if row[4] != REACHED]
    end = max(math.log(row[0]) for row in rows) - centre
    found = tuple(_posterior(u, y, error, correlation, centre, end, censored) for correlation in CORRELATIONS)
    return found if all(1 / np.square(one.weight).sum() >= LEAST_DRAWS for one in found) else ()


def _posterior(
    u: np.ndarray,
    y: np.ndarray,
    error: np.ndarray,
    correlation: float,
    centre: float,
    end: float,
    censored: Sequence[Any],
) -> Posterior:
    x, middle = np.stack([_terms(v) for v in u]), float(y.mean())
    prior = np.diag(np.square([LEVEL_SD, EXPONENT_SD, BEND_SD]))
    measured = correlation * np.outer(error, error) + (1 - correlation) * np.diag(error**2)
    log_weight, means, roots = [], [], []
    for tau in SCATTER:
        total = x @ prior @ x.T + measured + tau**2 * np.eye(len(y))
        gain = np.linalg.solve(total, x @ prior).T
        covariance = prior - gain @ x @ prior
        values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
        means.append(gain @ (y - middle) + np.array([middle, 0, 0]))
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
        log_density = -(np.linalg.slogdet(total)[1] + (y - middle) @ np.linalg.solve(total, y - middle)) / 2
        log_weight.append(log_density - (tau / SCATTER_SD) ** 2 / 2)
    rng = np.random.default_rng(0)
    share = special.softmax(log_weight + np.log(np.gradient(SCATTER)))
    drawn = rng.choice(len(SCATTER), DRAWS, p=share)
    normal = rng.normal(size=(DRAWS, 3))
    coefficients = np.array(means)[drawn] + np.einsum("dij,dj->di", np.array(roots)[drawn], normal)
    found = Posterior(
        correlation=correlation,
        centre=centre,
        end=end,
        coefficients=coefficients,
        tau=np.array(SCATTER)[drawn],
        normal=rng.normal(size=DRAWS),
        weight=np.ones(DRAWS),
    )
    log_likelihood = sum((_log_probability(found, *row) for row in censored), np.zeros(DRAWS))
    return dataclasses.replace(found, weight=special.softmax(log_likelihood))


def _log_probability(
    posterior: Posterior, size: float, _edge: float, low: float, high: float, status: str
) -> np.ndarray:
    """Log P(the edge at a size lies beyond the tried lrs), for each draw."""
    sign, bound = (1, low) if status == NOT_REACHED else (-1, high)
    if not 0 < bound < math.inf:
        return np.zeros(DRAWS)
    return special.log_ndtr(sign * (posterior.curve(size) - math.log(bound)) / np.maximum(posterior.tau, LEAST_ERROR))


def measurement_error(edge: float, low: float, high: float) -> float:
    """Return the standard deviation of a log edge from its 95% interval.

    The longer half counts. If one end is open, twice the other half counts; inf if both are.
    """
    z = -float(special.ndtri(TAIL))
    halves = [abs(math.log(end / edge)) / z for end in (low, high) if 0 < end < math.inf]
    if not halves:
        return math.inf
    return max(LEAST_ERROR, max(halves) * (1 if len(halves) == 2 else 2))


def _terms(u: float) -> np.ndarray:
    return np.array([1.0, u, u * u])


def interval(found: Sequence[Posterior], value: Callable[[Posterior], np.ndarray]) -> tuple[float, float, float]:
    """Return a value's 95% interval over all posteriors, and its median of the first: (low, median, high).

    Args:
        found: `posteriors` of a line, at least one.
        value: Returns the value of each draw.
    """
    ends = [_quantiles(value(p), p.weight, (TAIL, 0.5, 1 - TAIL)) for p in found]
    return min(e[0] for e in ends), ends[0][1], max(e[2] for e in ends)


def _quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weight[order]), shares)
    return values[order][np.minimum(at, len(values) - 1)].tolist()
