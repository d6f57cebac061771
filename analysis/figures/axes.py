"""What all figures share: style, panel sizes, axes of learning rates, legends.

Create and save figures inside `figure_style()`.
"""

import contextlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

from analysis.figures.palette import LineStyle

STYLE = {
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.parse_math": False,
    "svg.hashsalt": "study",
}

PANEL = (5.6, 3.5)
"""Width and height of one of several panels, in inches."""

LONE_PANEL = (7.4, 4.3)
"""Width and height of a single panel, in inches."""

BAND_ALPHA = 0.12
"""Opacity of an uncertainty band: low, because several bands overlap."""

HALO = withStroke(linewidth=2.2, foreground="white")
"""A white outline that keeps text readable on top of lines."""


def figure_style() -> contextlib.AbstractContextManager[None]:
    """Return a context in which figures are created and saved, so that all look alike."""
    style: dict[Any, Any] = sns.axes_style("ticks") | STYLE
    return matplotlib.rc_context(style)


def grid_shape(panels: int) -> tuple[int, int]:
    """Return (rows, columns) for a number of panels: at most two columns."""
    columns = min(2, max(1, panels))
    return math.ceil(max(1, panels) / columns), columns


def panel_figure(panels: int, height: float = PANEL[1]) -> Figure:
    """Return an empty figure with room for a number of panels, each `height` inches high."""
    rows, columns = grid_shape(panels)
    width = (LONE_PANEL if columns == 1 else PANEL)[0]
    return Figure(figsize=(width * columns, height * rows), layout="constrained")


def lr_axis(ax: Axes, lrs: Iterable[float], arrows: bool = False) -> None:
    """Make the x axis a logarithmic axis of learning rates.

    Args:
        lrs: The learning rates to show.
        arrows: Whether to leave room at the right end for arrows of edges that were not reached.
    """
    low, high = float(min(lrs, default=0.1)), float(max(lrs, default=0.1))
    ax.set_xscale("log")
    pad = max(1.06, (high / low) ** 0.03)
    left, right = low / pad, high * (max(pad, 10**0.15) if arrows else pad)
    ax.set_xlim(left, right)
    log_ticks(ax.xaxis, left, right, (low, high))
    ax.set_xlabel("learning rate")


def log_ticks(axis: Axis, left: float, right: float, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis with at most nine round numbers: 0.01, 0.02, 0.05, 0.1; or 1.5, 2, 3 on a short axis.

    Args:
        left: Lower limit of the axis.
        right: Upper limit of the axis.
        ends: Ticks to use where fewer than two round numbers lie between the limits.
    """

    def between(*steps: float) -> list[float]:
        return [s * 10.0**e for e in range(-12, 6) for s in steps if left <= s * 10.0**e <= right]

    ticks = next((found for steps in ((1, 2, 5), (1, 3)) if len(found := between(*steps)) <= 9), between(1))
    if len(ticks) < 3:
        ticks = between(1, 1.5, 2, 3, 4, 5, 6, 8)
    if len(ticks) < 2:
        ticks = sorted(set(ends))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def log_axis(ax: Axes, which: str = "y") -> None:
    """Make an axis logarithmic, with few ticks and plain numbers. `which` is "x" or "y"."""
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(LogLocator(numticks=6 if which == "y" else 5))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}" if 1e-3 <= v < 1e4 else f"1e{round(np.log10(v))}"))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, styles: Mapping[str, LineStyle], lines: bool = True) -> None:
    """Add one legend above all panels.

    Args:
        styles: Name -> style of each entry.
        lines: Whether the figure draws lines; False for markers alone.
    """
    handles = [
        Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, ms=6, mec="white", mew=0.5, lw=1.8)
        if lines
        else Line2D([], [], color=v.colour, ls="none", marker=v.marker, ms=7)
        for v in styles.values()
    ]
    # An entry takes about 0.75 inches beside its text, whose letters take about 0.085.
    entries, width = [0.75 + 0.085 * len(name) for name in styles], figure.get_figwidth()
    columns = len(styles) if sum(entries) <= width else max(1, int(width / max(entries)))
    figure.legend(handles, list(styles), loc="outside upper left", ncols=max(1, columns), handlelength=3.2)
