"""Held-out quality against P(divergence)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import (
    REPORT,
    Page,
    figure_style,
    ground,
    inches,
    ink,
    label_y,
    legend,
    legend_below,
    panel_figure,
    sizes,
    widen,
)
from analysis.figures.names import Name, write_names
from analysis.figures.palette import LineStyle, method_styles
from analysis.figures.panels import MOST_PANELS, evenly_spaced
from analysis.loading import method_order, records
from analysis.stats.quality import BAND, lower_is_better

MANY_POINTS = 2_000
"""Points of a figure above which they are drawn as pixels, so that the page opens quickly."""

MANY_METHODS = 50
"""Methods above which only evenly spaced ones are drawn, and those on a Pareto front."""

STEP, SHIFT = 0.014, 0.05
"""Distance of neighbouring methods, and most of the first and the last, in P(divergence): equal rates do not hide each
other."""

TALL = 1.3
"""How much higher than others a panel is: points have names, which need room."""

FLOOR_SPANS = 1.5

ROOM = (2.0, 1.8)
"""Width of a panel, in widths of its longest name, and height, in letters for each name, below which it is small."""


def tradeoff(table: pd.DataFrame, page: Page = REPORT) -> Figure:
    """Return the figure of quality against P(divergence), one panel a model.

    Args:
        table: `analysis.stats.frontier.tradeoff`.
        page: Sizes of the panels.
    """
    models, methods = evenly_spaced(list(dict.fromkeys(table["model"])), MOST_PANELS), method_order(table["method"])
    if len(methods) > MANY_METHODS:
        shown = [*evenly_spaced(methods, MANY_METHODS), *table.loc[table["pareto"], "method"]]
        table = table.loc[table["method"].isin(shown)]
    with figure_style(page):
        figure, every = panel_figure(len(models), page, tall=TALL, wide=True)
        for ax, model in zip(every, models, strict=True):
            draw_tradeoff(ax, table.loc[table["model"] == model])
            ax.set_title(model)
        legend(figure, method_styles(table["method"]), lines=False)
    return figure


def draw_tradeoff(
    ax: Axes, table: pd.DataFrame, styles: Mapping[str, LineStyle] | None = None, *, key: bool = False
) -> None:
    """Draw the cells of one model: quality (up is better) against the share of diverged runs.

    The Pareto front has large markers, intervals, a line and names. The best cell of each other method has a black
    edge and a grey name. A quality far below the others is an open marker at the lower edge. Methods are shifted by up
    to `SHIFT` in P(divergence).

    Args:
        table: `analysis.stats.frontier.tradeoff` of one model.
        styles: Method -> style; None takes those of `analysis.figures.palette`.
        key: Whether one legend below all panels has the methods of a panel that is too small for them. Then its names
            are thresholds and lrs. Only a constrained layout has room for the legend.
    """
    styles = method_styles(table["method"]) if styles is None else styles
    measure = str(table["measure"].iloc[0])
    table, down, floor = _placed(table)
    for method in method_order(table["method"]):
        of_method = table.loc[table["method"] == method]
        _draw_points(ax, of_method, styles[method], down, rasterized=len(table) > MANY_POINTS)
    front = table.loc[table["pareto"]].sort_values(["rate", "up"])
    ax.step(front["rate"], down * front["up"], where="post", color=ink(), lw=0.75 * sizes(ax).line, zorder=3)
    named = _named(table)
    for row in named:
        _draw_named_point(ax, row, styles[row["method"]])
    bars = (down * front[[f"quality{end}" for end in BAND]]).to_numpy(dtype=float).ravel()
    ceiling = max([*table["up"].tolist(), *bars[np.isfinite(bars)]], default=1.0)
    room = max(ceiling - floor, 1e-9)
    widen(ax, "y", *(down * y for y in (floor - 0.04 * room, ceiling + 0.06 * room)))
    widen(ax, "x", -0.05, 1.05)
    ax.set_xlabel("P(divergence)")
    kind, _, task = measure.partition("_")
    words = {"kept": "kept", "score": task, "error": task}.get(kind, f"held-out {kind.upper()}, {task}")
    label_y(ax, f"kept, {task}" if kind == "kept" and task else words)
    names = [_name(row) for row in named]
    if key and _is_small(ax, names) and legend_below(ax, styles):
        names = [
            dataclasses.replace(name, text=name.text.removeprefix(row["method"]).lstrip(" ,"))
            for name, row in zip(names, named, strict=True)
        ]
    write_names(ax, names)


def _name(row: Mapping[str, Any]) -> Name:
    colour = ink() if row["pareto"] else "#666666"
    return Name(text=f"{row['curve']}, lr {row['lr']:g}", x=row["x"], y=row["quality"], colour=colour)


def _is_small(ax: Axes, names: Sequence[Name]) -> bool:
    width, height = (72 * side / sizes(ax).text for side in inches(ax))
    longest = 0.58 * max((len(name.text) for name in names), default=0)
    return width < ROOM[0] * longest or height < ROOM[1] * len(names)


def _placed(table: pd.DataFrame) -> tuple[pd.DataFrame, int, float]:
    """The cells with a quality and their places: x, up, and off for those below the floor; the sign, and the floor.

    Methods with equal rates stand beside each other, within 0 and 1.
    """
    down = -1 if lower_is_better(str(table["measure"].iloc[0])) else 1
    table = table.loc[table["quality"].notna()]
    floor = _floor(down * table["quality"].to_numpy(dtype=float), table["rate"].to_numpy(dtype=float))
    order = method_order(table["method"])
    between = np.diff(sorted(set(table["rate"]))).min(initial=1.0)
    step = min(STEP, SHIFT / max(1, len(order) - 1), 0.8 * float(between) / max(1, len(order)))
    place = {method: i for i, method in enumerate(order)}
    shift = [step * (place[m] - (len(order) - 1) * p) for m, p in zip(table["method"], table["rate"], strict=True)]
    placed = table.assign(
        x=table["rate"] + shift,
        up=np.maximum(down * table["quality"], floor),
        off=down * table["quality"] < floor,
    )
    return placed, down, floor


def _named(placed: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows with a name: the Pareto front, and the best cell of each other method."""
    best: list[dict[str, Any]] = []
    for method in method_order(placed["method"]):
        of_method = placed.loc[placed["method"] == method]
        top = of_method.sort_values(["up", "rate"], ascending=[False, True]).head(1)
        best += [row for row in records(top) if not row["pareto"] and not row["off"]]
    best.sort(key=lambda row: -row["up"])  # their names, one below the other, are joined to them by lines
    return [*records(placed.loc[placed["pareto"]].sort_values(["rate", "up"])), *best]


