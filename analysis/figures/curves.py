"""The figures: a function that makes each one's table, and one that draws the table on an `ax`.

`draw_x(ax, table)` takes one model's rows and returns nothing. Colours, markers and dashes come from
`analysis.figures.palette`, keyed by method; the several curves of one method differ in how pale they are. An edge that
was not reached is an arrow at the end of the tried lrs, never a point.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.figures.palette import Look, heat, looks, method_order
from analysis.loading import CURVE, in_order, records, tasks_of, with_curves
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED, Fit, edge_text, fitted_curves
from analysis.stats.frontier import contours
from analysis.stats.frontier import frontier as edge_by_threshold
from analysis.stats.frontier import threshold_map as cells_by_threshold
from analysis.stats.frontier import tradeoff as quality_by_rate
from analysis.stats.quality import lower_is_better, quality
from analysis.stats.rates import in_bins
from study.record.tables import Definition, read_losses

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
"""Inches of one panel of several."""

LONE_PANEL = (7.4, 4.3)
"""Inches of a panel that stands alone."""

FRESH_BAND = 0.12
"""Opacity of a band; several lie over each other."""


def curve_looks(table: pd.DataFrame) -> dict[str, Look]:
    """curve -> Look, in the order of legends: its method's, paler for each further curve of the same method."""
    of_method = looks(table["method"])
    result = {}
    for method in method_order(table["method"]):
        curves = sorted(set(table.loc[table["method"] == method, "curve"]))
        for i, curve in enumerate(curves):
            look = of_method[method]
            white = 0.6 * i / len(curves)
            r, g, b = (round(255 * (c + (1 - c) * white)) for c in to_rgb(look.colour))
            result[curve] = Look(colour=f"#{r:02x}{g:02x}{b:02x}", marker=look.marker, dash=look.dash)
    return result


# P(divergence | lr)


def draw_rates(
    ax: Axes, rates: pd.DataFrame, fitted: pd.DataFrame, edges: pd.DataFrame, look: Mapping[str, Look] | None = None
) -> None:
    """Points k/n with their interval, the fitted curve and its band, and the level of the edges as a dotted line.

    rates: `divergence_rates` (of `in_bins`, for an adaptive study); fitted: `edges.fitted_curves`; edges:
    `edges.edges`; all of one model. look: the curves to draw; all by default. A curve whose edge was not reached ends
    in an arrow. The area of a point is its number of runs; where cells differ, intervals are drawn for the fuller ones
    only. With more than CROWD curves, points and lines stand alone.
    """
    look = curve_looks(rates) if look is None else look
    rates = rates.loc[rates["curve"].isin(list(look))]
    curves = [c for c in look if c in set(rates["curve"])]
    most = max(rates["n"].tolist(), default=1)
    for i, curve in enumerate(curves):
        style = look[curve]
        lr, rate, low, high, n = _columns(rates, curve, "lr", "rate", "low", "high", "n")
        lr = lr * 10 ** (DODGE * (i - (len(curves) - 1) / 2))
        x, line, bottom, top = _columns(fitted, curve, "lr", "rate", "low", "high")
        if len(curves) <= CROWD:
            # Rounding may put an end of an interval a hair inside its point.
            error, full = np.maximum([rate - low, high - rate], 0), n > most / 3
            bars = {"fmt": "none", "ecolor": style.colour, "elinewidth": 1, "alpha": 0.45, "zorder": 2}
            ax.errorbar(lr[full], rate[full], error[:, full], **bars)
            if len(x) > 1:
                ax.fill_between(x, bottom, top, color=style.colour, alpha=FRESH_BAND, lw=0, zorder=1)
        for size in sorted(set(n)):
            ms = 5.5 if len(set(n)) == 1 else max(3.2, 8 * math.sqrt(size / most))
            marks = {"color": style.colour, "ms": ms, "mec": "white", "mew": 0.5, "zorder": 4}
            ax.plot(lr[n == size], rate[n == size], style.marker, **marks)
        if len(x) > 1:
            ax.plot(x, line, color=style.colour, ls=style.dash, lw=1.6, zorder=3)
    if len(edges):
        ax.axhline(float(edges["level"].iloc[0]), color="#999999", lw=0.8, ls=(0, (2, 2)), zorder=1)
    censored = [row for row in records(edges) if row["status"] == NOT_REACHED and row["curve"] in look]
    for i, row in enumerate(censored):
        place = row["level"] - 0.07 * (i - (len(censored) - 1) / 2)
        _arrow(ax, row["lr_max"], place, look[row["curve"]].colour)
    lr_axis(ax, rates["lr"], arrows=bool(censored))
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("P(divergence)")


CROWD = 6
"""Curves of a panel from which on bands and intervals hide more than they show."""

DODGE = 0.011
"""Decades by which the points of neighbouring curves stand apart, so that equal rates do not hide each other."""


