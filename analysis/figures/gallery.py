"""Losses of diverged runs beside healthy ones."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import REPORT, Page, label_y, panel_figure, sizes
from analysis.figures.palette import method_styles
from analysis.stats.onsets import LOST_AT

Pair = tuple[Mapping[str, Any], Mapping[str, Any]]


def gallery(pairs: Sequence[Pair], gains: pd.DataFrame, page: Page = REPORT) -> Figure:
    """Return a figure with a panel for each pair, two a row.

    Args:
        pairs: A diverged and a healthy run each (`analysis.stats.trajectories.example_pairs`).
        gains: `analysis.stats.trajectories.gain_by_step` of all these runs.
        page: Sizes of the panels.
    """
    figure, every = panel_figure(len(pairs), page, tall=0.93)
    for ax, (diverged, healthy) in zip(every, pairs, strict=True):
        draw_pair(ax, gains, diverged, healthy)
    return figure


def draw_pair(ax: Axes, gains: pd.DataFrame, diverged: Mapping[str, Any], healthy: Mapping[str, Any]) -> None:
    """Draw a diverged and a healthy run over steps: raw gains thin, their trailing median thick.

    Args:
        gains: `analysis.stats.trajectories.gain_by_step`.
        diverged: The row of the diverged run; a dotted line marks its `lost_at`, if that is known.
        healthy: The row of the healthy run.
    """
    size = sizes(ax)
    colour = method_styles([diverged["method"]])[diverged["method"]].colour
    shown = []
    for run, tone, style in ((healthy, "#8a8a8a", (0, (4, 1.5))), (diverged, colour, (0, ()))):
        of_run = gains[gains["run_id"] == run["run_id"]]
        name = "healthy" if run is healthy else str(run["reason"]).replace("_", " ")
        ax.plot(of_run["step"], of_run["gain"], color=tone, lw=0.3 * size.line, alpha=0.35)
        label = f"{name}: lr {run['lr']:g}, seed {run['seed']}"
        ax.plot(of_run["step"], of_run["smooth"], color=tone, lw=1.2 * size.line, ls=style, label=label)
        shown += [v for v in of_run["smooth"].tolist() if math.isfinite(v)]
    top, bottom = max([*shown, 0.02]), min([*shown, 0.0])
    bottom = max(bottom, -1.5 * top)
    ax.set_ylim(bottom - 0.35 * (top - bottom), top + 0.25 * (top - bottom))
    at = diverged[LOST_AT]
    if not pd.isna(at):
        ax.axvline(int(at), color=colour, lw=0.6 * size.line, ls=(0, (1, 2)))
    ax.axhline(0, color="#444444", lw=0.5 * size.line)
    ax.set_xlabel("step")
    label_y(ax, "gain over the constant")
    # Between the title and the axes, where it hides no curve.
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.1, "borderpad": 0.2}
    ax.legend(fontsize=size.text, handlelength=2.4, labelspacing=0.3, **place)
    ax.set_title(f"{diverged['model']}, {diverged['curve']}", pad=3.6 * size.text)
