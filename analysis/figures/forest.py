"""The edges of studies that differ in one thing each, one below the other: a forest plot, and a page.

Each study is held against another of its family by the ratio of their LR50 (`analysis.stats.contrasts.ratio_interval`),
curve by curve; p is corrected over the whole family by Holm's method. An edge that was not reached is an arrow, and a
ratio with it one-sided. Seeds are not taken as paired: another model or recipe is another draw of thresholds.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import lr_axis
from analysis.figures.palette import method_styles
from analysis.loading import records
from analysis.stats.contrasts import LEVEL
from analysis.stats.edges import REACHED
from analysis.text.edges import edge_text
from analysis.text.forest import times_text


def draw(ax: Axes, table: pd.DataFrame) -> None:
    """A row of `forest` a line, from the top: the edge with its 95% interval, the ratio in words beside it."""
    styles = method_styles(table["method"])
    rows = records(table)
    first, last = _shown(rows)
    for y, row in enumerate(rows):
        style = styles[row["method"]]
        low, high = max(row["low"], row["lr_min"]), min(row["high"], row["lr_max"])
        if row["status"] == REACHED:
            ax.plot([low, high], [y, y], color=style.colour, linewidth=1.6, solid_capstyle="butt")
            ax.plot(row["edge"], y, marker=style.marker, color=style.colour, markersize=6)
        else:
            end, sign = (row["lr_max"], ">") if row["status"] == "not reached" else (row["lr_min"], "<")
            ax.plot(end, y, marker=sign, color=style.colour, markersize=7)
        if row["status"] == REACHED and row["low"] == 0:
            ax.plot(row["lr_min"], y, marker="<", color=style.colour, markersize=4)
        if row["status"] == REACHED and math.isinf(row["high"]):
            ax.plot(row["lr_max"], y, marker=">", color=style.colour, markersize=4)
        ax.annotate(
            f"{edge_text(row)}   {times_text(row)}",
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
        )
    if rows and rows[0]["status"] == REACHED:
        ax.axvline(rows[0]["edge"], color="0.75", linewidth=0.8, zorder=0)
    several = len(set(table["curve"])) > 1
    names = [filter(None, [row["words"], row["curve"] if several else ""]) for row in rows]
    ax.set_yticks(range(len(rows)), [" · ".join(name) for name in names])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    lr_axis(ax, [first, last])
    ax.set_xlabel(f"learning rate at which {'half' if LEVEL == 0.5 else f'{LEVEL:.0%}'} of the runs diverge")
    ax.grid(axis="x", color="0.92")


def _shown(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The lrs that the axis covers: all intervals, and the ends of the ranges of edges that were not seen in them."""
    ends = []
    for row in rows:
        low, high = max(row["low"], row["lr_min"]), min(row["high"], row["lr_max"])
        seen = row["status"] == REACHED
        ends += [low, high] if seen else [row["lr_max"] if row["status"] == "not reached" else row["lr_min"]]
    return min(ends) / MARGIN, max(ends) * MARGIN


MARGIN = 1.25


def figure(table: pd.DataFrame) -> Figure:
    drawn = Figure(figsize=(9.5, 1.1 + 0.3 * len(table)), layout="constrained")
    draw(drawn.subplots(), table)
    return drawn
