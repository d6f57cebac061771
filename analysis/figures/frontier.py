"""The edge as a threshold moves, and P(divergence) over learning rate and threshold."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

from analysis.figures.axes import (
    BAND_ALPHA,
    NARROW,
    REPORT,
    FewTicks,
    Page,
    figure_style,
    ground,
    inches,
    ink,
    label_y,
    log_ticks,
    panel_figure,
    sizes,
    widen,
)
from analysis.figures.names import Name, write_names
from analysis.figures.palette import LineStyle, heat, method_styles
from analysis.figures.panels import MOST_LINES, MOST_VALUES, evenly_spaced, fewer_values, line_title, threshold_lines
from analysis.loading import records
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.text.edges import edge_text

SMALLEST_TEXT = 4.0
"""Points below which the counts of a map are left out."""

DASHES = ((0, (1, 1.2)), (0, ()), (0, (5, 1.5)))
"""Dashes of the contours of a map, lowest level first."""


def frontier(table: pd.DataFrame, page: Page = REPORT) -> Figure:
    """Return the figure of each edge as its threshold moves: one panel a threshold, with the edge of `none` as a band.

    Args:
        table: `analysis.stats.frontier.frontier` at one level. Without a varied threshold, the figure has no panel.
        page: Sizes of the panels.
    """
    lines, styles = evenly_spaced(threshold_lines(table), MOST_LINES), method_styles(table["method"])
    with figure_style(page):
        figure, every = panel_figure(len(lines), page)
        for ax, (_, line) in zip(every, lines, strict=True):
            of_model = table.loc[table["model"] == line["model"].iloc[0]]
            reference, style = of_model.loc[of_model["curve"] == "none"], styles[line["method"].iloc[0]]
            draw_frontier(ax, fewer_values(line), reference, style, _edge_range(of_model))
            ax.set_title(line_title(line))
    return figure


def draw_frontier(
    ax: Axes, line: pd.DataFrame, reference: pd.DataFrame, style: LineStyle, ends: tuple[float, float] | None = None
) -> None:
    """Draw the edge against one threshold, log-log, with its band; a censored edge is an arrow labelled `> 3.2`.

    An open marker is the first crossing of a curve that is not monotone.

    Args:
        line: The rows of one threshold in `analysis.stats.frontier.frontier`.
        reference: The row of `none`, drawn as a band over the whole panel; may be empty.
        style: Of the line's method.
        ends: Lowest and highest lr of the axis; None takes those of the rows.
    """
    line, size = line.sort_values("value"), sizes(ax)
    rows = records(line)
    ax.set_yscale("log")
    bottom, top = widen(ax, "y", *(_edge_range(pd.concat([line, reference])) if ends is None else ends))
    value, edge = (line[name].to_numpy(dtype=float) for name in ("value", "edge"))
    names = [_draw_reference(ax, row, value[0], bottom, top) for row in records(reference)]
    band = np.clip(line[["low", "high"]].to_numpy(dtype=float), bottom, top)
    ax.fill_between(value, band[:, 0], band[:, 1], color=style.colour, alpha=2 * BAND_ALPHA, lw=0, zorder=2)
    # The line breaks where an edge is not a number.
    label = str(line["method"].iloc[0])
    marked: dict[str, Any] = {"marker": style.marker, "markevery": []}  # the legend alone shows it
    ax.plot(value, edge, color=style.colour, ls=style.dash, lw=1.1 * size.line, zorder=3, label=label, **marked)
    before = ""
    for row in rows:
        if row["status"] == REACHED:
            before = ""
            face = style.colour if row["monotone"] else ground()
            ax.plot(
                row["value"],
                row["edge"],
                style.marker,
                color=style.colour,
                mfc=face,
                ms=1.25 * size.marker,
                mew=0.75 * size.line,
                zorder=4,
            )
        else:
            up = row["status"] == NOT_REACHED
            text = edge_text(row)
            lr = row["lr_max"] if up else row["lr_min"]
            _censored(ax, row["value"], lr, up, style.colour)
            if text != before:  # one name for neighbours
                names.append(Name(text=text, x=row["value"], y=lr))
            before = text
    _value_axis(ax, value)
    log_ticks(ax.yaxis, bottom, top, (bottom, top))
    ax.set_xlabel(str(line["threshold"].iloc[0]))
    label_y(ax, f"{_level_name(float(line['level'].iloc[0]))} (learning rate)")
    write_names(ax, names)


def _edge_range(table: pd.DataFrame) -> tuple[float, float]:
    """Return an lr range around all known edges and intervals, with room for arrows."""
    seen = table[["edge", "low", "high"]].to_numpy(dtype=float).ravel()
    seen = seen[np.isfinite(seen) & (seen > 0)].tolist()
    censored = {BELOW: "lr_min", NOT_REACHED: "lr_max"}
    seen += [row[censored[row["status"]]] for row in records(table) if row["status"] in censored]
    return min(seen) / 1.9, max(seen) * 1.9


def _draw_reference(ax: Axes, row: Mapping[str, Any], x: float, bottom: float, top: float) -> Name:
    ends = (row["low"] or bottom, min(row["high"], top))
    ax.axhspan(*ends, color=ink(), alpha=0.09, lw=0, zorder=1)
    at = {REACHED: row["edge"], NOT_REACHED: row["lr_max"], BELOW: row["lr_min"]}[row["status"]]
    ax.axhline(at, color=ink(), lw=0.75 * sizes(ax).line, ls=(0, (1, 1.5)), zorder=2)
    return Name(text=f"{row['curve']} {edge_text(row)}", x=x, y=at, along=True)


def _censored(ax: Axes, value: float, lr: float, up: bool, colour: str) -> None:
    """Draw an arrow outward from the last lr tried."""
    size, (bottom, top) = sizes(ax), ax.get_ylim()
    length = (top / bottom) ** (0.09 if up else -0.08)
    head = {"lw": 1.1 * size.line, "mutation_scale": 2.2 * size.marker}
    arrow = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0} | head
    ax.annotate("", xy=(value, lr * length), xytext=(value, lr), arrowprops=arrow, zorder=5)


def _value_axis(ax: Axes, values: np.ndarray) -> None:
    """Put a tick at every value; the axis is logarithmic unless a value is 0 or negative."""
    if (values > 0).all():
        ax.set_xscale("log")
        pad = max(1.15, (values.max() / values.min()) ** 0.06)
        widen(ax, "x", values.min() / pad, values.max() * pad)
    ax.xaxis.set_major_locator(FewTicks([sorted({float(v) for v in values})], most=MOST_VALUES))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _level_name(level: float) -> str:
    """`LR50`, `LR05`."""
    return f"LR{100 * level:02.3g}" if level >= 0.1 else f"LR0{100 * level:.3g}"


def threshold_map(cells: pd.DataFrame, crossings: pd.DataFrame, page: Page = REPORT) -> Figure:
    """Return the figure of P(divergence) over lr and threshold: one panel a threshold, k/n in each cell.

    Args:
        cells: `analysis.stats.frontier.threshold_map`.
        crossings: `analysis.stats.frontier.contours`, drawn as lines.
        page: Sizes of the panels.
    """
    lines, crossed = evenly_spaced(threshold_lines(cells), MOST_LINES), dict(threshold_lines(crossings))
    tallest = max((len(set(line["lr"])) for _, line in lines), default=1)
    levels = sorted(set(crossings["level"]))
    tall = max(page.height, 0.24 * tallest + 1) / page.height
    with figure_style(page):
        figure, every = panel_figure(len(lines), page, tall=tall, wide=True)
        for ax, (key, line) in zip(every, lines, strict=True):
            draw_map(ax, fewer_values(line), crossed[key])
            ax.set_title(line_title(line))
        if every:
            bar = figure.colorbar(ScalarMappable(Normalize(0, 1), heat()), ax=every, shrink=0.6, aspect=30, pad=0.01)
            bar.set_label("P(divergence), k of n")
            shown = [
                Line2D([], [], color="black", lw=1.1 * sizes(every[0]).line, ls=dash)
                for _, dash in zip(levels, DASHES, strict=False)
            ]
            names = [f"{100 * level:g}% of the runs diverge" for level in levels]
            columns = len(levels) if figure.get_figwidth() > NARROW else 1
            figure.legend(shown, names, loc="outside upper left", ncols=columns, handlelength=3.2)
    return figure


def draw_map(ax: Axes, cells: pd.DataFrame, crossings: pd.DataFrame) -> None:
    """Draw one map: a column for each value of the threshold, a row for each lr, both evenly spaced.

    Args:
        cells: The rows of one threshold in `analysis.stats.frontier.threshold_map`.
        crossings: Its rows in `analysis.stats.frontier.contours`; a contour is drawn only where its edge was reached.
    """
    values, lrs = sorted(set(cells["value"])), sorted(set(cells["lr"]))
    rate = np.full((len(lrs), len(values)), np.nan)
    room = 72 * inches(ax)[0] / len(values)
    letters = min(0.9 * float(rcParams["font.size"]), 0.16 * room)
    for row in records(cells):
        y, x = lrs.index(row["lr"]), values.index(row["value"])
        rate[y, x] = row["rate"]
        light = row["rate"] <= 0.5
        around = withStroke(linewidth=3, foreground=heat()(row["rate"]))
        if letters >= SMALLEST_TEXT:
            text = {"ha": "center", "va": "center", "fontsize": letters, "color": "black" if light else "white"}
            ax.text(x, y, f"{row['k']}/{row['n']}", **text, zorder=5, path_effects=[around])
    corners = np.arange(len(values) + 1) - 0.5, np.arange(len(lrs) + 1) - 0.5
    ax.pcolormesh(*corners, rate, cmap=heat(), vmin=0, vmax=1, edgecolors="#dddddd", linewidth=0.6)
    for level, dash in zip(sorted(set(crossings["level"])), DASHES, strict=False):
        edge_of = crossings.loc[crossings["level"] == level].set_index("value")["edge"]
        edge = edge_of.reindex(values).to_numpy(dtype=float)  # NaN unless reached
        height = np.interp(np.log(edge), np.log(lrs), np.arange(len(lrs))) if len(lrs) > 1 else 0 * edge
        _draw_contour(ax, height, dash)
    ax.grid(visible=False)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_ylim(-0.5, len(lrs) - 0.5)
    every = max(1, math.ceil(len(values) * 3.4 * float(rcParams["font.size"]) / (72 * inches(ax)[0])))
    ax.set_xticks(range(0, len(values), every), [f"{value:g}" for value in values[::every]])
    every = max(1, math.ceil(len(lrs) * 1.4 * float(rcParams["font.size"]) / (72 * inches(ax)[1])))
    ax.set_yticks(range(0, len(lrs), every), [f"{lr:g}" for lr in lrs[::every]])
    ax.tick_params(length=0)
    ax.set_xlabel(str(cells["threshold"].iloc[0]))
    ax.set_ylabel("learning rate")


def _draw_contour(ax: Axes, height: np.ndarray, dash: Any) -> None:
    """Draw a contour by its height in each column, NaN where it has none; a lone column gets a short stroke."""
    width = 1.1 * sizes(ax).line
    halo = withStroke(linewidth=2 * width, foreground="white")
    style = {"color": "black", "lw": width, "ls": dash, "zorder": 4, "path_effects": [halo]}
    ax.plot(np.arange(len(height)), height, **style)
    known = np.isfinite(np.concatenate([[math.nan], height, [math.nan]]))
    for x in np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]):
        ax.plot([x - 0.4, x + 0.4], [height[x]] * 2, **style)
