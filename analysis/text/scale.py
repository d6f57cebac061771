"""Edges against a size as text: exponents, predictions, and what was measured beside them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.horizon import FALLING
from analysis.stats.scale import CANNOT_SAY
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import aligned, span_text, two_digits


def lines(
    axis: str,
    points: pd.DataFrame,
    exponents: pd.DataFrame,
    predictions: pd.DataFrame | None,
    doubling: pd.DataFrame | None = None,
) -> list[str]:
    """Return the text of `study scale` for a terminal.

    Args:
        axis: Name of the size.
        points: The edges.
        exponents: `analysis.stats.scale.exponents` of the points.
        predictions: `analysis.stats.scale.predictions`, or None.
        doubling: `analysis.stats.horizon.last_doubling` if the size is the horizon, else None.
    """
    found = [f"edges against {axis}, {sizes_text(points)}"]
    for model in dict.fromkeys(exponents["model"]):
        found += ["", f"{model}:"]
        of_model = exponents.loc[exponents["model"] == model]
        if doubling is None:
            found += [f"  {line}" for line in aligned([EXPONENT_HEAD, *map(exponent_row, records(of_model))])]
        else:
            own = points.loc[points["model"] == model]
            moved = doubling.loc[doubling["model"] == model]
            found += [f"  {line}" for line in aligned(horizon_rows(own, moved))]
            found += [f"  {sentence}" for sentence in horizon_warnings(records(moved))]
        if predictions is not None:
            own = predictions.loc[predictions["model"] == model]
            found += ["", f"  predicted from {axis} below {own['size'].min():g}:"]
            found += [f"  {line}" for line in aligned([prediction_head(axis), *map(prediction_row, records(own))])]
        if predictions is not None or doubling is None:
            found += [f"  {sentence}" for sentence in warnings(of_model, predictions)]
    return found


def horizon_rows(points: pd.DataFrame, doubling: pd.DataFrame) -> list[list[str]]:
    """Return a table of edges by horizon, and how far each moved over the last doubling."""
    sizes = sorted(set(points["size"]))
    moved = {(row["curve"], row["level"]): row for row in records(doubling)}
    edge_at = {(row["curve"], row["level"], row["size"]): edge_text(row) for row in records(points)}
    rows = [["curve", "edge", *(f"{size:g}" for size in sizes), "last doubling", "95% interval", ""]]
    for curve, level in dict.fromkeys((curve, level) for curve, level, _ in edge_at):
        row = moved.get((curve, level))
        ends = ["", "", ""] if row is None else ["-", "-", str(row["status"])]
        if row is not None and math.isfinite(row["ratio"]):
            span = "-" if math.isnan(row["low"]) else f"{row['low']:.2f} to {row['high']:.2f}"
            ends = [f"{row['ratio']:.2f}", span, str(row["status"])]
        edges = [edge_at.get((curve, level, size), "-") for size in sizes]
        rows.append([str(curve), level_name(level), *edges, *ends])
    return rows


def doubling_text(row: Mapping[str, Any]) -> str:
    """Return a row of `last_doubling` as text: `none: settled, LR50 x 1.00 (0.97 to 1.03)`."""
    if math.isnan(row["ratio"]):
        return f"{row['curve']}: {row['status']}"
    span = "" if math.isnan(row["low"]) else f" ({row['low']:.2f} to {row['high']:.2f})"
    return f"{row['curve']}: {row['status']}, {level_name(row['level'])} x {row['ratio']:.2f}{span}"


def horizon_warnings(doubling: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return one line for each row of `last_doubling` whose edge still falls, or whose runs diverged late."""
    found = []
    for row in doubling:
        if row["status"] == FALLING or (row["p"] < LATE and row["late"] > row["recovered"]):
            found.append(
                f"{row['curve']}, {level_name(row['level'])}: still falls: {row['late']} runs diverged after step "
                f"{row['steps_half']:g}, {row['recovered']} recovered; longer training diverges at lower lrs"
            )
    return found


LATE = 0.05
"""Below this p, more runs diverged late than recovered."""