def _arrow(ax: Axes, lr: float, height: float, colour: str) -> None:
    ax.annotate(
        "",
        xy=(lr * 10**0.13, height),
        xytext=(lr, height),
        arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.6, "shrinkA": 0, "shrinkB": 0},
        annotation_clip=False,
        zorder=5,
    )


def _columns(table: pd.DataFrame, curve: str, *names: str) -> list[np.ndarray]:
    """Columns of one curve, by lr, as float arrays."""
    of_curve = table.loc[table["curve"] == curve].sort_values(by="lr")
    return [of_curve[name].to_numpy(dtype=float) for name in names]


# kept, AUC and RMSE against lr


def draw_band(
    ax: Axes, table: pd.DataFrame, value: str, label: str, bottom: float | None = None, look: Mapping | None = None
) -> None:
    """Median and band of a column of `quality` (value, value_low, value_high) against lr, of one model.

    bottom: values under it, minus infinity included, are drawn on it, as a cross where it is the median.
    """
    look = curve_looks(table) if look is None else look
    for curve in (c for c in look if c in set(table["curve"])):
        lr, low, mid, high = _columns(table, curve, "lr", f"{value}_low", value, f"{value}_high")
        floor = -math.inf if bottom is None else bottom
        off = mid < floor
        low, mid, high = (np.maximum(v, floor) for v in (low, mid, high))
        style = look[curve]
        ax.fill_between(lr, low, high, color=style.colour, alpha=FRESH_BAND, lw=0)
        marks = {"marker": style.marker, "ms": 5, "mec": "white", "mew": 0.5}
        ax.plot(lr, mid, color=style.colour, ls=style.dash, lw=1.6, **marks)
        if off.any():
            ax.plot(lr[off], mid[off], "x", color=style.colour, ms=7, mew=1.8, clip_on=False, zorder=5)
    lr_axis(ax, table["lr"])
    ax.set_ylabel(label)


# Micro divergence


def draw_micro(ax: Axes, rates: pd.DataFrame, look: Mapping[str, Look] | None = None) -> None:
    """The share of runs with a micro divergence against lr, with its interval; `divergence_rates` of one model."""
    look = curve_looks(rates) if look is None else look
    curves = [c for c in look if c in set(rates["curve"])]
    for i, curve in enumerate(curves):
        lr, rate, low, high = _columns(rates, curve, "lr", "micro_rate", "micro_low", "micro_high")
        lr = lr * 10 ** (DODGE * (i - (len(curves) - 1) / 2))
        error = np.maximum([rate - low, high - rate], 0)
        style = look[curve]
        ax.errorbar(lr, rate, error, fmt="none", ecolor=style.colour, elinewidth=1, alpha=0.45)
        marks = {"marker": style.marker, "ms": 5, "mec": "white", "mew": 0.5}
        ax.plot(lr, rate, color=style.colour, ls=style.dash, lw=1.3, **marks)
    lr_axis(ax, rates["lr"])
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("P(micro divergence)")


# The horizon


def diverged_by_step(runs: pd.DataFrame) -> pd.DataFrame:
    """The share of a curve's runs, over all its lrs and seeds, that had diverged by each step: columns model, curve,
    method, step, share, runs. A run counts from its `diverged_at_step` on."""
    runs = with_curves(runs)
    rows = []
    for key, curve in runs.groupby(CURVE, sort=False):
        model, name = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
        at = sorted(int(s) for s in curve.loc[curve["outcome"] == "diverged", "diverged_at_step"].dropna())
        steps = [0, *at, max(curve["steps"].tolist())]
        shares = [*(i / len(curve) for i in range(len(at) + 1)), len(at) / len(curve)]
        same = {"model": model, "curve": name, "method": curve["method"].iloc[0], "runs": len(curve)}
        rows += [same | {"step": step, "share": share} for step, share in zip(steps, shares, strict=True)]
    columns = pd.Index([*CURVE, "method", "runs", "step", "share"])
    table = pd.DataFrame(rows, columns=columns)
    return in_order(table.assign(lr=table["step"])).drop(columns="lr")


def draw_horizon(ax: Axes, table: pd.DataFrame, look: Mapping[str, Look] | None = None) -> None:
    """Cumulative share of diverged runs over steps: `diverged_by_step` of one model."""
    look = curve_looks(table) if look is None else look
    for curve in (c for c in look if c in set(table["curve"])):
        of_curve = table[table["curve"] == curve]
        style = look[curve]
        ax.step(of_curve["step"], of_curve["share"], where="post", color=style.colour, ls=style.dash, lw=1.8)
    ax.set_xlabel("step")
    ax.set_ylabel("runs diverged so far")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda p, _: f"{100 * p:.0f}%"))
    ax.set_ylim(bottom=0)
    ax.set_xlim(0, max(table["step"].tolist(), default=1) or 1)


# The gallery of losses


