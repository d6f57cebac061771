"""Edges against a size (depth, width, batch, horizon): a power law with a bend, and the edge at a size not trained.

    log edge = a + b u + c u^2 + scatter        u = log size, centred on the sizes that are fitted

b is the exponent in the middle of the sizes, and c bends the line. The scatter of the true edges about the curve is
normal with standard deviation tau. Each edge also has a measurement error, from its 95% interval. Given tau, the
posterior is normal and exact; tau is summed on a grid. Censored edges weight draws of it by their probability.

Sizes share seeds, so their measurement errors may be correlated. For fixed weights, the variance of a prediction is
linear in that correlation. So an interval spans those for no correlation and for almost full correlation
(`CORRELATIONS`).

A prediction interval is for the true edge at the new size, scatter included. It is wider than a band of the curve.
Beyond the largest size the exponent may change again: there it is a random walk over log size, with a standard
deviation of 2 BEND_SD at a factor of e, as the bend's prior has. At log distance d this adds a variance of
(2 BEND_SD)^2 d^3 / 3.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import CURVE, records
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.stats.intervals import TAIL

LINE = [*CURVE, "level"]
"""Columns that distinguish lines: the edges of one line differ in size alone."""

LEAST_SIZES = 3

CORRELATIONS = (0.0, 0.9)
"""Correlations between the measurement errors of two sizes."""

LEVEL_SD, EXPONENT_SD, BEND_SD = 10.0, 1.0, 0.1
"""Standard deviations of the normal priors of a, b and c. At one BEND_SD the exponent changes by 0.2 as the size grows
by a factor of e."""

SCATTER = (0.0, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6)
"""Values of tau, in log edge."""

SCATTER_SD = 0.1
"""Scale of the half-normal prior of tau."""

MOST_SCATTER = 0.3
"""If tau is probably at least this large, the edges do not follow the curve and nothing is predicted."""

WIDEST = 10.0
"""Nothing is predicted if the upper end of the interval is more than this times the lower end."""

DRAWS = 8000

PREDICTED, CANNOT_SAY = "predicted", "cannot say"


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Weighted draws of a line's curve, D of them.

    Attributes:
        correlation: Of the measurement errors.
        centre: The mean log size.
        end: The largest log size, less the centre.
        coefficients: a, b and c, (D, 3).
        tau: Scatter of the edges, (D,).
        normal: Standard normal numbers for the scatter at a new size, (D,).
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


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Return how each line's edge depends on size, and how well its largest size is predicted from the others.

    Args:
        points: One row an edge: LINE, method, size and the columns edge, low, high, status, lr_min, lr_max of
            `analysis.stats.edges.edges`.

    Returns:
        One row a line; columns LINE, method, sizes, reached (numbers of sizes, of reached edges), smallest, largest,
        exponent, exponent_low, exponent_high (in the middle of the sizes, 95%), bend, bend_low, bend_high (change of
        the exponent as the size grows by a factor of 10), scatter (median of tau), difference, difference_low,
        difference_high (exponent less that of the first line of the model and level, taken as independent; NaN for
        the first line), left_out (median prediction of the largest size over its measured edge), left_out_low,
        left_out_high (its prediction interval), left_out_inside (None if not known), tested (the largest factor
        beyond the fitted sizes up to which every size lay inside its prediction), why (why nothing can be predicted,
        or ""). Numbers are NaN if no edge was reached.
    """
    rows, first = [], {}
    for key, line in _lines(points):
        head = dict(zip(LINE, key, strict=True)) | {"method": line["method"].iloc[0]}
        row = head | {"sizes": len(line), "reached": line["status"].tolist().count(REACHED)}
        row |= {"smallest": line["size"].min(), "largest": line["size"].max()} | _left_out(line)
        found = _posteriors(line)
        row |= _spread("exponent", found, lambda p: p.coefficients[:, 1])
        row |= _spread("bend", found, lambda p: 2 * math.log(10) * p.coefficients[:, 2])
        row["scatter"] = _interval(found, lambda p: p.tau)[1] if found else math.nan
        against = first.setdefault((head["model"], head["level"]), (key, found))
        differences = found if against[1] and key != against[0] else ()
        row |= _spread("difference", differences, functools.partial(_exponent_above, others=against[1]))
        rows.append(row | {"why": _misfit(line, row)})
    return pd.DataFrame(rows)


