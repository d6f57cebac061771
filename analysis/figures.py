"""The figures: a function that makes each one's table, and one that draws the table on an `ax`.

`draw_x(ax, table)` takes one model's rows and returns nothing. Colours, markers and dashes come from
`analysis.palette`, keyed by method; the several curves of one method differ in how pale they are. An edge that was not
reached is an arrow at the end of the tried lrs, never a point.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.edges import NOT_REACHED
from analysis.palette import Look, looks, method_order
from analysis.quality import quality
from analysis.runs import CURVE, in_order, records, tasks_of, with_curves
from study.record import Definition, read_losses

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

    rates: `divergence_rates`; fitted: `edges.fitted_curves`; edges: `edges.edges`; all of one model. A curve whose edge
    was not reached ends in an arrow.
    """
    look = curve_looks(rates) if look is None else look
    curves = [c for c in look if c in set(rates["curve"])]
    for i, curve in enumerate(curves):
        style = look[curve]
        points = _columns(rates, curve, "lr", "rate", "low", "high")
        lr, rate = points[0] * 10 ** (DODGE * (i - (len(curves) - 1) / 2)), points[1]
        # Rounding may put an end of an interval a hair inside its point.
        error = np.maximum([rate - points[2], points[3] - rate], 0)
        ax.errorbar(lr, rate, error, fmt="none", ecolor=style.colour, elinewidth=1, alpha=0.45, zorder=2)
        ax.plot(lr, rate, style.marker, color=style.colour, ms=5.5, mec="white", mew=0.5, zorder=4)
        x, line, low, high = _columns(fitted, curve, "lr", "rate", "low", "high")
        if len(x) > 1:
            ax.plot(x, line, color=style.colour, ls=style.dash, lw=1.6, zorder=3)
            ax.fill_between(x, low, high, color=style.colour, alpha=FRESH_BAND, lw=0, zorder=1)
    if len(edges):
        ax.axhline(float(edges["level"].iloc[0]), color="#999999", lw=0.8, ls=(0, (2, 2)), zorder=1)
    censored = [row for row in records(edges) if row["status"] == NOT_REACHED and row["curve"] in look]
    for i, row in enumerate(censored):
        place = row["level"] - 0.07 * (i - (len(censored) - 1) / 2)
        _arrow(ax, row["lr_max"], place, look[row["curve"]].colour)
    lr_axis(ax, rates["lr"], arrows=bool(censored))
    ax.set_ylim(-0.04, 1.04)
    ax.set_ylabel("P(divergence)")


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
        healthy = [r for r in records(curve) if r["outcome"] == "completed"]
        broken = [r for r in records(curve) if r["outcome"] == "diverged"]
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
    `median_steps` gains). losses: `study.record.read_losses`. A gain of 0 is the best constant predictor's; the unit
    is its mean loss."""
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


# Axes and panels


def lr_axis(ax: Axes, lrs: Iterable[float], arrows: bool = False) -> None:
    """A log axis of learning rates with ticks as people say them (0.01, 0.02, 0.05, 0.1 ...), few enough to read."""
    low, high = float(min(lrs, default=0.1)), float(max(lrs, default=0.1))
    ax.set_xscale("log")
    pad = max(1.06, (high / low) ** 0.03)
    left, right = low / pad, high * (max(pad, 10**0.15) if arrows else pad)
    ax.set_xlim(left, right)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**e for e in range(-12, 6) for s in steps if left <= s * 10.0**e <= right]
        if len(ticks) <= 9:
            break
    if len(ticks) < 2:
        ticks = sorted({low, high})
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.set_xlabel("learning rate")


def legend(figure: Figure, look: Mapping[str, Look]) -> None:
    """One legend above all panels."""
    lines = [
        Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, ms=6, mec="white", lw=1.8) for v in look.values()
    ]
    # An entry takes about 0.75 inches beside its text, whose letters take about 0.085.
    entries, width = [0.75 + 0.085 * len(name) for name in look], figure.get_figwidth()
    columns = len(look) if sum(entries) <= width else max(1, int(width / max(entries)))
    figure.legend(lines, list(look), loc="outside upper left", ncols=max(1, columns), handlelength=3.2)


def by_model(models: Sequence[str], look: Mapping[str, Look], draw: Callable[[Axes, str], None]) -> Figure:
    """One panel a model, two a row, under one legend."""
    columns = min(2, max(1, len(models)))
    rows = math.ceil(max(1, len(models)) / columns)
    width, height = LONE_PANEL if columns == 1 else PANEL
    figure = Figure(figsize=(width * columns, height * rows + 0.4), layout="constrained")
    for i, model in enumerate(models):
        ax = figure.add_subplot(rows, columns, i + 1)
        draw(ax, model)
        ax.set_title(model)
    legend(figure, look)
    return figure


def all_figures(
    folder: Path,
    runs: pd.DataFrame,
    definition: Definition,
    rates: pd.DataFrame,
    fitted: pd.DataFrame,
    edges: pd.DataFrame,
) -> dict[str, Figure]:
    """Every figure of a report, name -> Figure, in the order of reading. No runs give no figures."""
    if runs.empty:
        return {}
    with styled():
        return _all_figures(folder, runs, definition, rates, fitted, edges)


def styled() -> contextlib.AbstractContextManager[None]:
    """The look of all figures, for as long as the context lasts: make them in it, and save them in it."""
    style: dict[Any, Any] = sns.axes_style("ticks") | STYLE
    return matplotlib.rc_context(style)


def _all_figures(
    folder: Path,
    runs: pd.DataFrame,
    definition: Definition,
    rates: pd.DataFrame,
    fitted: pd.DataFrame,
    edges: pd.DataFrame,
) -> dict[str, Figure]:
    look = curve_looks(rates)
    models = [m for m in definition.study.models if m in set(rates["model"])]
    models += [m for m in dict.fromkeys(rates["model"]) if m not in models]
    table = quality(runs, definition)
    horizon = diverged_by_step(runs)

    def of(frame: pd.DataFrame, model: str) -> pd.DataFrame:
        return frame.loc[frame["model"] == model]

    def bands(value: str, label: str, bottom: float | None = None) -> Figure:
        return by_model(models, look, lambda ax, m: draw_band(ax, of(table, m), value, label, bottom, look))

    def kept(ax: Axes, model: str) -> None:
        draw_band(ax, of(table, model), "kept", "kept (share of the reference gain)", KEPT_BOTTOM, look)
        rule = definition.study.rule.kept
        ax.axhline(rule, color="#999999", lw=0.8, ls=(0, (2, 2)))
        ax.set_ylim(bottom=KEPT_BOTTOM)

    figures = {
        "divergence": by_model(
            models, look, lambda ax, m: draw_rates(ax, of(rates, m), of(fitted, m), of(edges, m), look)
        ),
        "kept": by_model(models, look, kept),
    }
    for task in tasks_of(definition.data):
        name, unit = task["name"], task.get("unit") or ""
        if f"auc_{name}" in table:
            figures[f"auc_{name}"] = bands(f"auc_{name}", f"held-out AUC, {name}")
        if f"rmse_{name}" in table:
            figures[f"rmse_{name}"] = bands(f"rmse_{name}", f"held-out RMSE, {name}" + (f" [{unit}]" if unit else ""))
    figures["micro"] = by_model(models, look, lambda ax, m: draw_micro(ax, of(rates, m), look))
    figures["horizon"] = by_model(models, look, lambda ax, m: draw_horizon(ax, of(horizon, m), look))
    gallery = _gallery(folder, runs, definition)
    return figures | ({"gallery": gallery} if gallery else {})


KEPT_BOTTOM = -0.25


def _gallery(folder: Path, runs: pd.DataFrame, definition: Definition) -> Figure | None:
    pairs = gallery_pairs(runs)
    losses = read_losses(folder, [run["run_id"] for pair in pairs for run in pair]) if pairs else pd.DataFrame()
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