def gallery_pairs(runs: pd.DataFrame, limit: int = 8) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Diverged runs, each beside a healthy one of the same curve: at the same lr where there is one, else at the
    nearest. First the lowest lr of each curve at which a run diverged, then, for other reasons, further ones of it."""
    runs = with_curves(runs).sort_values(["lr", "seed"])
    per_curve = []
    for _, curve in in_order(runs).groupby(CURVE, sort=False):
        every = records(curve)
        healthy = [r for r in every if r["outcome"] == "completed"]
        broken = [r for r in every if r["outcome"] == "diverged"]
        reasons = list(dict.fromkeys(r["reason"] for r in broken))
        first = [next(r for r in broken if r["reason"] == reason) for reason in reasons]
        nearest = [min(healthy, key=lambda h: _distance(h, b), default=None) for b in first]
        per_curve.append([(b, h) for b, h in zip(first, nearest, strict=True) if h is not None])
    rounds = range(max(map(len, per_curve), default=0))
    return [pairs[i] for i in rounds for pairs in per_curve if i < len(pairs)][:limit]


def _distance(healthy: Mapping[str, Any], broken: Mapping[str, Any]) -> tuple[float, bool]:
    return abs(math.log(healthy["lr"] / broken["lr"])), healthy["seed"] != broken["seed"]


def gains(losses: pd.DataFrame, tasks: Sequence[Mapping[str, Any]], median_steps: int = 25) -> pd.DataFrame:
    """Gain of the training loss per run and step: columns run_id, step, gain, smooth (median of the last
    `median_steps` gains). losses: `study.record.tables.read_losses`. A gain of 0 is the best constant predictor's; the
    unit is its mean loss."""
    unit = sum(float(task["constant_loss"]) for task in tasks)
    parts = []
    for run_id, of_run in losses.groupby("run_id", sort=True):
        loss, constant = (np.sum([np.asarray(v, dtype=float) for v in of_run[c]], axis=0) for c in ("loss", "constant"))
        with np.errstate(over="ignore", invalid="ignore"):
            gain = pd.Series((constant - loss) / unit).replace([np.inf, -np.inf], np.nan)
        smooth = gain.rolling(median_steps, min_periods=1).median().where(gain.notna())
        parts.append(pd.DataFrame({"run_id": run_id, "step": np.arange(len(gain)), "gain": gain, "smooth": smooth}))
    empty = pd.DataFrame({"run_id": [], "step": [], "gain": [], "smooth": []})
    return pd.concat(parts, ignore_index=True) if parts else empty


def draw_pair(ax: Axes, table: pd.DataFrame, broken: Mapping[str, Any], healthy: Mapping[str, Any]) -> None:
    """A diverged run and a healthy one over steps: raw gains thin, the trailing median thick; table: `gains`."""
    colour = looks([broken["method"]])[broken["method"]].colour
    shown = []
    for run, tone, style in ((healthy, "#8a8a8a", (0, (4, 1.5))), (broken, colour, (0, ()))):
        of_run = table[table["run_id"] == run["run_id"]]
        name = "healthy" if run is healthy else str(run["reason"]).replace("_", " ")
        ax.plot(of_run["step"], of_run["gain"], color=tone, lw=0.5, alpha=0.35)
        label = f"{name}: lr {run['lr']:g}, seed {run['seed']}"
        ax.plot(of_run["step"], of_run["smooth"], color=tone, lw=2, ls=style, label=label)
        shown += [v for v in of_run["smooth"].tolist() if math.isfinite(v)]
    top, bottom = max([*shown, 0.02]), min([*shown, 0.0])
    bottom = max(bottom, -1.5 * top)
    ax.set_ylim(bottom - 0.35 * (top - bottom), top + 0.35 * (top - bottom))
    at = broken["diverged_at_step"]
    if not pd.isna(at):
        ax.axvline(int(at), color=colour, lw=0.9, ls=(0, (1, 2)))
    ax.axhline(0, color="#444444", lw=0.9)
    ax.set_title(f"{broken['model']}, {broken['curve']}", fontsize=10)
    ax.set_xlabel("step")
    ax.set_ylabel("gain over the constant")
    ax.legend(loc="upper left", fontsize=8, borderaxespad=0.1, handlelength=2.4)


# The edge against the threshold


def frontier(table: pd.DataFrame) -> Figure:
    """The edge of each method as its threshold moves: `analysis.stats.frontier` at one level, one panel a line, with
    the edge of `none` as the band to beat. A table without a line gives a figure without a panel."""
    lines = few(_lines(table), MOST_LINES)
    with styled():
        figure = _panels(len(lines))
        for i, (_, line) in enumerate(lines):
            of_model = table.loc[table["model"] == line["model"].iloc[0]]
            ax = figure.add_subplot(*_grid(len(lines)), i + 1)
            draw_frontier(ax, _few_values(line), of_model.loc[of_model["curve"] == "none"], _edge_range(of_model))
            ax.set_title(_line_title(line))
    return figure


def draw_frontier(
    ax: Axes, line: pd.DataFrame, reference: pd.DataFrame, ends: tuple[float, float] | None = None
) -> None:
    """One line of `analysis.stats.frontier`: points with a band, log-log; censored edges as arrows that say `> 3.2`.

    reference: the row of `none`, drawn as a band over the whole panel; an empty table leaves it out. ends: lowest and
    highest lr of the axis. An edge that is the first crossing of a curve that is not monotone is an open marker.
    """
    look = looks(line["method"])[line["method"].iloc[0]]
    line = line.sort_values("value")
    rows = records(line)
    bottom, top = _edge_range(line) if ends is None else ends
    value, edge = (line[name].to_numpy(dtype=float) for name in ("value", "edge"))
    for row in records(reference):
        _draw_reference(ax, row, bottom, top)
    band = np.clip(line[["low", "high"]].to_numpy(dtype=float), bottom, top)
    ax.fill_between(value, band[:, 0], band[:, 1], color=look.colour, alpha=2 * FRESH_BAND, lw=0, zorder=2)
    # The line breaks where an edge is not a number.
    ax.plot(value, edge, color=look.colour, ls=look.dash, lw=1.8, zorder=3)
    for row in rows:
        if row["status"] == REACHED:
            face = look.colour if row["monotone"] else "white"
            ax.plot(row["value"], row["edge"], look.marker, color=look.colour, mfc=face, ms=7, mew=1.2, zorder=4)
        else:
            up = row["status"] == NOT_REACHED
            _censored(ax, row["value"], row["lr_max"] if up else row["lr_min"], up, edge_text(row), look.colour)
    _value_axis(ax, value)
    ax.set_yscale("log")
    ax.set_ylim(bottom, top)
    log_ticks(ax.yaxis, bottom, top, (bottom, top))
    ax.set_xlabel(str(line["threshold"].iloc[0]))
    ax.set_ylabel(f"{_level_name(float(line['level'].iloc[0]))} (learning rate)")


def _edge_range(table: pd.DataFrame) -> tuple[float, float]:
    """From below all that is known of the edges to above it, with room for arrows."""
    seen = table[["edge", "low", "high"]].to_numpy(dtype=float).ravel()
    seen = seen[np.isfinite(seen) & (seen > 0)].tolist()
    censored = {BELOW: "lr_min", NOT_REACHED: "lr_max"}
    seen += [row[censored[row["status"]]] for row in records(table) if row["status"] in censored]
    return min(seen) / 1.9, max(seen) * 1.9


def _draw_reference(ax: Axes, row: Mapping[str, Any], bottom: float, top: float) -> None:
    ends = (row["low"] or bottom, min(row["high"], top))
    ax.axhspan(*ends, color="#000000", alpha=0.09, lw=0, zorder=1)
    at = {REACHED: row["edge"], NOT_REACHED: row["lr_max"], BELOW: row["lr_min"]}[row["status"]]
    ax.axhline(at, color="#000000", lw=1.2, ls=(0, (1, 1.5)), zorder=2)
    place = {"xy": (0.0, at), "xytext": (4, 3), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(f"{row['curve']} {edge_text(row)}", **place, fontsize=8.5, zorder=5, path_effects=[HALO])


HALO = withStroke(linewidth=2.2, foreground="white")


def _censored(ax: Axes, value: float, lr: float, up: bool, text: str, colour: str) -> None:
    """An arrow from the last lr tried outward, with what is known of the edge at its tail."""
    arrow = {"arrowstyle": "-|>", "color": colour, "lw": 1.8, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 12}
    ax.annotate("", xy=(value, lr * (1.6 if up else 1 / 1.45)), xytext=(value, lr), arrowprops=arrow, zorder=5)
    side = {
        "xytext": (0, -3 if up else 3),
        "textcoords": "offset points",
        "ha": "center",
        "va": "top" if up else "bottom",
    }
    ax.annotate(text, xy=(value, lr), **side, fontsize=8.5, zorder=6, path_effects=[HALO])


def _value_axis(ax: Axes, values: np.ndarray) -> None:
    """Every value of a threshold is a tick; the axis is logarithmic unless one is 0 or below."""
    if (values > 0).all():
        ax.set_xscale("log")
        pad = max(1.15, (values.max() / values.min()) ** 0.06)
        ax.set_xlim(values.min() / pad, values.max() * pad)
    ax.xaxis.set_major_locator(FixedLocator([float(v) for v in values]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _level_name(level: float) -> str:
    return f"LR{100 * level:02.3g}" if level >= 0.1 else f"LR0{100 * level:.3g}"


def _lines(table: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The rows of each line of a table of `analysis.stats.frontier`, in its order."""
    inside = table.loc[table["threshold"] != ""]
    return list(inside.groupby(["model", "method", "threshold", "held"], sort=False))


