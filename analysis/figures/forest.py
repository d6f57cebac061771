"""A forest plot: the edges of studies that differ in one thing each, one below the other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import lr_axis
from analysis.figures.palette import LineStyle, method_styles
from analysis.loading import records
from analysis.stats.contrasts import LEVEL
from analysis.stats.edges import NOT_REACHED, REACHED
from analysis.text.edges import edge_text
from analysis.text.forest import times_text

MARGIN = 1.25
"""Factor by which the axis extends beyond what is drawn."""


def forest_plot(table: pd.DataFrame) -> Figure:
    """Return the forest plot of `analysis.stats.forest.forest`."""
    figure = Figure(figsize=(9.5, 1.1 + 0.3 * len(table)), layout="constrained")
    draw_forest(figure.subplots(), table)
    return figure


def draw_forest(ax: Axes, table: pd.DataFrame) -> None:
    """Draw each edge on a line of its own, with its 95% interval and, beside it, the edge and its ratio in words.

    An edge that was not reached is an arrow.

    Args:
        table: `analysis.stats.forest.forest`, drawn from the top.
    """
    styles = method_styles(table["method"])
    rows = records(table)
    for y, row in enumerate(rows):
        _draw_edge(ax, y, row, styles[row["method"]])
        place = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 8}
        ax.annotate(f"{edge_text(row)}   {times_text(row)}", (1.01, y), **place)
    if rows and rows[0]["status"] == REACHED:
        ax.axvline(rows[0]["edge"], color="0.75", linewidth=0.8, zorder=0)
    several = len(set(table["curve"])) > 1
    names = [filter(None, [row["words"], row["curve"] if several else ""]) for row in rows]
    ax.set_yticks(range(len(rows)), [" · ".join(name) for name in names])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    lr_axis(ax, _lr_range(rows))
    ax.set_xlabel(f"learning rate at which {'half' if LEVEL == 0.5 else f'{LEVEL:.0%}'} of the runs diverge")
    ax.grid(axis="x", color="0.92")


def _draw_edge(ax: Axes, y: int, row: Mapping[str, Any], style: LineStyle) -> None:
    """Draw an edge with its interval; small arrows where the interval has no end."""
    colour = style.colour
    if row["status"] != REACHED:
        (end,) = _ends(row)
        ax.plot(end, y, marker=">" if row["status"] == NOT_REACHED else "<", color=colour, markersize=7)
        return
    ax.plot(_ends(row), [y, y], color=colour, linewidth=1.6, solid_capstyle="butt")
    ax.plot(row["edge"], y, marker=style.marker, color=colour, markersize=6)
    if row["low"] == 0:
        ax.plot(row["lr_min"], y, marker="<", color=colour, markersize=4)
    if math.isinf(row["high"]):
        ax.plot(row["lr_max"], y, marker=">", color=colour, markersize=4)


def _lr_range(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The lrs that the axis covers."""
    ends = [end for row in rows for end in _ends(row)]
    return min(ends) / MARGIN, max(ends) * MARGIN


def _ends(row: Mapping[str, Any]) -> list[float]:
    """The interval within the tried lrs; of an edge that was not reached, the nearest lr tried."""
    if row["status"] == REACHED:
        return [max(row["low"], row["lr_min"]), min(row["high"], row["lr_max"])]
    return [row["lr_max"] if row["status"] == NOT_REACHED else row["lr_min"]]
