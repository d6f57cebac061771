"""Curves against the learning rate and over steps: P(divergence), quality, micro divergence, time of divergence.

`draw_x(ax, table)` takes the rows of one model and, in `styles`, the curves to draw with their styles (None: all of
them, in the styles of `analysis.figures.palette`). An edge that was not reached is an arrow at the highest lr tried,
never a point.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.figures.axes import BAND_ALPHA, ground, label_y, lr_axis, shifted, sizes, widen
from analysis.figures.palette import LineStyle, curve_styles
from analysis.loading import records
from analysis.stats.edges import NOT_REACHED

CROWD = 6
"""Curves of a panel above which bands and intervals hide more than they show."""

DODGE, FEW_DODGE, DODGED = 0.3, 0.75, 1.2
"""In sizes of a marker: the least and most distance between the points of neighbouring curves, so that equal rates do
not hide each other; between these, that of the first and the last curve."""

Styles = Mapping[str, LineStyle]


def draw_rates(
    ax: Axes, rates: pd.DataFrame, fitted: pd.DataFrame, edges: pd.DataFrame, styles: Styles | None = None
) -> None:
    """Draw P(divergence) against lr: points k/n with intervals, fitted curves with bands, the level of the edges.

    A curve whose edge was not reached has an arrow at its end. The area of a point is its number of runs; where cells
    differ in it, only fuller cells have intervals. With more than `CROWD` curves there are no bands or intervals.

    Args:
        rates: `divergence_rates` of one model (of `in_bins`, for an adaptive study).
        fitted: `fitted_curves` of the model.
        edges: `edges` of the model.
    """
    styles = curve_styles(rates) if styles is None else styles
    rates = rates.loc[rates["curve"].isin(list(styles))]
    curves = _present(rates, styles)
    most = max(rates["n"].tolist(), default=1)
    crowded, width = len(curves) > CROWD, sizes(ax).line
    for i, curve in enumerate(curves):
        style = styles[curve]
        x, line, bottom, top = _columns(fitted, curve, "lr", "rate", "low", "high")
        name = {} if len(x) > 1 else {"label": curve}  # the line has it
        _draw_points(ax, rates, curve, style, _dodge(ax, i, len(curves)), most, intervals=not crowded, **name)
        if len(x) > 1:
            if not crowded:
                ax.fill_between(x, bottom, top, color=style.colour, alpha=BAND_ALPHA, lw=0, zorder=1)
            marked: dict[str, Any] = {"marker": style.marker, "markevery": []}  # the legend alone shows it
            ax.plot(x, line, color=style.colour, ls=style.dash, lw=width, zorder=3, label=curve, **marked)
    if len(edges):
        ax.axhline(float(edges["level"].iloc[0]), color="#999999", lw=width / 2, ls=(0, (2, 2)), zorder=1)
    censored = [row for row in records(edges) if row["status"] == NOT_REACHED and row["curve"] in styles]
    lr_axis(ax, rates["lr"], arrows=bool(censored))
    _draw_arrows(ax, censored, {row["curve"]: _end(rates, fitted, row["curve"]) for row in censored}, styles)
    widen(ax, "y", -0.04, 1.04)
    label_y(ax, "P(divergence)")


def _draw_points(
    ax: Axes,
    rates: pd.DataFrame,
    curve: str,
    style: LineStyle,
    transform: Any,
    most: int,
    *,
    intervals: bool,
    label: str | None = None,
) -> None:
    """Draw the cells of a curve; `most` is the number of runs of the fullest cell of the panel."""
    lr, rate, low, high, n = _columns(rates, curve, "lr", "rate", "low", "high", "n")
    size = sizes(ax)
    if intervals:
        # Rounding may put an end of an interval slightly inside its point.
        error, full = np.maximum([rate - low, high - rate], 0), n > most / 3
        bars = {"fmt": "none", "ecolor": style.colour, "elinewidth": 0.6 * size.line, "alpha": 0.45, "zorder": 2}
        ax.errorbar(lr[full], rate[full], error[:, full], transform=transform, **bars)
    for count in sorted(set(n)):
        ms = size.marker * (1 if len(set(n)) == 1 else max(0.6, 1.45 * math.sqrt(count / most)))
        marks = {"color": style.colour, "ms": ms, "mec": ground(), "mew": 0.5, "zorder": 4, "label": label}
        ax.plot(lr[n == count], rate[n == count], style.marker, transform=transform, **marks)
        label = None


def _dodge(ax: Axes, i: int, count: int) -> Any:
    """Return the transform of the points of curve `i` of `count`."""
    step = min(FEW_DODGE, max(DODGE, DODGED / max(1, count - 1)))
    return shifted(ax, step * sizes(ax).marker * (i - (count - 1) / 2))


def _end(rates: pd.DataFrame, fitted: pd.DataFrame, curve: str) -> float:
    """Return where a curve ends: its P(divergence) at the highest lr."""
    (line,) = _columns(fitted, curve, "rate")
    (points,) = _columns(rates, curve, "rate")
    return float(line[-1] if len(line) else points[-1])


def _draw_arrows(
    ax: Axes, censored: Sequence[Mapping[str, Any]], ends: Mapping[str, float], styles: Mapping[str, LineStyle]
) -> None:
    """Draw an arrow from the end of each curve without an edge; those that would hide each other stand apart."""
    size, (left, right) = sizes(ax), ax.get_xlim()
    last = -math.inf
    for row in sorted(censored, key=lambda row: ends[row["curve"]]):
        last = max(ends[row["curve"]], last + ARROW_GAP)
        ax.annotate(
            "",
            xy=(row["lr_max"] * (right / left) ** ARROW, last),
            xytext=(row["lr_max"], last),
            arrowprops={
                "arrowstyle": "-|>",
                "color": styles[row["curve"]].colour,
                "lw": size.line,
                "mutation_scale": 1.8 * size.marker,
                "shrinkA": 0,
                "shrinkB": 0,
            },
            annotation_clip=False,
            zorder=5,
        )


ARROW = 0.06
"""Length of an arrow, as a share of the axis."""

ARROW_GAP = 0.045
"""Least distance of two arrows, in P(divergence)."""


def _present(table: pd.DataFrame, styles: Styles) -> list[str]:
    """Return the curves of the styles that the table has."""
    present = set(table["curve"].unique())
    return [curve for curve in styles if curve in present]


def _columns(table: pd.DataFrame, curve: str, *names: str) -> list[np.ndarray]:
    """Return columns of one curve, ordered by lr, as float arrays."""
    of_curve = table.loc[table["curve"] == curve].sort_values(by="lr")
    return [of_curve[name].to_numpy(dtype=float) for name in names]


def draw_band(
    ax: Axes, table: pd.DataFrame, value: str, label: str, bottom: float | None = None, styles: Styles | None = None
) -> None:
    """Draw the median and band of a quality against lr.

    Args:
        table: `analysis.stats.quality.quality` of one model.
        value: The column; its band is `<value>_q10` to `<value>_q90`.
        label: The label of the y axis.
        bottom: Values below it, minus infinity included, are drawn on it, a median as a cross; None shows all values.
    """
    styles = curve_styles(table) if styles is None else styles
    for curve in _present(table, styles):
        lr, low, mid, high = _columns(table, curve, "lr", f"{value}_q10", value, f"{value}_q90")
        floor = -math.inf if bottom is None else bottom
        off = mid < floor
        low, mid, high = (np.maximum(v, floor) for v in (low, mid, high))
        style = styles[curve]
        ax.fill_between(lr, low, high, color=style.colour, alpha=BAND_ALPHA, lw=0)
        size = sizes(ax)
        marks: dict[str, Any] = {"marker": style.marker, "ms": 0.9 * size.marker, "mec": ground(), "mew": 0.5}
        ax.plot(lr, mid, color=style.colour, ls=style.dash, lw=size.line, label=curve, **marks)
        if off.any():
            cross: dict[str, Any] = {"ms": 1.3 * size.marker, "mew": 1.1 * size.line}
            ax.plot(lr[off], mid[off], "x", color=style.colour, **cross, clip_on=False, zorder=5)
    lr_axis(ax, table["lr"])
    label_y(ax, label)


def draw_micro(ax: Axes, rates: pd.DataFrame, styles: Styles | None = None) -> None:
    """Draw the share of runs with a micro divergence against lr, with its interval.

    Args:
        rates: `divergence_rates` of one model.
    """
    styles = curve_styles(rates) if styles is None else styles
    curves = _present(rates, styles)
    for i, curve in enumerate(curves):
        lr, rate, low, high = _columns(rates, curve, "lr", "micro_rate", "micro_low", "micro_high")
        error = np.maximum([rate - low, high - rate], 0)
        style, size, moved = styles[curve], sizes(ax), _dodge(ax, i, len(curves))
        bars = {"elinewidth": 0.6 * size.line, "alpha": 0.45, "transform": moved}
        ax.errorbar(lr, rate, error, fmt="none", ecolor=style.colour, **bars)
        marks: dict[str, Any] = {"marker": style.marker, "ms": 0.9 * size.marker, "mec": ground(), "mew": 0.5}
        ax.plot(lr, rate, color=style.colour, ls=style.dash, lw=0.8 * size.line, transform=moved, **marks)
    lr_axis(ax, rates["lr"])
    widen(ax, "y", -0.04, 1.04)
    label_y(ax, "P(micro divergence)")


def draw_horizon(ax: Axes, table: pd.DataFrame, styles: Styles | None = None) -> None:
    """Draw the cumulative share of diverged runs over steps.

    Runs of which it is not known when they were lost are a dotted line at the end, with an open marker.

    Args:
        table: `analysis.stats.trajectories.diverged_by_step` of one model.
    """
    styles = curve_styles(table) if styles is None else styles
    for curve in _present(table, styles):
        of_curve = table[table["curve"] == curve]
        at_end = of_curve["known"].astype(bool)
        known, rest = of_curve.loc[at_end], of_curve.loc[~at_end]
        style, size = styles[curve], sizes(ax)
        drawn: dict[str, Any] = {"color": style.colour, "lw": 1.1 * size.line, "ls": style.dash, "label": curve}
        marks: dict[str, Any] = {"marker": style.marker, "ms": size.marker, "mec": ground(), "mew": 0.5, "zorder": 4}
        ax.step(known["step"], known["share"], where="post", markevery=[-1], clip_on=False, **drawn, **marks)
        if len(rest):  # from the share that is known at the end to that of all diverged runs
            ends = [known["share"].iloc[-1], rest["share"].iloc[-1]]
            ax.plot([rest["step"].iloc[-1]] * 2, ends, color=style.colour, ls=":", lw=0.8 * size.line, clip_on=False)
            open_mark = {"ms": 0.9 * size.marker, "mfc": ground(), "clip_on": False}
            ax.plot(rest["step"], rest["share"], style.marker, color=style.colour, **open_mark)
    ax.set_xlabel("step")
    label_y(ax, "runs diverged so far")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{100 * p:.4g}%"))
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, max(table["step"].tolist(), default=1) or 1)
