"""What each figure shows, in words and numbers, for readers who do not see it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.edges import BELOW, NOT_REACHED
from analysis.stats.quality import lower_is_better
from analysis.stats.scale import PREDICTED, ScaleTables
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import p_text, percent, quality_words, span_text, two_digits
from analysis.text.scale import level_name

MOST = 12
"""Curves that are told one by one."""


def divergence(edges: pd.DataFrame) -> str:
    """Return the edge of each curve of P(divergence) against the lr."""
    return _told("P(divergence) against the learning rate.", records(edges), _edge)


def _edge(row: Mapping[str, Any]) -> str:
    half = f"{100 * row['level']:g}%"
    if row["status"] == NOT_REACHED:
        return f"stays below {half} up to lr {row['lr_max']:g}, at most {row['most_k']} of {row['most_n']}"
    if row["status"] == BELOW:
        return f"is above {half} from the lowest lr on, {row['lr_min']:g}"
    return f"crosses {half} at lr {edge_text(row)} ({edge_span(row)})"


def frontier(lines: Sequence[pd.DataFrame]) -> str:
    """Return the edges at the ends of each line of edges against a threshold."""
    told = []
    for line in lines:
        first, last = (records(line.sort_values("value"))[i] for i in (0, -1))
        name = {"model": first["model"], "curve": _line(first["method"], first["threshold"], first["held"])}
        told.append(name | {"said": f"from {_at(first)} to {_at(last)}"})
    return _told("The edge against the threshold.", told, lambda row: row["said"])


def _line(method: str, threshold: str, held: str) -> str:
    """The name of a line: `clippy rel (abs=0.01)`."""
    return f"{method} {threshold}".strip() + (f" ({held})" if held else "")


def _at(row: Mapping[str, Any]) -> str:
    return f"LR50 {edge_text(row)} at {row['value']:g}"


def threshold_map(cells: pd.DataFrame) -> str:
    """Return in how many cells of the map of lr and threshold none, some and all runs diverged."""
    told = []
    lines = cells.groupby(["model", "method", "threshold", "held"], sort=False)
    for (model, method, threshold, held), line in lines:  # pyright: ignore
        k, n = line["k"].to_numpy(), line["n"].to_numpy()
        none, every = int((k == 0).sum()), int((k == n).sum())
        said = (
            f"of {len(line)} cells, {none} without divergence, {len(line) - none - every} in between, {every} with all"
        )
        told.append({"model": model, "curve": _line(method, threshold, held), "said": said})
    return _told("Diverged runs over learning rate and threshold.", told, lambda row: row["said"])


def tradeoff(table: pd.DataFrame) -> str:
    """Return the Pareto front of quality against P(divergence)."""
    front = records(table.loc[table["pareto"]].sort_values(["model", "rate"]))
    measure = quality_words(str(table["measure"].iloc[0])) if len(table) else "quality"
    return _told(
        f"{measure} against P(divergence); the Pareto front:",
        front,
        lambda row: f"at lr {row['lr']:g}, {row['quality']:.4g} and {row['k']} of {row['n']} diverged",
    )


def quality(title: str, table: pd.DataFrame, column: str) -> str:
    """Return the best median of each curve of a quality against the lr, and that at its highest lr."""
    down, rows = lower_is_better(column), []
    for _, of_curve in table.loc[table[column].notna()].groupby(["model", "curve"], sort=False):
        ordered = of_curve.sort_values(column, ascending=down, kind="stable")
        best, last = records(ordered)[0], records(of_curve.sort_values("lr"))[-1]
        said = f"best {best[column]:.3g} at lr {best['lr']:g}, {last[column]:.3g} at lr {last['lr']:g}"
        rows.append({"model": best["model"], "curve": best["curve"], "said": said})
    return _told(f"{title} against the learning rate, medians over seeds.", rows, lambda row: row["said"])


def micro(rates: pd.DataFrame) -> str:
    """Return the highest share of each curve of micro divergence against the lr."""
    highest = rates.sort_values("micro_rate", ascending=False, kind="stable").drop_duplicates(["model", "curve"])
    return _told(
        "Share of runs with a micro divergence against the learning rate.",
        records(highest.sort_index()),
        lambda row: f"at most {row['micro']} of {row['n']}, at lr {row['lr']:g}" if row["micro"] else "none",
    )


def horizon(table: pd.DataFrame) -> str:
    """Return the share of diverged runs of each curve at the last step, and when half of it was reached."""
    rows = []
    for _, of_curve in table.groupby(["model", "curve"], sort=False):
        last = records(of_curve)[-1]
        said = f"{percent(last['share'])} of {last['runs']} runs by step {last['step']}"
        known = of_curve.loc[of_curve["known"].astype(bool) & (of_curve["share"] >= last["share"] / 2), "step"]
        if last["share"] and len(known):
            said += f", half of these by step {known.iloc[0]}"
        rows.append({"model": last["model"], "curve": last["curve"], "said": said})
    return _told("Share of diverged runs over steps.", rows, lambda row: row["said"])


def gallery(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]], lost_at: str) -> str:
    """Return which pairs of runs the gallery shows, and when the diverged run of each was lost."""
    rows = []
    for broken, healthy in pairs:
        at = "" if pd.isna(broken[lost_at]) else f", lost at step {int(broken[lost_at])}"
        reason = str(broken["reason"]).replace("_", " ")
        said = f"lr {broken['lr']:g}, seed {broken['seed']}, {reason}{at}; healthy: lr {healthy['lr']:g}"
        rows.append({"model": broken["model"], "curve": broken["curve"], "said": said})
    return _told("Gain over steps of diverged runs beside healthy ones.", rows, lambda row: row["said"])


def forest(table: pd.DataFrame) -> str:
    """Return the edge and the ratio of each line of a forest plot."""

    def said(row: Mapping[str, Any]) -> str:
        ratio = "" if pd.isna(row["ratio"]) else f", {two_digits(row['ratio'])} times that of {row['against']}"
        p = "" if pd.isna(row["p_holm"]) else f" (p {p_text(row['p_holm'])})"
        return f"{row['words']}: LR50 {edge_text(row)} ({edge_span(row)}){ratio}{p}"

    return _told("Edges with 95% intervals.", records(table), said)


def scale(found: ScaleTables, level: float = 0.5) -> str:
    """Return the edge of each curve at each size, with its interval, and the predictions."""
    points = found.points.loc[found.points["level"] == level]
    told: dict[tuple[str, str], list[str]] = {}
    for row in records(points):
        at = f"{edge_text(row)} ({edge_span(row)}) at {row['size']:g}"
        told.setdefault((row["model"], row["curve"]), []).append(at)
    if found.predictions is not None:
        for row in records(found.predictions.loc[found.predictions["level"] == level]):
            known = row["status"] == PREDICTED
            edge = f"{two_digits(row['edge'])} ({span_text(row['low'], row['high'])})" if known else row["status"]
            told.setdefault((row["model"], row["curve"]), []).append(f"predicted at {row['size']:g}: {edge}")
    rows = [{"model": model, "curve": curve, "said": "; ".join(said)} for (model, curve), said in told.items()]
    return _told(f"{level_name(level)} against {found.axis}, with 95% intervals.", rows, lambda row: row["said"])


def _told(title: str, rows: Sequence[Mapping[str, Any]], say: Callable[[Mapping[str, Any]], str]) -> str:
    several = len({row["model"] for row in rows}) > 1
    lines = [
        f"{row['model']}, {row['curve']}: {say(row)}" if several else f"{row['curve']}: {say(row)}" for row in rows
    ]
    more = f" And {len(lines) - MOST} more." if len(lines) > MOST else ""
    return f"{title} {'. '.join(lines[:MOST])}.{more}" if lines else title


def range_tests(rules: pd.DataFrame) -> str:
    """Return what the figure of range tests shows. rules: `analysis.stats.range_tests.over_seeds`."""
    curves = ", ".join(dict.fromkeys(rules["curve"]))
    return (
        f"Range tests of {curves}: training loss against the lr that rises step by step, a thin line a seed; medians "
        "and quartiles over seeds of where the loss explodes and of what Lightning and fastai would suggest"
    )
