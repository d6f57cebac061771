"""Figures of one replay: a run, and the same seed with other methods, step by step and layer by layer.

The tables are `trace.parquet` and `moments.json` of `DIR/replay/<run_id>/`, which `study replay` writes. The figures
follow figures 4 and 6 of Tang et al., Improving Training Stability for Multitask Ranking Models in Recommender Systems,
KDD 2023 (arXiv 2302.09178), and add the sharpness.

    course      loss and held-out AUC, with the three moments of the run that diverged
    norms       the quantities that GC, AGC and Clippy use, by tensor, at the three moments
    factors     what each method multiplied the update of each tensor by
    units       the share of dead units by layer, and the norm of the last activations
    sharpness   sharpness x lr / 2, of the whole network and by layer
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.axes import figure_style, log_axis
from analysis.figures.palette import LineStyle, method_styles
from analysis.loading import curve_labels

ALL = "all"

DPI = 90
"""Resolution of the PNG files: 10 inches are 900 pixels, the width of a page."""

MOMENTS = {"healthy": "#009E73", "rising": "#E69F00", "gone": "#D55E00"}
"""The three moments in order, with their colours."""

AROUND = 30
"""Steps that the near view shows before the first moment and after the last."""

MOST_TENSORS = 24
"""Tensors above which figures show the matrices alone."""

FACTOR_STEPS = 9
"""Steps of the median of factors, which vary more between batches than over a training."""

Moments = Mapping[str, int]
Styles = Mapping[str, LineStyle]
"""Run id -> style."""

NORMS = {
    "gradient_norm": "gradient norm (GC)",
    "gradient_share": "gradient / weight norm (AGC)",
    "largest_over_bound": "|update| / (0.5 |w| + 0.01),\nits largest (Clippy)",
}


def read(folder: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the trace and the moments of a replay's folder."""
    return pd.read_parquet(folder / "trace.parquet"), json.loads((folder / "moments.json").read_text())


def write(folder: Path) -> list[Path]:
    """Draw every figure of a replay into its folder and return their paths in reading order."""
    trace, about = read(folder)
    paths = []
    with figure_style():
        for name, figure in figures(trace, about).items():
            path = folder / f"{name}.png"
            figure.savefig(path, format="png", dpi=DPI)
            paths.append(path)
    return paths


def figures(trace: pd.DataFrame, about: Mapping[str, Any]) -> dict[str, Figure]:
    """Return name -> figure, in reading order.

    Args:
        trace: `trace.parquet`.
        about: `moments.json`; the first of its runs is the one that was replayed, the others are compared with it.
    """
    moments = about["runs"][0]["moments"]
    trace = trace.assign(gradient_share=trace["gradient_norm"] / trace["weight_norm"])
    order = [run["run_id"] for run in about["runs"]]
    names = curve_labels((run["method"], run["run"]["options"]) for run in about["runs"])
    labels = {run["run_id"]: name for run, name in zip(about["runs"], names, strict=True)}
    styles = dict(zip(order, _run_styles(about["runs"]), strict=True))
    drawn = {"course": course(trace, moments, styles, labels)}
    if moments:
        drawn["norms"] = norms(trace.loc[trace["run_id"] == order[0]], moments)
    treated = [run for run in order if (trace.loc[trace["run_id"] == run, "factor"].dropna() != 1).any()]
    if treated:
        drawn["factors"] = factors(trace, moments, treated, labels)
    drawn["units"] = units(trace.loc[trace["run_id"] == order[0]], moments)
    if trace[["treated_share", "sharpness_share"]].notna().to_numpy().any():
        drawn["sharpness"] = sharpness(trace, moments, order[0], styles, labels)
    return drawn


def _run_styles(runs: Sequence[Mapping[str, Any]]) -> list[LineStyle]:
    of_method = method_styles(run["method"] for run in runs)
    return [of_method[run["method"]] for run in runs]


# loss and AUC


def course(trace: pd.DataFrame, moments: Moments | None, styles: Styles, labels: Mapping[str, str]) -> Figure:
    """Return the figure of loss and AUC: around the moments on the left, the whole run on the right."""
    near = near_steps(trace, moments)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharey="row", sharex="col", width_ratios=(3, 2))
    for column, steps in enumerate((near, (0, max(trace["step"].tolist())))):
        draw_loss(axes[0, column], trace, styles, steps)
        draw_values(axes[1, column], trace, "held_auc", styles, steps)
        for row in (0, 1):
            mark_moments(axes[row, column], moments, named=row == 0 and column == 0)
        axes[1, column].set_xlabel("step")
    axes[0, 0].set_ylabel("training loss of the batch")
    axes[1, 0].set_ylabel("AUC on held-out rows")
    axes[0, 0].set_title("around the moments", pad=18)
    axes[0, 1].set_title("the whole run", pad=18)
    _legend(figure, styles, labels, constant=True)
    return figure


