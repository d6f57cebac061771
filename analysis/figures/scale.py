"""Edges against a size on log axes: the measured edges, the fit, and its prediction interval."""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from analysis.figures.axes import BAND_ALPHA, figure_style, legend, log_ticks, panel_figure
from analysis.figures.palette import LineStyle, curve_styles
from analysis.loading import CURVE, records
from analysis.stats.edges import NOT_REACHED, REACHED
from analysis.stats.scale import PREDICTED, ScaleTables, bands
from analysis.text.scale import level_name

LEAST_SPACE = 0.07
"""Space between two ticks of sizes, as a share of the axis."""


def scale(found: ScaleTables, level: float = 0.5) -> Figure:
    """Return the figure of edges against a size: one panel a model, or one a curve if there are predictions.

    Filled markers were fitted, open ones were left out of the fit. Diamonds are predictions.

    Args:
        found: The edges, and predictions if there are any.
        level: P(divergence) at the edges that are drawn.
    """
    predictions, points = found.predictions, found.points.loc[found.points["level"] == level]
    styles = curve_styles(points)
    alone = predictions is not None and len(styles) > 1
    keys = [*CURVE] if alone else ["model"]
    panels = [panel for _, panel in points.groupby(keys, sort=False)]
    with figure_style():
        figure, every = panel_figure(len(panels))
        for ax, panel in zip(every, panels, strict=True):
            sizes = set(panel["size"])
            for curve, line in panel.groupby("curve", sort=False):
                own = None if predictions is None else _of(predictions, line)
                sizes |= set() if own is None else set(own["size"])
                draw_line(ax, line, own, styles[str(curve)])
            _axes(ax, found.axis, level, sizes)
            ax.set_title(" · ".join(str(panel[name].iloc[0]) for name in keys))
        legend(figure, styles)
    return figure


def draw_line(ax: Axes, line: pd.DataFrame, predictions: pd.DataFrame | None, style: LineStyle) -> None:
    """Draw one line: its edges with intervals, the fit with its prediction interval, and the predictions.

    Args:
        line: The edges of one line.
        predictions: Its predictions, or None.
        style: Of its method.
    """
    first = math.inf if predictions is None else predictions["size"].min()
    shown = line if predictions is None else predictions.loc[predictions["status"] == PREDICTED]
    left_out = line["size"].to_numpy(dtype=float) >= first
    if len(shown):
        band = bands(line.loc[~left_out], max(shown["size"]))
        x, edge, low, high = (band[name].to_numpy(dtype=float) for name in ("size", "edge", "low", "high"))
        ax.plot(x, edge, color=style.colour, ls=style.dash, lw=1.5)
        ax.fill_between(x, low, high, color=style.colour, alpha=BAND_ALPHA, lw=0)
    for row, out in zip(records(line), left_out, strict=True):
        _draw_edge(ax, row, style, "white" if out else style.colour)
    for row in [] if predictions is None else records(shown):
        ends = [[row["edge"] - row["low"]], [row["high"] - row["edge"]]]
        at = row["size"] * 1.04
        ax.errorbar(at, row["edge"], ends, fmt="D", ms=5, color=style.colour, mfc="white", lw=0.9, capsize=4)


def _draw_edge(ax: Axes, row: dict, style: LineStyle, face: str) -> None:
    if row["status"] != REACHED:
        up = row["status"] == NOT_REACHED
        lr = row["lr_max"] if up else row["lr_min"]
        arrow = {"arrowstyle": "-|>", "color": style.colour, "lw": 1.6}
        ax.annotate("", xy=(row["size"], lr * (1.5 if up else 1 / 1.5)), xytext=(row["size"], lr), arrowprops=arrow)
        ax.plot(row["size"], lr * (1.5 if up else 1 / 1.5), alpha=0)  # the axis contains the arrow
        return
    low = row["low"] if row["low"] > 0 else row["lr_min"]
    high = min(row["high"], row["lr_max"])
    ax.plot([row["size"]] * 2, [low, high], color=style.colour, lw=1.6)
    ax.plot(row["size"], row["edge"], style.marker, color=style.colour, mfc=face, ms=7, mew=1.3, zorder=4)


def _axes(ax: Axes, axis: str, level: float, sizes: Collection[float]) -> None:
    ax.set_xscale("log")
    ax.set_yscale("log")
    log_ticks(ax.yaxis, *ax.get_ylim(), ax.get_ylim())
    left, right = ax.get_xlim()
    log_ticks(ax.xaxis, left, right, (left, right))
    ax.xaxis.set_major_locator(FixedLocator(_apart(sizes, (right / left) ** LEAST_SPACE)))
    ax.set_xlabel(axis)
    ax.set_ylabel(f"{level_name(level)} (learning rate)")


def _apart(sizes: Collection[float], factor: float) -> list[float]:
    """Sizes in order, without those within a factor of the one before: their labels would overlap."""
    kept: list[float] = []
    for size in sorted(sizes):
        if not kept or size >= factor * kept[-1]:
            kept.append(size)
    return kept


def _of(predictions: pd.DataFrame, line: pd.DataFrame) -> pd.DataFrame:
    same = [predictions[name] == line[name].iloc[0] for name in (*CURVE, "level")]
    return predictions.loc[np.logical_and.reduce(same)]
