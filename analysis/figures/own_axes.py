"""Figures in the axes and colours of a user."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from analysis.figures.palette import LineStyle, curve_styles, method_styles


def plain_axes(ax: Axes | None) -> Axes:
    """Return the axes, or the current ones of pyplot. Raises ValueError unless they have x and y."""
    if ax is None:
        from matplotlib import pyplot  # it chooses a backend

        ax = pyplot.gca()
    if not isinstance(ax, Axes):
        raise ValueError(f"ax is axes of matplotlib, got {ax!r}")
    if ax.name != "rectilinear":
        raise ValueError(f"these figures need axes with x and y, and these are {ax.name}")
    return ax


def recoloured(
    table: pd.DataFrame, palette: Mapping[str, Any] | None, *, methods: bool = False
) -> dict[str, LineStyle]:
    """Return the style of each curve, or of each method, in the colours of a palette.

    Args:
        table: Rows with curve and method.
        palette: Colour of each curve or method that is not to have its own.
        methods: Whether to return styles of methods.

    Raises:
        ValueError: The palette names something else, or has no colour for it.
    """
    styles = method_styles(table["method"]) if methods else curve_styles(table)
    method_of = dict(zip(table["curve"], table["method"], strict=True))
    known = {*styles, *method_of.values()}
    if wrong := [name for name in palette or {} if name not in known]:
        raise ValueError(f"the palette names {', '.join(map(str, wrong))}; there are {', '.join(sorted(known))}")
    colours = {name: to_hex(colour) for name, colour in (palette or {}).items()}
    return {
        name: dataclasses.replace(style, colour=colours.get(name, colours.get(method_of.get(name, ""), style.colour)))
        for name, style in styles.items()
    }
