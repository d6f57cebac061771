"""Held-out quality against P(divergence)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import HALO, figure_style, grid_shape, legend, panel_figure
from analysis.figures.palette import LineStyle, method_styles
from analysis.figures.panels import MOST_PANELS, evenly_spaced
from analysis.loading import method_order, records
from analysis.stats.quality import lower_is_better

MANY_POINTS = 2_000
"""Points of a figure above which they are drawn as pixels, so that the page opens quickly."""

MANY_METHODS = 50
"""Methods above which only evenly spaced ones are drawn, and those on a Pareto front."""

STEP = 0.018
"""Distance between neighbouring methods on the x axis, so that equal rates do not hide each other."""

PANEL_HEIGHT = 4.6
"""Inches: points have names, which need room."""

FLOOR_SPANS = 1.5


def tradeoff(table: pd.DataFrame) -> Figure:
    """Return the figure of quality against P(divergence), one panel a model.

    Args:
        table: `analysis.stats.frontier.tradeoff`.
    """
    models, methods = evenly_spaced(list(dict.fromkeys(table["model"])), MOST_PANELS), method_order(table["method"])
    if len(methods) > MANY_METHODS:
        shown = [*evenly_spaced(methods, MANY_METHODS), *table.loc[table["pareto"], "method"]]
        table = table.loc[table["method"].isin(shown)]
    with figure_style():
        figure = panel_figure(len(models), PANEL_HEIGHT)
        for i, model in enumerate(models):
            ax = figure.add_subplot(*grid_shape(len(models)), i + 1)
            draw_tradeoff(ax, table.loc[table["model"] == model])
            ax.set_title(model)
        legend(figure, method_styles(table["method"]), lines=False)
    return figure


def draw_tradeoff(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the cells of one model: quality (up is better) against the share of diverged runs.

    The Pareto front has large markers, intervals, a line and names. The best cell of each other method has a grey name.
    A quality far below the others is a cross at the lower edge.

    Args:
        table: `analysis.stats.frontier.tradeoff` of one model.
    """
    styles, measure = method_styles(table["method"]), str(table["measure"].iloc[0])
    table = table.loc[table["quality"].notna()]
    down = -1 if lower_is_better(measure) else 1
    floor = _floor(down * table["quality"].to_numpy(dtype=float), table["rate"].to_numpy(dtype=float))
    order = method_order(table["method"])
    between = np.diff(sorted(set(table["rate"]))).min(initial=1.0)
    step = min(STEP, 0.8 * float(between) / max(1, len(order)))
    shift = {method: step * (i - (len(order) - 1) / 2) for i, method in enumerate(order)}
    table = table.assign(
        x=table["rate"] + [shift[method] for method in table["method"]],
        up=np.maximum(down * table["quality"], floor),
        off=down * table["quality"] < floor,
    )
    best = []
    for method in order:
        of_method = table.loc[table["method"] == method]
        _draw_points(ax, of_method, styles[method], down, rasterized=len(table) > MANY_POINTS)
        top = of_method.sort_values(["up", "rate"], ascending=[False, True]).head(1)
        best += [row for row in records(top) if not row["pareto"] and not row["off"]]
    front = table.loc[table["pareto"]].sort_values(["rate", "up"])
    ax.step(front["rate"], down * front["up"], where="post", color="black", lw=1.2, zorder=3)
    for row in [*records(front), *best]:
        _draw_named_point(ax, row, styles[row["method"]])
    ceiling = max(table["up"].tolist(), default=1.0)
    room = max(ceiling - floor, 1e-9)
    ax.set_ylim(*(down * y for y in (floor - 0.04 * room, ceiling + 0.12 * room)))
    ax.set_xlim(-0.06, 1.06)
    _write_names(ax, [*records(front), *best])
    ax.set_xlabel("P(divergence)")
    kind, _, task = measure.partition("_")
    words = {"kept": "kept", "score": task, "error": task}.get(kind, f"held-out {kind.upper()}, {task}")
    ax.set_ylabel(f"kept, {task}" if kind == "kept" and task else words)


def _draw_points(ax: Axes, of_method: pd.DataFrame, style: LineStyle, down: int, rasterized: bool) -> None:
    """Draw the cells of a method that are not on the Pareto front."""
    for off, marker in ((False, style.marker), (True, "x")):
        chosen = of_method.loc[(of_method["off"] == off) & ~of_method["pareto"]]
        points = {"color": style.colour, "ms": 5, "alpha": 0.55, "mew": 0.8, "rasterized": rasterized}
        ax.plot(chosen["x"], down * chosen["up"], marker, **points)


def _draw_named_point(ax: Axes, row: Mapping[str, Any], style: LineStyle) -> None:
    """Draw a large marker, on the Pareto front with the intervals of rate and quality."""
    x, y, colour = row["x"], row["quality"], style.colour
    if row["pareto"]:
        span = sorted((row["quality_q10"], row["quality_q90"]))
        ax.plot([x, x], span, color=colour, marker="_", lw=1.2, ms=7, zorder=2)
        ax.plot([row["low"], row["high"]], [y, y], color=colour, marker="|", lw=1.2, ms=7, zorder=2)
    ax.plot(x, y, style.marker, color=colour, ms=9 if row["pareto"] else 7, mec="black", mew=1.2, zorder=5)


def _floor(up: np.ndarray, rate: np.ndarray) -> float:
    """Return the lowest quality that the panel shows: most of its height is for cells that mostly train."""
    trained = up[(rate < 0.5) & np.isfinite(up)]
    if trained.size == 0:
        trained = up[np.isfinite(up)]
    if trained.size == 0:
        return 0.0
    top, typical = float(trained.max()), float(np.quantile(trained, 0.25))
    lowest = float(up[np.isfinite(up)].min())
    return max(lowest, top - (1 + FLOOR_SPANS) * (top - typical)) if top > typical else lowest


def _write_names(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write names beside points, one below the other if they would overlap, with thin lines to their points."""
    (low, high), size = ax.get_ylim(), 9.0
    gap = abs(high - low) * size * 1.45 / 72 / (0.75 * PANEL_HEIGHT)
    sign = 1 if high > low else -1
    last = math.inf
    for row in sorted(rows, key=lambda row: -sign * row["quality"]):
        x, y = row["x"], row["quality"]
        last = min(sign * y, last - gap)
        line = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "shrinkA": 0, "shrinkB": 4}
        ax.annotate(
            f"{row['curve']}, lr {row['lr']:g}",
            xy=(x, y),
            xytext=(x + 0.05 if x < 0.6 else x - 0.05, sign * last),
            ha="left" if x < 0.6 else "right",
            va="bottom",
            fontsize=size,
            color="black" if row["pareto"] else "#666666",
            arrowprops=line,
            zorder=6,
            path_effects=[HALO],
        )
