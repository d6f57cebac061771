"""Losses of a run over its steps."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures.axes import ground, label_y, log_axis, sizes
from analysis.figures.palette import LineStyle, method_styles

MARKERS = 6
"""Markers on a line."""

WIDE = 10.0
"""Ratio of the highest to the lowest loss above which the axis is logarithmic: one spike would flatten all others."""


def draw_losses(ax: Axes, losses: pd.DataFrame, styles: Mapping[str, LineStyle] | None = None) -> None:
    """Draw a line for each task, with markers and dashes of its own; on a logarithmic axis if losses differ much.

    Args:
        losses: Rows with step, task and loss, of one run.
        styles: Task -> style; None takes those of `analysis.figures.palette`.
    """
    tasks = list(dict.fromkeys(losses["task"]))
    styles = method_styles(tasks) if styles is None else styles
    size = sizes(ax)
    for i, task in enumerate(tasks):
        of_task, style = losses.loc[losses["task"] == task], styles[task]
        apart = max(1, len(of_task) // MARKERS)
        begin = apart * (i + 1) // (len(tasks) + 1)  # lines that run together have markers in turn
        marks: dict[str, Any] = {"marker": style.marker, "ms": 0.9 * size.marker, "mec": ground(), "mew": 0.5}
        line: dict[str, Any] = {"color": style.colour, "ls": style.dash, "lw": size.line}
        ax.plot(of_task["step"], of_task["loss"], **line, **marks, markevery=(begin, apart), label=task)
    known = losses["loss"].to_numpy(dtype=float)
    known = known[np.isfinite(known)]
    if known.size and known.min() > 0 and known.max() > WIDE * known.min():
        log_axis(ax)
    ax.set_xlabel("step")
    label_y(ax, "loss")