def sizes_text(points: pd.DataFrame) -> str:
    """Return `5 sizes from 1 to 6`."""
    sizes = sorted(set(points["size"]))
    return f"{len(sizes)} sizes from {sizes[0]:g} to {sizes[-1]:g}"


EXPONENT_HEAD = ["curve", "edge", "exponent", "95% interval", "less the first", "95% interval", "largest size left out"]


def exponent_row(row: Mapping[str, Any]) -> list[str]:
    """Return a row of `exponents` as cells under EXPONENT_HEAD."""
    return [
        str(row["curve"]),
        level_name(row["level"]),
        *_signed(row, "exponent"),
        *_signed(row, "difference"),
        left_out_text(row),
    ]


def _signed(row: Mapping[str, Any], name: str) -> list[str]:
    if math.isnan(row[name]):
        return ["-", "-"]
    return [f"{row[name]:+.2f}", f"{row[f'{name}_low']:+.2f} to {row[f'{name}_high']:+.2f}"]


def left_out_text(row: Mapping[str, Any]) -> str:
    """Return how well the largest size is predicted from the others: `+5%, inside`."""
    if math.isnan(row["left_out"]):
        return {True: "inside", False: "outside"}.get(row["left_out_inside"], "-")
    return f"{100 * (row['left_out'] - 1):+.0f}%, {'inside' if row['left_out_inside'] else 'outside'}"


def prediction_head(axis: str) -> list[str]:
    """Return the head of a table of predictions."""
    return ["curve", "edge", axis, "predicted", "95% prediction interval", "measured", "95% interval", "inside"]


def prediction_row(row: Mapping[str, Any]) -> list[str]:
    """Return a row of `predictions` as cells under `prediction_head`."""
    predicted = [CANNOT_SAY, "-"]
    if row["status"] != CANNOT_SAY:
        predicted = [two_digits(row["edge"]), span_text(row["low"], row["high"])]
    measured = ["-", "-"]
    if row["measured_status"]:
        point = {name: row[f"measured_{name}"] for name in ("low", "high", "status")}
        point |= {"edge": row["measured"], "lr_min": row["lr_min"], "lr_max": row["lr_max"]}
        measured = [edge_text(point), edge_span(point)]
    inside = {True: "yes", False: "no"}.get(row["inside"], "-")
    return [str(row["curve"]), level_name(row["level"]), f"{row['size']:g}", *predicted, *measured, inside]


def warnings(exponents: pd.DataFrame, predictions: pd.DataFrame | None = None) -> list[str]:
    """Return why some edges cannot be predicted, and how far predictions were tested, one line each."""
    rows = records(exponents) if predictions is None else records(predictions)
    shown = {(row["curve"], row["level"]) for row in records(exponents)}
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row["why"] and (row["curve"], row["level"]) in shown:
            at = "" if predictions is None else f" at {row['size']:g}"
            reasons.setdefault((row["curve"], row["why"]), []).append(f"{level_name(row['level'])}{at}")
    found = [f"{curve}, {', '.join(what)}: {CANNOT_SAY}: {why}" for (curve, why), what in reasons.items()]
    tested = {(row["curve"], row["level"]): row["tested"] for row in rows}
    known = [factor for key, factor in tested.items() if key in shown and math.isfinite(factor)]
    if known:
        found.append(
            f"Leaving out the largest sizes, predictions held up to {min(known):.2g} times the largest fitted size"
            + (f" ({max(known):.2g} times for the best curve)." if max(known) > min(known) else ".")
        )
    return found


def level_name(level: float) -> str:
    """Return `LR50`, `LR05`."""
    return f"LR{100 * level:02.3g}"


def json_values(
    axis: str,
    points: pd.DataFrame,
    exponents: pd.DataFrame,
    predictions: pd.DataFrame | None,
    doubling: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Return the tables of `lines` as JSON values: finite numbers, or null."""
    shown = ["model", "curve", "level", "size", "edge", "low", "high", "status", "lr_min", "lr_max"]
    return {
        "axis": axis,
        "edges": _finite(points.reindex(columns=shown)),
        "exponents": _finite(exponents),
        "predictions": [] if predictions is None else _finite(predictions),
        "last_doubling": [] if doubling is None else _finite(doubling),
    }


def _finite(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in records(table.astype(object))
    ]
