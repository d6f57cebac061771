"""Edges against a size as text: exponents, predictions, and what was measured beside them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.horizon import FALLING, NOT_KNOWN
from analysis.stats.scale import CANNOT_SAY, LEAST_SIZES, ScaleTables
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import aligned, span_text, two_digits
from study.text.wording import count


def lines(found: ScaleTables) -> list[str]:
    """Return the text of `study scale` for a terminal."""
    shown = [f"edges against {found.axis}, {sizes_text(found.points)}"]
    for model, own in found.by_model():
        if own.doubling is None:
            parts = [aligned([EXPONENT_HEAD, *map(exponent_row, records(own.exponents))])]
        else:
            parts = [aligned(horizon_rows(own.points, own.doubling)), horizon_warnings(records(own.doubling))]
        if own.predictions is not None:
            parts.append(["", f"predicted from {found.axis} below {own.predictions['size'].min():g}:"])
            parts.append(aligned(prediction_rows(found.axis, own.predictions)))
            parts.append(warnings(own.predictions))
        elif own.doubling is None:
            parts.append(warnings(own.exponents))
        shown += ["", f"{model}:", *(f"  {line}".rstrip() for part in parts for line in part)]
    if len(found.too_few):
        shown += ["", f"note: {too_few_text(found.too_few)}"]
    return shown


def too_few_text(curves: pd.DataFrame) -> str:
    """Return `1 curve left out, with fewer than 3 sizes: agc on small (2)`."""
    named = ", ".join(f"{row['curve']} on {row['model']} ({row['sizes']})" for row in records(curves))
    return f"{count(len(curves), 'curve')} left out, with fewer than {LEAST_SIZES} sizes: {named}"


def horizon_rows(points: pd.DataFrame, doubling: pd.DataFrame) -> list[list[str]]:
    """Return a table of edges by horizon, and how far each moved over the last doubling."""
    sizes = sorted(set(points["size"]))
    moved = {(row["curve"], row["level"]): row for row in records(doubling)}
    edge_at = {(row["curve"], row["level"], row["size"]): edge_text(row) for row in records(points)}
    rows = [["curve", "edge", *(f"{size:g}" for size in sizes), "last doubling", "95% interval", ""]]
    for curve, level in dict.fromkeys((curve, level) for curve, level, _ in edge_at):
        row = moved.get((curve, level))
        ends = ["-", "-", NOT_KNOWN] if level == 0.5 else ["", "", ""]
        if row is not None and math.isfinite(row["ratio"]):
            ends = [f"{row['ratio']:.2f}", _span(row) or "-", str(row["status"])]
        edges = [edge_at.get((curve, level, size), "-") for size in sizes]
        rows.append([str(curve), level_name(level), *edges, *ends])
    return rows


def doubling_text(row: Mapping[str, Any]) -> str:
    """Return a row of `last_doubling` as text: `none: settled, LR50 x 1.00 (0.97 to 1.03)`."""
    if math.isnan(row["ratio"]):
        return f"{row['curve']}: {row['status']}"
    span = _span(row)
    said = f"{row['curve']}: {row['status']}, {level_name(row['level'])} x {row['ratio']:.2f}"
    return f"{said} ({span})" if span else said


def _span(row: Mapping[str, Any]) -> str:
    return "" if math.isnan(row["low"]) else span_text(row["low"], row["high"], "{:.2f}".format)


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


EXPONENT_HEAD = [
    "curve",
    "edge",
    "exponent",
    "95% interval",
    "minus first",
    "95% interval",
    "largest size left out",
]


def exponent_row(row: Mapping[str, Any]) -> list[str]:
    """Return a row of `exponents` as cells under EXPONENT_HEAD."""
    cells = [*_signed(row, "exponent"), *_signed(row, "difference"), left_out_text(row)]
    return [str(row["curve"]), level_name(row["level"]), *cells]


def _signed(row: Mapping[str, Any], name: str) -> list[str]:
    if math.isnan(row[name]):
        return ["-", "-"]
    return [f"{row[name]:+.2f}", f"{row[f'{name}_low']:+.2f} to {row[f'{name}_high']:+.2f}"]


def left_out_text(row: Mapping[str, Any]) -> str:
    """Return how well the largest size is predicted from the others: `+5%, inside`."""
    inside = {True: "inside", False: "outside"}.get(row["left_out_inside"], "-")
    return inside if math.isnan(row["left_out"]) else f"{100 * (row['left_out'] - 1):+.0f}%, {inside}"


def prediction_rows(axis: str, predictions: pd.DataFrame) -> list[list[str]]:
    """Return a table of predictions, each beside what was measured."""
    rows = [["curve", "edge", axis, "predicted", "95% prediction interval", "measured", "95% interval", "inside"]]
    for row in records(predictions):
        predicted, measured = [CANNOT_SAY, "-"], ["-", "-"]
        if row["status"] != CANNOT_SAY:
            predicted = [two_digits(row["edge"]), span_text(row["low"], row["high"])]
        if row["measured_status"]:
            point = row | {name: row[f"measured_{name}"] for name in ("low", "high", "status")}
            point["edge"] = row["measured"]
            measured = [edge_text(point), edge_span(point)]
        inside = {True: "yes", False: "no"}.get(row["inside"], "-")
        rows.append([row["curve"], level_name(row["level"]), f"{row['size']:g}", *predicted, *measured, inside])
    return rows


def warnings(table: pd.DataFrame) -> list[str]:
    """Return why some edges of a model cannot be predicted, and how far predictions were tested, one line each.

    Args:
        table: The model's rows of `ScaleTables.exponents` or `ScaleTables.predictions`.
    """
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in records(table):
        if row["why"]:
            at = f" at {row['size']:g}" if "size" in row else ""
            reasons.setdefault((row["curve"], row["why"]), []).append(f"{level_name(row['level'])}{at}")
    found = [f"{curve}, {', '.join(what)}: {CANNOT_SAY}: {why}" for (curve, why), what in reasons.items()]
    failed = [f"{row['curve']} {level_name(row['level'])}" for row in records(table) if row["tested"] == 1]
    if failed:
        named = ", ".join(dict.fromkeys(failed))
        found.append(f"Leaving out the largest sizes, the next size lay outside its prediction: {named}.")
    if known := [factor for factor in table["tested"].dropna() if factor > 1]:
        others = "other predictions" if failed else "predictions"
        found.append(
            f"Leaving out the largest sizes, {others} held up to {min(known):.2g} times the largest fitted size"
            + (f" ({max(known):.2g} times for the best curve)." if max(known) > min(known) else ".")
        )
    return found


def level_name(level: float) -> str:
    """Return `LR50`, `LR05`."""
    return f"LR{100 * level:02.3g}"


def json_values(found: ScaleTables) -> dict[str, Any]:
    """Return the tables as JSON values: finite numbers, or null."""
    shown = ["model", "curve", "level", "size", "edge", "low", "high", "status", "lr_min", "lr_max"]
    return {
        "axis": found.axis,
        "edges": _finite(found.points.reindex(columns=shown)),
        "exponents": _finite(found.exponents),
        "predictions": [] if found.predictions is None else _finite(found.predictions),
        "too_few_sizes": records(found.too_few),
        "last_doubling": [] if found.doubling is None else _finite(found.doubling),
    }


def _finite(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in records(table.astype(object))
    ]