MOST_VALUES = 12
"""Of a threshold, in a figure; more cannot be told apart, or read."""

MOST_LINES = 12
"""Panels of a figure that has one for each line."""


def few(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of them, evenly spaced, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def _few_values(line: pd.DataFrame) -> pd.DataFrame:
    return line.loc[line["value"].isin(few(sorted(set(line["value"])), MOST_VALUES))]


def _line_title(line: pd.DataFrame) -> str:
    model, method, threshold, held = (str(line[c].iloc[0]) for c in ("model", "method", "threshold", "held"))
    count = len(set(line["value"]))
    part = f", {MOST_VALUES} of {count} values" if count > MOST_VALUES else ""
    return f"{model}: {method} {threshold}" + (f", at {held}" if held else "") + part


def _grid(panels: int) -> tuple[int, int]:
    columns = min(2, max(1, panels))
    return math.ceil(max(1, panels) / columns), columns


def _panels(count: int, height: float = PANEL[1]) -> Figure:
    rows, columns = _grid(count)
    width = (LONE_PANEL if columns == 1 else PANEL)[0]
    return Figure(figsize=(width * columns, height * rows), layout="constrained")


# P(divergence) over lr and threshold


def threshold_map(cells: pd.DataFrame, crossings: pd.DataFrame) -> Figure:
    """P(divergence) over lr and threshold, one panel a line: every cell with its k/n, and where the fitted curves cross
    the levels of P. cells: `threshold_map`, crossings: `contours`, both of `analysis.stats.frontier`."""
    lines, crossed = few(_lines(cells), MOST_LINES), dict(_lines(crossings))
    tallest = max((len(set(line["lr"])) for _, line in lines), default=1)
    levels = sorted(set(crossings["level"]))
    with styled():
        figure = _panels(len(lines), max(PANEL[1], 0.24 * tallest + 1))
        axes = []
        for i, (key, line) in enumerate(lines):
            ax = figure.add_subplot(*_grid(len(lines)), i + 1)
            draw_map(ax, _few_values(line), crossed[key])
            ax.set_title(_line_title(line))
            axes.append(ax)
        if axes:
            bar = figure.colorbar(ScalarMappable(Normalize(0, 1), heat()), ax=axes, shrink=0.6, aspect=30, pad=0.01)
            bar.set_label("P(divergence), k of n")
            shown = [Line2D([], [], color="black", lw=1.8, ls=dash) for _, dash in zip(levels, DASHES, strict=False)]
            names = [f"{100 * level:g}% of the runs diverge" for level in levels]
            figure.legend(shown, names, loc="outside upper left", ncols=len(levels), handlelength=3.2)
    return figure


DASHES = ((0, (1, 1.2)), (0, ()), (0, (5, 1.5)))
"""Of the contours of a map, the lowest level first."""


def draw_map(ax: Axes, cells: pd.DataFrame, crossings: pd.DataFrame) -> None:
    """One line of a map: a column a value of the threshold, a row an lr, both evenly spaced; contours as lines where
    their edges were reached, and nowhere else."""
    values, lrs = sorted(set(cells["value"])), sorted(set(cells["lr"]))
    rate = np.full((len(lrs), len(values)), np.nan)
    size = min(9.0, 70.0 / len(values))
    for row in records(cells):
        y, x = lrs.index(row["lr"]), values.index(row["value"])
        rate[y, x] = row["rate"]
        light = row["rate"] <= 0.5
        around = withStroke(linewidth=3, foreground=heat()(row["rate"]))
        text = {"ha": "center", "va": "center", "fontsize": size, "color": "black" if light else "white"}
        ax.text(x, y, f"{row['k']}/{row['n']}", **text, zorder=5, path_effects=[around])
    corners = np.arange(len(values) + 1) - 0.5, np.arange(len(lrs) + 1) - 0.5
    ax.pcolormesh(*corners, rate, cmap=heat(), vmin=0, vmax=1, edgecolors="#dddddd", linewidth=0.6)
    for level, dash in zip(sorted(set(crossings["level"])), DASHES, strict=False):
        found = crossings.loc[crossings["level"] == level].set_index("value")["edge"]
        edge = found.reindex(values).to_numpy(dtype=float)  # NaN unless reached
        height = np.interp(np.log(edge), np.log(lrs), np.arange(len(lrs))) if len(lrs) > 1 else 0 * edge
        _draw_contour(ax, height, dash)
    ax.grid(visible=False)
    ax.set_xlim(-0.5, len(values) - 0.5)
    ax.set_ylim(-0.5, len(lrs) - 0.5)
    ax.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    ax.set_yticks(range(len(lrs)), [f"{lr:g}" for lr in lrs])
    ax.tick_params(length=0)
    ax.set_xlabel(str(cells["threshold"].iloc[0]))
    ax.set_ylabel("learning rate")


def _draw_contour(ax: Axes, height: np.ndarray, dash: Any) -> None:
    """height: of each column, NaN where there is none; a column between two of those keeps a short stroke."""
    halo = withStroke(linewidth=3.6, foreground="white")
    style = {"color": "black", "lw": 1.8, "ls": dash, "zorder": 4, "path_effects": [halo]}
    ax.plot(np.arange(len(height)), height, **style)
    known = np.isfinite(np.concatenate([[math.nan], height, [math.nan]]))
    for x in np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:]):
        ax.plot([x - 0.4, x + 0.4], [height[x]] * 2, **style)