def draw_loss(ax: Axes, trace: pd.DataFrame, styles: Styles, steps: tuple[int, int]) -> None:
    """Draw the loss of each run and of the best constant predictor on a logarithmic scale."""
    part = trace.loc[(trace["layer"] == ALL) & trace["step"].between(*steps)]
    first = part.loc[part["run_id"] == next(iter(styles))]
    ax.plot(first["step"], first["constant"], color="#999999", lw=1, ls=(0, (1, 1)), zorder=1)
    draw_values(ax, trace, "loss", styles, steps)
    log_axis(ax)


def draw_values(ax: Axes, trace: pd.DataFrame, value: str, styles: Styles, steps: tuple[int, int]) -> None:
    """Draw a column of each run's whole network against the step."""
    part = trace.loc[(trace["layer"] == ALL) & trace["step"].between(*steps)]
    for run, style in styles.items():
        of_run = part.loc[(part["run_id"] == run) & part[value].notna()]
        marker = "." if len(of_run) < np.ptp(steps) / 1.5 else ""  # for values that are not computed at every step
        ax.plot(of_run["step"], of_run[value], color=style.colour, ls=style.dash, lw=1.5, marker=marker, ms=5)
    ax.set_xlim(*steps)


def near_steps(trace: pd.DataFrame, moments: Moments | None) -> tuple[int, int]:
    """Return the first and last step of the near view; without moments, it shows the first steps."""
    last = max(trace["step"].tolist())
    if not moments:
        return 0, min(last, 3 * AROUND)
    return max(0, moments["healthy"] - AROUND), min(last, moments["gone"] + AROUND)


def mark_moments(ax: Axes, moments: Moments | None, *, named: bool = False) -> None:
    """Draw a vertical line at each moment, with its name above if `named`."""
    for name, colour in MOMENTS.items() if moments else ():
        assert moments is not None
        ax.axvline(moments[name], color=colour, lw=1.3, zorder=1)
        if named:
            side = {"healthy": "right", "rising": "center", "gone": "left"}[name]
            place = (moments[name], 1.02)
            ax.annotate(name, place, xycoords=("data", "axes fraction"), color=colour, ha=side, va="bottom", fontsize=9)


# norms at the three moments