def predictions(points: pd.DataFrame, sizes: Sequence[float]) -> pd.DataFrame:
    """Return the edge of each line at new sizes, and beside it what was measured there.

    Trained sizes from the smallest of `sizes` upward are left out of the fit and predicted too.

    Args:
        points: As for `exponents`.
        sizes: Where to predict.

    Returns:
        One row a line and size; columns LINE, method, size, fitted (number of sizes), largest (of these), edge (median
        of the prediction), low, high (95% prediction interval), status ("predicted", "cannot say"; then edge, low and
        high are NaN), why (of "cannot say"), tested (as in `exponents`, of the fitted sizes), measured, measured_low,
        measured_high, measured_status, lr_min, lr_max (of the edge trained there; "" and NaN if there is none),
        inside (whether the measured edge lies inside the prediction interval; None if one of them is not known).

    Raises:
        ValueError: If a size is smaller than all trained ones, or fewer than LEAST_SIZES sizes are left to fit.
    """
    rows = []
    for key, line in _lines(points):
        fitted = line.loc[line["size"] < min(sizes)]
        if fitted.empty:
            raise ValueError(f"{min(sizes):g} is not above the smallest size that was trained, {line['size'].min():g}")
        if len(fitted) < LEAST_SIZES:
            raise ValueError(f"a fit needs {LEAST_SIZES} sizes below {min(sizes):g}, and {len(fitted)} were trained")
        (head,) = records(exponents(fitted))
        measured = {row["size"]: row for row in records(line.loc[line["size"] >= min(sizes)])}
        for size in sorted({*map(float, sizes), *measured}):
            row = {**dict(zip(LINE, key, strict=True)), "method": head["method"], "size": size, "fitted": len(fitted)}
            row |= {"largest": head["largest"], "tested": head["tested"]} | _predicted(fitted, size, str(head["why"]))
            rows.append(row | _measured(row, measured.get(size)))
    return pd.DataFrame(rows)


def bands(points: pd.DataFrame, up_to: float, count: int = 80) -> pd.DataFrame:
    """Return each line's prediction over sizes, for a figure.

    Args:
        points: The edges that are fitted, as for `exponents`.
        up_to: The largest size.
        count: Sizes of a line, evenly spaced in log.

    Returns:
        Columns LINE, method, size, edge, low, high (95% prediction interval), without lines that reached no edge.
    """
    rows = []
    for key, line in _lines(points):
        found = _posteriors(line)
        head = dict(zip(LINE, key, strict=True)) | {"method": line["method"].iloc[0]}
        for size in np.geomspace(line["size"].min(), up_to, count) if found else ():
            low, edge, high = _interval(found, lambda p, at=size: p.edge(at))
            rows.append(head | {"size": size, "edge": math.exp(edge), "low": math.exp(low), "high": math.exp(high)})
    return pd.DataFrame(rows, columns=pd.Index([*LINE, "method", "size", "edge", "low", "high"]))


def _lines(points: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    for key, line in points.groupby(LINE, sort=False):
        yield tuple(key), line.sort_values("size")  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]


# The posterior


def _posteriors(line: pd.DataFrame) -> tuple[Posterior, ...]:
    """The posterior for each of `CORRELATIONS`; none if no edge was reached."""
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
    return tuple(_posterior(u, y, error, correlation, centre, end, censored) for correlation in CORRELATIONS)


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
    for size, _, low, high, status in censored:
        found.weight[:] *= _probability(found, size, low, high, status)
    found.weight[:] /= found.weight.sum() or 1.0
    return found


def _probability(posterior: Posterior, size: float, low: float, high: float, status: str) -> np.ndarray:
    """P(the edge at a size lies beyond the tried lrs), for each draw."""
    sign, bound = (1, low) if status == NOT_REACHED else (-1, high)
    if not (bound > 0 and math.isfinite(bound)):
        return np.ones(DRAWS)
    return special.ndtr(sign * (posterior.curve(size) - math.log(bound)) / np.maximum(posterior.tau, LEAST_ERROR))


LEAST_ERROR = 0.02
"""Smallest standard deviation of a measured log edge, and of a censored one."""


def measurement_error(edge: float, low: float, high: float) -> float:
    """Return the standard deviation of a log edge from its 95% interval: its longer half; inf if both ends are open."""
    z = -float(special.ndtri(TAIL))
    halves = [abs(math.log(end / edge)) / z for end in (low, high) if 0 < end < math.inf]
    if not halves:
        return math.inf
    return max(LEAST_ERROR, max(halves) * (1 if len(halves) == 2 else 2))


def _terms(u: float) -> np.ndarray:
    return np.array([1.0, u, u * u])


def _interval(
    found: Sequence[Posterior], value: Callable[[Posterior], np.ndarray], tail: float = TAIL
) -> tuple[float, float, float]:
    """(low, median, high) of a value: the ends over all posteriors, the median of the first."""
    ends = [_quantiles(value(p), p.weight, (tail, 0.5, 1 - tail)) for p in found]
    return min(e[0] for e in ends), ends[0][1], max(e[2] for e in ends)