# Quality against P(divergence)


def tradeoff(table: pd.DataFrame) -> Figure:
    """Held-out quality against P(divergence): `analysis.tradeoff`, one panel a model."""
    models = list(dict.fromkeys(table["model"]))
    look = looks(table["method"])
    with styled():
        figure = _panels(len(models), TALL_PANEL)
        for i, model in enumerate(models):
            ax = figure.add_subplot(*_grid(len(models)), i + 1)
            draw_tradeoff(ax, table.loc[table["model"] == model])
            ax.set_title(model)
        legend(figure, look, lines=False)
    return figure


def draw_tradeoff(ax: Axes, table: pd.DataFrame) -> None:
    """One model's cells: quality (up is better) against the share of diverged runs. The Pareto front has large markers,
    intervals, a line, and the names of its curves and lrs; so has, in grey, the best cell of every method that is not
    on it. A quality far below the others is a cross on the floor."""
    look, measure = looks(table["method"]), str(table["measure"].iloc[0])
    table = table.loc[table["quality"].notna()]
    down = -1 if lower_is_better(measure) else 1
    floor = _floor(down * table["quality"].to_numpy(dtype=float), table["rate"].to_numpy(dtype=float))
    table = table.assign(up=np.maximum(down * table["quality"], floor), off=down * table["quality"] < floor)
    order = method_order(table["method"])
    between = np.diff(sorted(set(table["rate"]))).min(initial=1.0)
    step = min(STEP, 0.8 * float(between) / max(1, len(order)))
    best = []
    for i, method in enumerate(order):
        own = table.loc[table["method"] == method]
        x = own["rate"] + step * (i - (len(order) - 1) / 2)
        for off, marker in ((False, look[method].marker), (True, "x")):
            chosen = (own["off"] == off) & ~own["pareto"]
            points = {
                "color": look[method].colour,
                "ms": 5,
                "alpha": 0.55,
                "mew": 0.8,
                "rasterized": len(table) > CLOUD,
            }
            ax.plot(x[chosen], down * own["up"][chosen], marker, **points)
        top = own.sort_values(["up", "rate"], ascending=[False, True]).head(1)
        best += [row for row in records(top) if not row["pareto"] and not row["off"]]
    front = table.loc[table["pareto"]].sort_values(["rate", "up"])
    ax.step(front["rate"], down * front["up"], where="post", color="black", lw=1.2, zorder=3)
    named = []
    for row in [*records(front), *best]:
        x, y = row["rate"] + step * (order.index(row["method"]) - (len(order) - 1) / 2), row["quality"]
        colour, marker = look[row["method"]].colour, look[row["method"]].marker
        if row["pareto"]:
            span = sorted((row["quality_low"], row["quality_high"]))
            ax.plot([x, x], span, color=colour, marker="_", lw=1.2, ms=7, zorder=2)
            ax.plot([row["low"], row["high"]], [y, y], color=colour, marker="|", lw=1.2, ms=7, zorder=2)
        ax.plot(x, y, marker, color=colour, ms=9 if row["pareto"] else 7, mec="black", mew=1.2, zorder=5)
        named.append((x, y, f"{row['curve']}, lr {row['lr']:g}", "black" if row["pareto"] else "#666666"))
    ceiling = max(table["up"].tolist(), default=1.0)
    room = max(ceiling - floor, 1e-9)
    ax.set_ylim(*(down * y for y in (floor - 0.04 * room, ceiling + 0.12 * room)))
    ax.set_xlim(-0.06, 1.06)
    _name(ax, named)
    ax.set_xlabel("P(divergence)")
    kind, _, task = measure.partition("_")
    ax.set_ylabel("kept" if kind == "kept" and not task else f"held-out {kind.upper()}, {task}")


