"""Edges against a size (depth, width, batch, horizon): exponents, and the edge at a size that was not trained.

The fit of a line is in `analysis.stats.power_law`. A prediction interval is for the true edge at the new size, scatter
included. It is wider than a band of the curve.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, records
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.stats.power_law import DRAWS, Posterior, interval, measurement_error, posteriors

LINE = [*CURVE, "level"]
"""Columns that distinguish lines: the edges of one line differ in size alone."""

LEAST_SIZES = 3

MOST_SCATTER = 0.3
"""If tau is probably at least this large, the edges do not follow the curve and nothing is predicted."""

WIDEST = 10.0
"""Nothing is predicted if the upper end of the interval is more than this times the lower end."""

PREDICTED, CANNOT_SAY = "predicted", "cannot say"


@dataclass(frozen=True, kw_only=True, eq=False)
class ScaleTables:
    """Edges against a size, the fit of each line, and its predictions.

    Attributes:
        axis: Name of the size, such as `ranker.depth`.
        points: One row an edge; columns LINE, method, size and, as in `analysis.stats.edges.edges`, edge, low, high,
            status, lr_min, lr_max.
        exponents: One row a line; columns LINE, method, sizes, reached (numbers of sizes, and of edges that were
            reached, with an interval), smallest, largest, exponent, exponent_low, exponent_high (in the middle of the
            sizes, 95%), bend, bend_low, bend_high (change of the exponent as the size grows by a factor of 10), scatter
            (median of tau), difference, difference_low, difference_high (exponent minus that of the first line of the
            model and level, taken as independent; NaN for the first line), left_out (median prediction of the largest
            size over its measured edge), left_out_low, left_out_high (the prediction interval of what is measured
            there: with the error of the measured edge), left_out_inside (None if not known), tested (the largest factor
            beyond the fitted sizes up to which every size lay inside its prediction; 1 if the nearest lay outside), why
            (why nothing can be predicted, or ""). Numbers are NaN if the edges determine no curve.
        predictions: One row a line and size; columns LINE, method, size, fitted (number of sizes), largest (of these),
            edge (median of the prediction), low, high (95% prediction interval), status ("predicted", "cannot say";
            then edge, low and high are NaN), why (of "cannot say"), tested (as in `exponents`, of the fitted sizes),
            measured, measured_low, measured_high, measured_status, lr_min, lr_max (of the edge trained there; "" and
            NaN if there is none), inside (whether the measured edge lies inside the prediction interval; None if one of
            them is not known). None without sizes to predict.
        doubling: `analysis.stats.horizon.last_doubling` if the size is the horizon, else None.
        too_few: Curves with fewer than LEAST_SIZES sizes, which are in none of the other tables; columns CURVE, sizes.
    """

    axis: str
    points: pd.DataFrame
    exponents: pd.DataFrame
    predictions: pd.DataFrame | None
    doubling: pd.DataFrame | None
    too_few: pd.DataFrame

    def by_model(self) -> "Iterator[tuple[str, ScaleTables]]":
        """Yield each model with its rows of every table."""
        tables = {name: value for name, value in vars(self).items() if isinstance(value, pd.DataFrame)}
        for model in dict.fromkeys(self.exponents["model"]):
            own = {name: table.loc[table["model"] == model] for name, table in tables.items()}
            yield model, dataclasses.replace(self, **own)


def scale_tables(
    axis: str, points: pd.DataFrame, sizes: Sequence[float] = (), doubling: pd.DataFrame | None = None
) -> ScaleTables:
    """Return the tables of edges against a size.

    Args:
        axis, doubling: As in `ScaleTables`.
        points: As in `ScaleTables`, of curves with any number of sizes.
        sizes: Where to predict.

    Raises:
        ValueError: If two edges of a line share a size, or no curve has LEAST_SIZES sizes; or as `predictions`.
    """
    if len(twice := points.loc[points.duplicated([*LINE, "size"])]):
        raise ValueError(f"two curves named {twice['curve'].iloc[0]} have {axis}={twice['size'].iloc[0]:g}")
    lines = [line for _, line in points.groupby(LINE, sort=False)]
    fitted = [line for line in lines if len(line) >= LEAST_SIZES]
    if not fitted:
        found = ", ".join(f"{size:g}" for size in sorted(set(points["size"])))
        raise ValueError(f"a fit needs {LEAST_SIZES} sizes or more, got {axis}={found}")
    points = pd.concat(fitted, ignore_index=True)
    few = [(*line[CURVE].iloc[0], len(line)) for line in lines if len(line) < LEAST_SIZES]
    return ScaleTables(
        axis=axis,
        points=points,
        exponents=exponents(points),
        predictions=predictions(points, sizes) if sizes else None,
        doubling=doubling,
        too_few=pd.DataFrame([*dict.fromkeys(few)], columns=pd.Index([*CURVE, "sizes"])),
    )


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Return `ScaleTables.exponents`: how edges depend on size, and how well the largest size is predicted."""
    rows, first = [], {}
    for key, line in _lines(points):
        head = dict(zip(LINE, key, strict=True)) | {"method": line["method"].iloc[0]}
        row = head | {"sizes": len(line), "reached": sum(math.isfinite(_error(point)) for point in records(line))}
        row |= {"smallest": line["size"].min(), "largest": line["size"].max()} | _left_out(line)
        found = posteriors(line)
        row |= _spread("exponent", found, lambda p: p.coefficients[:, 1])
        row |= _spread("bend", found, lambda p: 2 * math.log(10) * p.coefficients[:, 2])
        row["scatter"] = interval(found, lambda p: p.tau)[1] if found else math.nan
        against = first.setdefault((head["model"], head["level"]), (key, found))
        differences = found if against[1] and key != against[0] else ()
        row |= _spread("difference", differences, functools.partial(_exponent_above, others=against[1]))
        rows.append(row | {"why": _misfit(line, row)})
    return pd.DataFrame(rows)