def norms(trace: pd.DataFrame, moments: Moments) -> Figure:
    """Return the figure of the three quantities that methods use, by tensor, at the three moments."""
    tensors = tensors_of(trace)
    figure = Figure(figsize=(10, 1.1 + 0.27 * len(tensors)), layout="constrained")
    axes = figure.subplots(1, len(NORMS), sharey=True)
    for ax, (value, title) in zip(axes, NORMS.items(), strict=True):
        draw_at_moments(ax, trace, value, tensors, moments)
        ax.set_title(title, fontsize=10)
    handles = [
        Line2D([], [], color=c, marker="o", ls="none", label=f"{m} (step {moments[m]})") for m, c in MOMENTS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def draw_at_moments(ax: Axes, trace: pd.DataFrame, value: str, tensors: Sequence[str], moments: Moments) -> None:
    """Draw a quantity: one line a tensor, one point a moment, on a logarithmic scale."""
    table = trace.loc[trace["layer"].isin(list(tensors))].pivot(index="layer", columns="step", values=value)
    places = np.arange(len(tensors))
    columns = {name: table[moments[name]].reindex(list(tensors)).to_numpy(float) for name in MOMENTS}
    every = np.array(list(columns.values()))
    every = np.where(every > 0, every, np.nan)
    ax.hlines(places, np.nanmin(every, axis=0), np.nanmax(every, axis=0), color="#cccccc", lw=1.5, zorder=1)
    for name, colour in MOMENTS.items():
        ax.plot(columns[name], places, "o", color=colour, ms=6, mec="white", mew=0.6)
    log_axis(ax, "x")
    ax.set_yticks(places, tensors, fontsize=9)
    ax.set_ylim(len(tensors) - 0.5, -0.5)


def tensors_of(trace: pd.DataFrame) -> list[str]:
    """Return the tensors of a trace in the network's order; without biases if there are many."""
    names = list(dict.fromkeys(trace.loc[trace["weight_norm"].notna() & (trace["layer"] != ALL), "layer"]))
    return names if len(names) <= MOST_TENSORS else [name for name in names if "bias" not in name]


# factors


def factors(trace: pd.DataFrame, moments: Moments | None, runs: Sequence[str], labels: Mapping[str, str]) -> Figure:
    """Return the figure of factors: one panel a run, one line a tensor, darker towards the output."""
    matrices = [name for name in tensors_of(trace) if "bias" not in name]
    columns = min(2, len(runs))
    rows = -(-len(runs) // columns)
    figure = Figure(figsize=(10, 0.6 + 2.6 * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    shades = dict(zip(matrices, sns.color_palette("viridis_r", len(matrices)).as_hex(), strict=True))
    for ax, run in zip(axes, runs, strict=False):
        draw_by_layer(ax, trace.loc[trace["run_id"] == run], "factor", shades, median=FACTOR_STEPS)
        log_axis(ax)
        mark_moments(ax, moments)
        ax.set_title(labels[run])
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel(f"factor, median of {FACTOR_STEPS} steps")
    for ax in axes[-columns:]:
        ax.set_xlabel("step")
    handles = [Line2D([], [], color=c, label=name) for name, c in shades.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8.5)
    return figure


def draw_by_layer(ax: Axes, trace: pd.DataFrame, value: str, shades: Mapping[str, str], median: int = 1) -> None:
    """Draw a column of one run against the step, as the median of `median` steps, a line each layer of `shades`."""
    for name, colour in shades.items():
        of_layer = trace.loc[(trace["layer"] == name) & trace[value].notna()]
        values = of_layer[value].rolling(median, center=True, min_periods=1).median()
        ax.plot(of_layer["step"], values, color=colour, lw=1.3)
    ax.set_xlim(min(trace["step"].tolist()), max(trace["step"].tolist()))


# dead units


def units(trace: pd.DataFrame, moments: Moments | None) -> Figure:
    """Return the figure of dead units by layer and of the norm of the last activations, around the moments."""
    steps = near_steps(trace, moments)
    figure = Figure(figsize=(10, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    part = trace.loc[trace["step"].between(*steps)]
    layers = layers_in(trace, "dead_share")
    shades = dict(zip(layers, sns.color_palette("viridis_r", len(layers) + 1).as_hex()[1:], strict=True))
    draw_by_layer(left, part, "dead_share", shades)
    left.set_ylim(-0.02, 1.02)
    left.set_ylabel("share of dead units")
    left.legend([Line2D([], [], color=c) for c in shades.values()], list(shades), fontsize=9, loc="center right")
    of_all = part.loc[part["layer"] == ALL]
    right.plot(of_all["step"], of_all["activation_norm"], color="#000000", lw=1.5)
    log_axis(right)
    right.set_ylabel("norm of the last activations")
    for ax in (left, right):
        mark_moments(ax, moments, named=True)
        ax.set_xlim(*steps)
        ax.set_xlabel("step")
    return figure


# sharpness


def sharpness(
    trace: pd.DataFrame,
    moments: Moments | None,
    run: str,
    styles: Styles,
    labels: Mapping[str, str],
) -> Figure:
    """Return the figure of sharpness x lr / 2 around the moments.

    Left: of the whole network with the method's factors, for each run. Right: of each layer of `run`.
    """
    steps = near_steps(trace, moments)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    draw_values(left, trace, "treated_share", styles, steps)
    part = trace.loc[(trace["run_id"] == run) & trace["step"].between(*steps) & (trace["layer"] != ALL)]
    layers = layers_in(trace.loc[trace["run_id"] == run], "sharpness_share")
    shades = dict(zip(layers, sns.color_palette("viridis_r", len(layers)).as_hex(), strict=True))
    draw_by_layer(right, part, "sharpness_share", shades)
    for ax in (left, right):
        ax.axhline(1, color="#666666", lw=1.2, ls=(0, (2, 2)), zorder=1)
        log_axis(ax)
        ax.set_ylim(bottom=max(0.01, ax.get_ylim()[0]))
        ax.set_xlim(*steps)
        ax.set_xlabel("step")
        mark_moments(ax, moments, named=True)
    left.set_ylabel("sharpness × lr / 2, by the method's factors")
    right.set_ylabel("sharpness × lr / 2, of a layer alone")
    right.yaxis.set_tick_params(labelleft=True)
    handles = [Line2D([], [], color=c) for c in shades.values()]
    right.legend(handles, layers, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _legend(figure, styles, labels)
    return figure


def layers_in(trace: pd.DataFrame, value: str) -> list[str]:
    """Return the layers that have a value: embeddings, then in the network's order."""
    layers = set(trace.loc[trace[value].notna() & (trace["layer"] != ALL), "layer"])
    tensors = list(dict.fromkeys(trace.loc[trace["weight_norm"].notna(), "layer"]))
    place = {
        layer: min((i for i, t in enumerate(tensors) if t.startswith(f"{layer}.")), default=-1) for layer in layers
    }
    return sorted(layers, key=lambda layer: (place[layer], layer))


def _legend(figure: Figure, styles: Styles, labels: Mapping[str, str], *, constant: bool = False) -> None:
    handles = [Line2D([], [], color=s.colour, ls=s.dash, label=labels[run]) for run, s in styles.items()]
    if constant:
        handles.append(Line2D([], [], color="#999999", ls=(0, (1, 1)), label="best constant"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6)