CLOUD = 2_000
"""Points of a figure from which on they are kept as an image: a page should open."""

STEP = 0.018
"""By how much the points of neighbouring methods stand apart, so that equal rates do not hide each other."""

TALL_PANEL = 4.6
"""Inches of height of a panel with names in it."""

FLOOR_SPANS = 1.5


def _floor(up: np.ndarray, rate: np.ndarray) -> float:
    """Below this, quality is far from that of the cells that mostly train: the room is for what tells these apart."""
    trained = up[(rate < 0.5) & np.isfinite(up)]
    if trained.size == 0:
        trained = up[np.isfinite(up)]
    if trained.size == 0:
        return 0.0
    top, typical = float(trained.max()), float(np.quantile(trained, 0.25))
    lowest = float(up[np.isfinite(up)].min())
    return max(lowest, top - (1 + FLOOR_SPANS) * (top - typical)) if top > typical else lowest


def _name(ax: Axes, named: Sequence[tuple[float, float, str, str]]) -> None:
    """Names beside points, one below the other where they would meet, with a thin line to their points."""
    (low, high), size = ax.get_ylim(), 9.0
    gap = abs(high - low) * size * 1.45 / 72 / (0.75 * TALL_PANEL)
    sign = 1 if high > low else -1
    last = math.inf
    for x, y, text, colour in sorted(named, key=lambda n: -sign * n[1]):
        at = min(sign * y, last - gap)
        last = at
        line = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "shrinkA": 0, "shrinkB": 4}
        ax.annotate(
            text,
            xy=(x, y),
            xytext=(x + 0.05 if x < 0.6 else x - 0.05, sign * at),
            ha="left" if x < 0.6 else "right",
            va="bottom",
            fontsize=size,
            color=colour,
            arrowprops=line,
            zorder=6,
            path_effects=[HALO],
        )