def _spread(name: str, found: Sequence[Posterior], value: Callable[[Posterior], np.ndarray]) -> dict[str, float]:
    low, middle, high = _interval(found, value) if found else (math.nan,) * 3
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def _quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weight[order]), shares)
    return values[order][np.minimum(at, len(values) - 1)].tolist()


def _exponent_above(posterior: Posterior, others: Sequence[Posterior]) -> np.ndarray:
    """Draws of this line's exponent less another line's at the same size, with the weights of this line's draws."""
    (other,) = (own for own in others if own.correlation == posterior.correlation)
    drawn = np.random.default_rng(1).choice(DRAWS, DRAWS, p=other.weight)
    return posterior.coefficients[:, 1] - other.exponent(math.exp(posterior.centre))[drawn]


# What a fit can predict


def _predicted(fitted: pd.DataFrame, size: float, why: str) -> dict[str, Any]:
    sizes = fitted["size"].tolist()
    smallest, largest = min(sizes), max(sizes)
    if not why and size / largest > largest / smallest:
        span = largest / smallest
        why = f"too far: {size / largest:.3g} times the largest size, and the sizes span a factor of {span:.3g}"
    low, edge, high = (math.nan,) * 3
    if not why:
        low, edge, high = map(math.exp, _interval(_posteriors(fitted), lambda p: p.edge(size)))
        if high > WIDEST * low:
            why = f"the prediction interval spans a factor of {high / low:.2g}"
            low, edge, high = (math.nan,) * 3
    return {"edge": edge, "low": low, "high": high, "status": CANNOT_SAY if why else PREDICTED, "why": why}


def _measured(row: dict[str, Any], point: dict[str, Any] | None) -> dict[str, Any]:
    if point is None:
        names = ("measured", "measured_low", "measured_high", "lr_min", "lr_max")
        return dict.fromkeys(names, math.nan) | {"measured_status": "", "inside": None}
    found = {"measured": point["edge"], "measured_low": point["low"], "measured_high": point["high"]}
    found |= {"measured_status": point["status"], "lr_min": point["lr_min"], "lr_max": point["lr_max"]}
    return found | {"inside": None if row["status"] == CANNOT_SAY else _inside(row["low"], row["high"], point)}


def _inside(low: float, high: float, point: dict[str, Any]) -> bool | None:
    """Whether a measured edge lies in an interval; None for a censored edge that may or may not."""
    if point["status"] == REACHED:
        return bool(low <= point["edge"] <= high)
    beyond = high < point["lr_max"] if point["status"] == NOT_REACHED else low > point["lr_min"]
    return False if beyond else None


def _left_out(line: pd.DataFrame) -> dict[str, Any]:
    """The largest size predicted from the others; and how far beyond its sizes every smaller fit predicted well."""
    row: dict[str, Any] = {"left_out": math.nan, "left_out_low": math.nan, "left_out_high": math.nan}
    row |= {"left_out_inside": None, "tested": math.nan}
    held: list[tuple[float, bool]] = []
    for count in range(2, len(line)):
        fitted, larger = line.iloc[:count], records(line.iloc[count:])
        found = _posteriors(fitted)
        for point in larger if found else ():
            error = measurement_error(point["edge"], point["low"], point["high"]) if point["status"] == REACHED else 0.0
            if not math.isfinite(error):
                continue
            low, _, high = map(math.exp, _interval(found, lambda p, at=point["size"], e=error: p.edge(at, e)))
            inside = _inside(low, high, point)
            if count >= LEAST_SIZES and inside is not None:
                held.append((point["size"] / fitted["size"].max(), inside))
            if count == len(line) - 1:
                low, edge, high = map(math.exp, _interval(found, lambda p, at=point["size"]: p.edge(at)))
                row |= {"left_out": edge / point["edge"], "left_out_low": low, "left_out_high": high}
                row["left_out_inside"] = inside
    failed = min((factor for factor, inside in held if not inside), default=math.inf)
    return row | {"tested": max((factor for factor, inside in held if inside and factor < failed), default=math.nan)}


def _misfit(line: pd.DataFrame, row: dict[str, Any]) -> str:
    """Why nothing can be predicted from a line; "" if something can."""
    if row["reached"] < LEAST_SIZES:
        beyond = {NOT_REACHED: "above", BELOW: "below"}
        censored = sorted({beyond[status] for status in line["status"] if status != REACHED})
        where = " and ".join(censored)
        return f"{row['reached']} of {row['sizes']} edges were reached; the others lie {where} the tried lrs"
    if row["left_out_inside"] is False:
        return "the largest size lies outside its prediction from the others"
    if row["scatter"] >= MOST_SCATTER:
        return f"the edges scatter about the curve by {100 * row['scatter']:.0f}%"
    return ""