def _draw_points(ax: Axes, of_method: pd.DataFrame, style: LineStyle, down: int, rasterized: bool) -> None:
    """Draw the cells of a method that are not on the Pareto front."""
    label = str(of_method["method"].iloc[0])
    for off, face, name in ((False, style.colour, label), (True, ground(), None)):
        chosen = of_method.loc[(of_method["off"] == off) & ~of_method["pareto"]]
        points = {"color": style.colour, "mfc": face, "ms": 0.9 * sizes(ax).marker, "alpha": 0.55, "mew": 0.8}
        ax.plot(chosen["x"], down * chosen["up"], style.marker, **points, rasterized=rasterized, label=name)


def _draw_named_point(ax: Axes, row: Mapping[str, Any], style: LineStyle) -> None:
    """Draw a marker with a black edge; on the Pareto front it is large, with the interval and band of its cell."""
    x, y, colour, size = row["x"], row["quality"], style.colour, sizes(ax)
    if row["pareto"]:
        span = sorted((row["quality_q10"], row["quality_q90"]))
        bar = {"color": colour, "lw": 0.75 * size.line, "ms": 1.3 * size.marker, "zorder": 2}
        ax.plot([x, x], span, marker="_", **bar)
        ax.plot([row["low"], row["high"]], [y, y], marker="|", **bar)
    ms = (1.6 if row["pareto"] else 0.9) * size.marker
    ax.plot(x, y, style.marker, color=colour, ms=ms, mec=ink(), mew=0.75 * size.line, zorder=5)


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