# Axes and panels


def lr_axis(ax: Axes, lrs: Iterable[float], arrows: bool = False) -> None:
    """A log axis of learning rates, with room for arrows at its end where there are any."""
    low, high = float(min(lrs, default=0.1)), float(max(lrs, default=0.1))
    ax.set_xscale("log")
    pad = max(1.06, (high / low) ** 0.03)
    left, right = low / pad, high * (max(pad, 10**0.15) if arrows else pad)
    ax.set_xlim(left, right)
    log_ticks(ax.xaxis, left, right, (low, high))
    ax.set_xlabel("learning rate")


def log_ticks(axis: Axis, left: float, right: float, ends: tuple[float, float]) -> None:
    """Ticks of a log axis as people say them (0.01, 0.02, 0.05, 0.1 ...), few enough to read; at the ends of the data
    where no such number lies between left and right."""
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**e for e in range(-12, 6) for s in steps if left <= s * 10.0**e <= right]
        if len(ticks) <= 9:
            break
    if len(ticks) < 2:
        ticks = sorted(set(ends))
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def legend(figure: Figure, look: Mapping[str, Look], lines: bool = True) -> None:
    """One legend above all panels. lines: whether the figure draws lines, or markers alone."""
    handles = [
        Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, ms=6, mec="white", mew=0.5, lw=1.8)
        if lines
        else Line2D([], [], color=v.colour, ls="none", marker=v.marker, ms=7)
        for v in look.values()
    ]
    # An entry takes about 0.75 inches beside its text, whose letters take about 0.085.
    entries, width = [0.75 + 0.085 * len(name) for name in look], figure.get_figwidth()
    columns = len(look) if sum(entries) <= width else max(1, int(width / max(entries)))
    figure.legend(handles, list(look), loc="outside upper left", ncols=max(1, columns), handlelength=3.2)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A part of a figure: curves of one model that can be told apart. names: of its curves, in its own legend; None
    where all panels share one legend, of the curves' full names."""

    title: str
    model: str
    look: Mapping[str, Look]
    names: Sequence[str] | None = None


def panels(table: pd.DataFrame, models: Sequence[str], lines: pd.DataFrame) -> list[Panel]:
    """One panel a model; where there are more curves than can be told apart, one a line of `analysis.stats.frontier`,
    each beside `none`, and one for all other curves in no line. table: rows with model, curve and method; lines:
    `frontier` at any level."""
    look = curve_looks(table)
    if len(look) <= MANY_CURVES:
        return [Panel(title=model, model=model, look=look) for model in models]
    found = []
    for model in models:
        of_model = lines.loc[lines["model"] == model]
        loose = {curve: look[curve] for curve in of_model.loc[of_model["threshold"] == "", "curve"]}
        loose = dict(few(list(loose.items()), MOST_VALUES))
        if set(loose) - {"none"}:
            found.append(Panel(title=model, model=model, look=loose, names=list(loose)))
        beside = {"none": loose["none"]} if "none" in loose else {}
        for _, whole in few(_lines(of_model), MOST_LINES):
            line = _few_values(whole)
            ramp = _ramp(looks(line["method"])[line["method"].iloc[0]], len(line))
            own = beside | dict(zip(line["curve"], ramp, strict=True))
            names = [*beside, *(f"{value:g}" for value in line["value"])]
            found.append(Panel(title=_line_title(whole), model=model, look=own, names=names))
    return found


MANY_CURVES = 10


def _ramp(look: Look, count: int) -> list[Look]:
    """A method's look from dark to pale, for the values of its threshold from low to high."""
    rgb = np.array(to_rgb(look.colour))
    dark, pale = (tuple(shade.tolist()) for shade in (0.35 * rgb, rgb + 0.6 * (1 - rgb)))
    shades = sns.blend_palette([to_hex(dark), look.colour, to_hex(pale)], count).as_hex()
    return [Look(colour=shade, marker=look.marker, dash=look.dash) for shade in shades]


def by_panel(parts: Sequence[Panel], draw: Callable[[Axes, Panel], None]) -> Figure:
    """The panels, two a row, under one legend, or with a legend beside each."""
    figure = _panels(len(parts))
    for i, part in enumerate(parts):
        ax = figure.add_subplot(*_grid(len(parts)), i + 1)
        draw(ax, part)
        ax.set_title(part.title)
        if part.names is not None:
            handles = [
                Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, mec="white", mew=0.5)
                for v in part.look.values()
            ]
            ax.legend(handles, part.names, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8.5, handlelength=2.6)
    if parts and parts[0].names is None:
        legend(figure, parts[0].look)
    return figure