def predictions(points: pd.DataFrame, sizes: Sequence[float]) -> pd.DataFrame:
    """Return `ScaleTables.predictions`: the edge of each line at new sizes, and beside it what was measured there.

    Trained sizes from the smallest of `sizes` upward are left out of the fit and predicted too.

    Raises:
        ValueError: If no line has a trained size below the smallest of `sizes`, or if none has LEAST_SIZES of them.
    """
    least, rows = min(sizes), []
    most = max(points.loc[points["size"] < least].groupby(LINE).size(), default=0)
    if most == 0:
        raise ValueError(f"{least:g} is not above the smallest size that was trained, {points['size'].min():g}")
    if most < LEAST_SIZES:
        raise ValueError(f"a fit needs {LEAST_SIZES} sizes below {least:g}, and {most} were trained")
    for key, line in _lines(points):
        fitted = line.loc[line["size"] < least]
        head = {"tested": math.nan, "why": f"a fit needs {LEAST_SIZES} sizes below {least:g}, and it has {len(fitted)}"}
        if len(fitted) >= LEAST_SIZES:
            (head,) = records(exponents(fitted))
        same = dict(zip(LINE, key, strict=True)) | {"method": line["method"].iloc[0], "fitted": len(fitted)}
        same |= {"largest": fitted["size"].max(), "tested": head["tested"]}
        measured = {row["size"]: row for row in records(line.loc[line["size"] >= least])}
        for size in sorted({*map(float, sizes), *measured}):
            row = same | {"size": size} | _predicted(fitted, size, str(head["why"]))
            rows.append(row | _measured(row, measured.get(size)))
    return pd.DataFrame(rows)


def bands(points: pd.DataFrame, up_to: float, count: int = 80) -> pd.DataFrame:
    """Return each line's prediction over sizes, for a figure.

    Args:
        points: The edges that are fitted, as in `ScaleTables`.
        up_to: The largest size.
        count: Sizes of a line, evenly spaced in log.

    Returns:
        Columns LINE, method, size, edge, low, high (95% prediction interval), for lines that have a curve.
    """
    rows = []
    for key, line in _lines(points):
        found = posteriors(line)
        head = dict(zip(LINE, key, strict=True)) | {"method": line["method"].iloc[0]}
        for size in np.geomspace(line["size"].min(), up_to, count) if found else ():
            low, edge, high = interval(found, lambda p, at=size: p.edge(at))
            rows.append(head | {"size": size, "edge": math.exp(edge), "low": math.exp(low), "high": math.exp(high)})
    return pd.DataFrame(rows, columns=pd.Index([*LINE, "method", "size", "edge", "low", "high"]))


