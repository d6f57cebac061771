"""Figures in the axes and colours of a user."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.markers import MarkerStyle

from analysis.figures.axes import ink
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


def own_styles(
    table: pd.DataFrame,
    palette: Mapping[str, Any] | None = None,
    markers: Mapping[str, Any] | None = None,
    *,
    methods: bool = False,
) -> dict[str, LineStyle]:
    """Return the style of each curve, or of each method, with the colours and markers of a user.

    Args:
        table: Rows with curve and method.
        palette: Colour of each curve or method that is not to have its own.
        markers: The marker of each, likewise.
        methods: Whether to return styles of methods.

    Raises:
        ValueError: A palette or markers name something else, or matplotlib has no such colour or marker.
    """
    black = to_hex(ink())
    styles = method_styles(table["method"], black) if methods else curve_styles(table, black)
    method_of = dict(zip(table["curve"], table["method"], strict=True))
    colours = _chosen("palette", palette, to_hex, styles, method_of)
    shapes = _chosen("markers", markers, lambda marker: MarkerStyle(marker).get_marker(), styles, method_of)
    return {
        name: dataclasses.replace(style, colour=colours.get(name, style.colour), marker=shapes.get(name, style.marker))
        for name, style in styles.items()
    }


def _chosen(
    what: str,
    own: Mapping[str, Any] | None,
    checked: Callable[[Any], Any],
    styles: Mapping[str, LineStyle],
    method_of: Mapping[str, str],
) -> dict[str, Any]:
    """Name -> what a user chose for it, or for its method."""
    own, known = {} if own is None else own, {*styles, *method_of.values()}
    if not isinstance(own, Mapping):
        raise ValueError(f"{what} needs a dict of names, got {own!r}")
    if wrong := [name for name in own if name not in known]:
        verb = "name" if what.endswith("s") else "names"
        raise ValueError(f"the {what} {verb} {', '.join(map(str, wrong))}; there are {', '.join(sorted(known))}")
    chosen = {name: checked(value) for name, value in own.items()}
    return {name: chosen[key] for name in styles for key in (method_of.get(name), name) if key in chosen}