def all_figures(
    folder: Path,
    runs: pd.DataFrame,
    definition: Definition,
    rates: pd.DataFrame,
    fitted: Mapping[Any, Fit],
    edges: pd.DataFrame,
    losses: pd.DataFrame | None = None,
) -> dict[str, Figure]:
    """Every figure of a report, name -> Figure, in the order of reading. No runs give no figures.

    rates: `divergence_rates` of `in_bins(runs)`; fitted: `edges.fits(runs)`; edges: `edges.edges(runs, level, fitted)`;
    losses: of all runs, as `study.record.tables.read_losses` gives them; None reads those that are shown.
    """
    if runs.empty:
        return {}
    with styled():
        return _all_figures(folder, runs, definition, rates, fitted, edges, losses)


def styled() -> contextlib.AbstractContextManager[None]:
    """The look of all figures, for as long as the context lasts: make them in it, and save them in it."""
    style: dict[Any, Any] = sns.axes_style("ticks") | STYLE
    return matplotlib.rc_context(style)


def _all_figures(
    folder: Path,
    runs: pd.DataFrame,
    definition: Definition,
    rates: pd.DataFrame,
    fitted: Mapping[Any, Fit],
    edges: pd.DataFrame,
    losses: pd.DataFrame | None,
) -> dict[str, Figure]:
    models = [m for m in definition.study.models if m in set(rates["model"])]
    models += [m for m in dict.fromkeys(rates["model"]) if m not in models]
    moving = edge_by_threshold(runs, float(edges["level"].iloc[0]), fitted)
    parts = panels(rates, models, moving)
    table = quality(in_bins(runs), definition)
    horizon = diverged_by_step(runs)
    drawn = {curve for part in parts for curve in part.look}
    curves = fitted_curves(runs.loc[runs["curve"].isin(list(drawn))], fitted=fitted)

    def of(frame: pd.DataFrame, part: Panel) -> pd.DataFrame:
        return frame.loc[frame["model"] == part.model]

    def bands(value: str, label: str) -> Figure:
        return by_panel(parts, lambda ax, p: draw_band(ax, of(table, p), value, label, None, p.look))

    def kept(ax: Axes, part: Panel) -> None:
        draw_band(ax, of(table, part), "kept", "kept (share of the reference gain)", KEPT_BOTTOM, part.look)
        rule = definition.study.rule.kept
        ax.axhline(rule, color="#999999", lw=0.8, ls=(0, (2, 2)))
        ax.set_ylim(bottom=KEPT_BOTTOM)

    figures = {
        "divergence": by_panel(parts, lambda ax, p: draw_rates(ax, of(rates, p), of(curves, p), of(edges, p), p.look)),
    }
    if set(moving["threshold"]) != {""}:
        figures["frontier"] = frontier(moving)
        figures["threshold_map"] = threshold_map(cells_by_threshold(runs), contours(runs, fitted))
    figures["tradeoff"] = tradeoff(quality_by_rate(runs, definition))
    figures["kept"] = by_panel(parts, kept)
    for task in tasks_of(definition.data):
        name, unit = task["name"], task.get("unit") or ""
        if f"auc_{name}" in table:
            figures[f"auc_{name}"] = bands(f"auc_{name}", f"held-out AUC, {name}")
        if f"rmse_{name}" in table:
            figures[f"rmse_{name}"] = bands(f"rmse_{name}", f"held-out RMSE, {name}" + (f" [{unit}]" if unit else ""))
    figures["micro"] = by_panel(parts, lambda ax, p: draw_micro(ax, of(rates, p), p.look))
    figures["horizon"] = by_panel(parts, lambda ax, p: draw_horizon(ax, of(horizon, p), p.look))
    gallery = _gallery(folder, runs, definition, losses)
    return figures | ({"gallery": gallery} if gallery else {})


KEPT_BOTTOM = -0.25


def _gallery(folder: Path, runs: pd.DataFrame, definition: Definition, losses: pd.DataFrame | None) -> Figure | None:
    pairs = gallery_pairs(runs)
    ids = [run["run_id"] for pair in pairs for run in pair]
    if not ids:
        return None
    losses = read_losses(folder, ids) if losses is None else losses.loc[losses["run_id"].isin(ids)]
    if losses.empty:
        return None
    table = gains(losses, tasks_of(definition.data), definition.study.rule.median_steps)
    recorded = set(table["run_id"])
    pairs = [pair for pair in pairs if all(run["run_id"] in recorded for run in pair)]
    rows = math.ceil(len(pairs) / 2)
    figure = Figure(figsize=(PANEL[0] * min(2, len(pairs)), 2.9 * rows), layout="constrained")
    for i, (broken, healthy) in enumerate(pairs):
        draw_pair(figure.add_subplot(rows, min(2, len(pairs)), i + 1), table, broken, healthy)
    return figure