def _lines(points: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    for key, line in points.groupby(LINE, sort=False):
        yield tuple(key), line.sort_values("size")  # pyright: ignore[reportGeneralTypeIssues, reportArgumentType]


def _spread(name: str, found: Sequence[Posterior], value: Callable[[Posterior], np.ndarray]) -> dict[str, float]:
    low, middle, high = interval(found, value) if found else (math.nan,) * 3
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def _exponent_above(posterior: Posterior, others: Sequence[Posterior]) -> np.ndarray:
    """Draws of this line's exponent less another line's at the same size, with the weights of this line's draws."""
    (other,) = (own for own in others if own.correlation == posterior.correlation)
    drawn = np.random.default_rng(1).choice(DRAWS, DRAWS, p=other.weight)
    return posterior.coefficients[:, 1] - other.exponent(math.exp(posterior.centre))[drawn]


# What a fit can predict


def _predicted(fitted: pd.DataFrame, size: float, why: str) -> dict[str, Any]:
    largest = max(fitted["size"], default=math.nan)
    span = largest / min(fitted["size"], default=math.nan)
    if not why and size / largest > span:
        why = f"too far: {size / largest:.3g} times the largest size, and the sizes span a factor of {span:.3g}"
    if not why:
        low, edge, high = map(math.exp, interval(posteriors(fitted), lambda p: p.edge(size)))
        if high <= WIDEST * low:
            return {"edge": edge, "low": low, "high": high, "status": PREDICTED, "why": ""}
        why = f"the prediction interval spans a factor of {high / low:.3g}"
    return dict.fromkeys(("edge", "low", "high"), math.nan) | {"status": CANNOT_SAY, "why": why}


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
    """The largest size predicted from the others; and how far beyond its sizes every smaller fit predicted well.

    A smaller fit counts where `predictions` would predict from it.
    """
    row: dict[str, Any] = {"left_out": math.nan, "left_out_low": math.nan, "left_out_high": math.nan}
    row |= {"left_out_inside": None, "tested": math.nan}
    held: list[tuple[float, bool]] = []
    for count in range(2, len(line)):
        fitted, larger = line.iloc[:count], records(line.iloc[count:])
        found = posteriors(fitted)
        for point in larger if found else ():
            error = _error(point) if point["status"] == REACHED else 0.0
            if not math.isfinite(error):
                continue
            low, _, high = map(math.exp, interval(found, lambda p, at=point["size"], e=error: p.edge(at, e)))
            inside = _inside(low, high, point)
            if (
                count >= LEAST_SIZES
                and inside is not None
                and _predicted(fitted, point["size"], "")["status"] == PREDICTED
            ):
                held.append((point["size"] / fitted["size"].max(), inside))
            if count == len(line) - 1:
                edge = math.exp(interval(found, lambda p, at=point["size"]: p.edge(at))[1])
                row |= {"left_out": edge / point["edge"], "left_out_low": low, "left_out_high": high}
                row["left_out_inside"] = inside
    failed = min((factor for factor, inside in held if not inside), default=math.inf)
    nearest = 1.0 if held else math.nan
    return row | {"tested": max((factor for factor, inside in held if inside and factor < failed), default=nearest)}


def _error(point: dict[str, Any]) -> float:
    """The standard deviation of a reached edge, in log; infinite if it was not reached, or its interval has no end."""
    return measurement_error(point["edge"], point["low"], point["high"]) if point["status"] == REACHED else math.inf


def _misfit(line: pd.DataFrame, row: dict[str, Any]) -> str:
    """Why nothing can be predicted from a line; "" if something can."""
    if row["reached"] < LEAST_SIZES:
        why = {NOT_REACHED: "lie above the tried lrs", BELOW: "lie below the tried lrs", REACHED: "have no interval"}
        others = {point["status"] for point in records(line) if not math.isfinite(_error(point))}
        said = " or ".join(words for status, words in why.items() if status in others)
        return f"{row['reached']} of {row['sizes']} edges were reached; the others {said}"
    if math.isnan(row["exponent"]):
        return "no curve fits both the reached edges and those beyond the tried lrs"
    if row["left_out_inside"] is False:
        return "the largest size lies outside its prediction from the others"
    if row["scatter"] >= MOST_SCATTER:
        return f"the edges scatter about the curve by {100 * row['scatter']:.0f}%"
    return ""
