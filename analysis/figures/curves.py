"""Curves against the learning rate and over steps: P(divergence), quality, micro divergence, time of divergence.

`draw_x(ax, table)` takes the rows of one model and, in `styles`, the curves to draw with their styles (None: all of
them, in the styles of `analysis.figures.palette`). An edge that was not reached is an arrow at the highest lr tried,
never a point.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.figures.axes import BAND_ALPHA, lr_axis
from analysis.figures.palette import LineStyle, curve_styles
from analysis.loading import records
from analysis.stats.edges import NOT_REACHED

CROWD = 6
"""Curves of a panel above which bands and intervals hide more than they show."""

DODGE = 0.011
"""Distance between the points of neighbouring curves in decades, so that equal rates do not hide each other."""

Styles = Mapping[str, LineStyle]


def draw_rates(
    ax: Axes, rates: pd.DataFrame, fitted: pd.DataFrame, edges: pd.DataFrame, styles: Styles | None = None
) -> None:
    """Draw P(divergence) against lr: points k/n with intervals, fitted curves with bands, the level of the edges.

    A curve whose edge was not reached ends in an arrow. The area of a point is its number of runs; where cells differ
    in it, only fuller cells have intervals. With more than `CROWD` curves there are no bands or intervals.

    Args:
        rates: `divergence_rates` of one model (of `in_bins`, for an adaptive study).
        fitted: `fitted_curves` of the model.
        edges: `edges` of the model.
    """
    styles = curve_styles(rates) if styles is None else styles
    rates = rates.loc[rates["curve"].isin(list(styles))]
    curves = _present(rates, styles)
    most = max(rates["n"].tolist(), default=1)
    crowded = len(curves) > CROWD
    for i, curve in enumerate(curves):
        style = styles[curve]
        _draw_points(ax, rates, curve, style, _dodge(i, len(curves)), most, intervals=not crowded)
        x, line, bottom, top = _columns(fitted, curve, "lr", "rate", "low", "high")
        if len(x) > 1:
            if not crowded:
                ax.fill_between(x, bottom, top, color=style.colour, alpha=BAND_ALPHA, lw=0, zorder=1)
            ax.plot(x, line, color=style.colour, ls=style.dash, lw=1.6, zorder=3, label=curve)
    if len(edges):
        ax.axhline(float(edges["level"].iloc[0]), color="#999999", lw=0.8, ls=(0, (2, 2)), zorder=1)
    censored = [row for row in records(edges) if row["status"] == NOT_REACHED and row["curve"] in styles]
    for i, row in enumerate(censored):
        height = row["level"] - 0.07 * (i - (len(censored) - 1) / 2)
        _draw_arrow(ax, row["lr_max"], height, styles[row["curve"]].colour)
    lr_axis(ax, rates["lr"], arrows=bool(censored))
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("P(divergence)")


def _draw_points(
    ax: Axes, rates: pd.DataFrame, curve: str, style: LineStyle, dodge: float, most: int, intervals: bool
) -> None:
    """Draw the cells of a curve; `most` is the number of runs of the fullest cell of the panel."""
    lr, rate, low, high, n = _columns(rates, curve, "lr", "rate", "low", "high", "n")
    lr = lr * dodge
    if intervals:
        # Rounding may put an end of an interval slightly inside its point.
        error, full = np.maximum([rate - low, high - rate], 0), n > most / 3
        bars = {"fmt": "none", "ecolor": style.colour, "elinewidth": 1, "alpha": 0.45, "zorder": 2}
        ax.errorbar(lr[full], rate[full], error[:, full], **bars)
    for size in sorted(set(n)):
        ms = 5.5 if len(set(n)) == 1 else max(3.2, 8 * math.sqrt(size / most))
        marks = {"color": style.colour, "ms": ms, "mec": "white", "mew": 0.5, "zorder": 4}
        ax.plot(lr[n == size], rate[n == size], style.marker, **marks)


def _dodge(i: int, count: int) -> float:
    """Return the factor by which curve `i` of `count` is moved on a logarithmic axis."""
    return 10 ** (DODGE * (i - (count - 1) / 2))


def _draw_arrow(ax: Axes, lr: float, height: float, colour: str) -> None:
    ax.annotate(
        "",
        xy=(lr * 10**0.13, height),
        xytext=(lr, height),
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
        annotation_clip=False,
        zorder=5,
    )


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
        marks = {"marker": style.marker, "ms": 5, "mec": "white", "mew": 0.5}
        ax.plot(lr, mid, color=style.colour, ls=style.dash, lw=1.6, **marks)
        if off.any():
            ax.plot(lr[off], mid[off], "x", color=style.colour, ms=7, mew=1.8, clip_on=False, zorder=5)
    lr_axis(ax, table["lr"])
    ax.set_ylabel(label)


def draw_micro(ax: Axes, rates: pd.DataFrame, styles: Styles | None = None) -> None:
    """Draw the share of runs with a micro divergence against lr, with its interval.

    Args:
        rates: `divergence_rates` of one model.
    """
    styles = curve_styles(rates) if styles is None else styles
    curves = _present(rates, styles)
    for i, curve in enumerate(curves):
        lr, rate, low, high = _columns(rates, curve, "lr", "micro_rate", "micro_low", "micro_high")
        lr = lr * _dodge(i, len(curves))
        error = np.maximum([rate - low, high - rate], 0)
        style = styles[curve]
        ax.errorbar(lr, rate, error, fmt="none", ecolor=style.colour, elinewidth=1, alpha=0.45)
        marks = {"marker": style.marker, "ms": 5, "mec": "white", "mew": 0.5}
        ax.plot(lr, rate, color=style.colour, ls=style.dash, lw=1.3, **marks)
    lr_axis(ax, rates["lr"])
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("P(micro divergence)")


def draw_horizon(ax: Axes, table: pd.DataFrame, styles: Styles | None = None) -> None:
    """Draw the cumulative share of diverged runs over steps.

    Args:
        table: `analysis.stats.trajectories.diverged_by_step` of one model.
    """
    styles = curve_styles(table) if styles is None else styles
    for curve in _present(table, styles):
        of_curve = table[table["curve"] == curve]
        style = styles[curve]
        ax.step(of_curve["step"], of_curve["share"], where="post", color=style.colour, ls=style.dash, lw=1.8)
    ax.set_xlabel("step")
    ax.set_ylabel("runs diverged so far")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{100 * p:.0f}%"))
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, max(table["step"].tolist(), default=1) or 1)
