"""Panels of a figure: which curves share one, and their legends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.axes import REPORT, Page, ground, legend, panel_figure, sizes
from analysis.figures.palette import LineStyle, curve_styles, method_styles, shades

MOST_CURVES = 10
"""Curves of one panel that can be told apart."""

MOST_VALUES = 12
"""Values of one threshold that a panel shows."""

MOST_LINES = 12
"""Panels of a figure that has one for each threshold."""

MOST_PANELS = 24
"""Panels of any figure."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves of one model that can be told apart.

    Attributes:
        title: Written above the panel.
        model: The model whose rows the panel shows.
        styles: Curve -> style, of the curves to draw.
        names: Names of the curves in the panel's own legend; None if all panels share one legend.
    """

    title: str
    model: str
    styles: Mapping[str, LineStyle]
    names: Sequence[str] | None = None


def panels(table: pd.DataFrame, models: Sequence[str], lines: pd.DataFrame) -> list[Panel]:
    """Divide curves into panels: one for each model, if its curves can be told apart.

    With more than `MOST_CURVES` curves, each threshold of a method gets a panel, beside `none`, and one panel shows the
    curves that vary no threshold. Of more than `MOST_PANELS` panels, evenly spaced ones are returned.

    Args:
        table: Rows with model, curve and method.
        models: The models, in the order of the panels.
        lines: `analysis.stats.frontier.frontier` at any level.
    """
    styles, models = curve_styles(table), evenly_spaced(models, MOST_PANELS)
    if len(styles) <= MOST_CURVES:
        return [Panel(title=model, model=model, styles=styles) for model in models]
    shown, of_method = [], method_styles(table["method"])
    for model in models:
        of_model = lines.loc[lines["model"] == model]
        loose = {curve: styles[curve] for curve in of_model.loc[of_model["threshold"] == "", "curve"]}
        loose = dict(evenly_spaced(list(loose.items()), MOST_VALUES))
        if set(loose) - {"none"}:
            shown.append(Panel(title=model, model=model, styles=loose, names=list(loose)))
        beside = {"none": loose["none"]} if "none" in loose else {}
        for _, whole in evenly_spaced(threshold_lines(of_model), MOST_LINES):
            line = fewer_values(whole)
            ramp = shades(of_method[line["method"].iloc[0]], len(line))
            own = beside | dict(zip(line["curve"], ramp, strict=True))
            names = [*beside, *(f"{value:g}" for value in line["value"])]
            shown.append(Panel(title=line_title(whole), model=model, styles=own, names=names))
    return evenly_spaced(shown, MOST_PANELS)


def threshold_lines(table: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """Return the rows of each threshold in a table of `analysis.stats.frontier`, in the table's order."""
    inside = table.loc[table["threshold"] != ""]
    return list(inside.groupby(["model", "method", "threshold", "held"], sort=False))


def evenly_spaced(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` of the items, evenly spaced, including the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]


def fewer_values(line: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of at most `MOST_VALUES` values of a threshold."""
    return line.loc[line["value"].isin(evenly_spaced(sorted(set(line["value"])), MOST_VALUES))]


def line_title(line: pd.DataFrame) -> str:
    """Return the title of a panel with one threshold: `small: clippy rel, at abs=0.01`."""
    model, method, threshold, held = (str(line[c].iloc[0]) for c in ("model", "method", "threshold", "held"))
    count = len(set(line["value"]))
    part = f", {MOST_VALUES} of {count} values" if count > MOST_VALUES else ""
    return f"{model}: {method} {threshold}" + (f", at {held}" if held else "") + part


def draw_panels(parts: Sequence[Panel], draw: Callable[[Axes, Panel], None], page: Page = REPORT) -> Figure:
    """Return a figure with two panels a row, under one legend or with a legend beside each.

    Args:
        parts: The panels.
        draw: Draws one panel on the axes it is given.
        page: Sizes of the panels.
    """
    figure, every = panel_figure(len(parts), page)
    for ax, part in zip(every, parts, strict=True):
        draw(ax, part)
        ax.set_title(part.title)
        if part.names is not None:
            handles = [
                Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, mec=ground(), mew=0.5)
                for v in part.styles.values()
            ]
            ax.legend(
                handles,
                part.names,
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
                fontsize=sizes(ax).text,
                handlelength=2.6,
            )
    if parts and parts[0].names is None:
        legend(figure, parts[0].styles)
    return figure
