"""The line style of each method, the same in all figures.

Colours suit colour-blind readers: M. Okabe and K. Ito, "Color Universal Design" (2008), without the yellow, which is
too pale on white. Markers and dashes tell methods apart in grey. Methods without an entry take the styles left over:
the first arm of a loop is black.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analysis.loading import method_order, records

if TYPE_CHECKING:  # matplotlib and seaborn are slow to import, and the order of methods needs neither
    import pandas as pd
    from matplotlib.colors import LinearSegmentedColormap


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """How one method is drawn.

    Attributes:
        colour: "#rrggbb".
        marker: A matplotlib marker.
        dash: A matplotlib dash: (offset, (on, off, ...)).
    """

    colour: str
    marker: str
    dash: tuple[int, tuple[float, ...]]


BLACK = "#000000"

KNOWN = {
    "none": LineStyle(colour=BLACK, marker="o", dash=(0, ())),
    "layer_clip": LineStyle(colour="#E69F00", marker="s", dash=(0, (5, 1.5))),
    "global_clip": LineStyle(colour="#56B4E9", marker="D", dash=(0, (5, 1.5, 1, 1.5))),
    "agc": LineStyle(colour="#CC79A7", marker="^", dash=(0, (3, 1.5))),
    "lamb": LineStyle(colour="#0072B2", marker="v", dash=(0, (1, 1))),
    "clippy": LineStyle(colour="#009E73", marker="P", dash=(0, (7, 1.5, 1, 1.5))),
    "update_rms_clip": LineStyle(colour="#00441B", marker="X", dash=(0, (4, 1, 1, 1, 1, 1))),
    "zclip": LineStyle(colour="#D55E00", marker="<", dash=(0, (2, 2))),
    "adagc": LineStyle(colour="#8C510A", marker=">", dash=(0, (6, 3))),
    "autoclip": LineStyle(colour="#5E3C99", marker="*", dash=(0, (1, 2))),
    "activation_clip": LineStyle(colour="#80A000", marker="h", dash=(0, (3, 1, 1, 1))),
    "rollback": LineStyle(colour="#B2182B", marker="p", dash=(0, (8, 2, 2, 2))),
    "rollback_lower_lr": LineStyle(colour="#F4818C", marker="d", dash=(0, (2, 1, 2, 3))),
}

OTHERS = (
    LineStyle(colour="#7F7F7F", marker="H", dash=(0, (5, 1, 2, 1))),
    LineStyle(colour="#00C5CD", marker="8", dash=(0, (9, 2))),
    LineStyle(colour="#B58900", marker=".", dash=(0, (1, 3))),
)

HEAT = ("#ffffff", "#9ecae6", "#3d94c4", "#00558a")


def method_styles(methods: Iterable[str], ink: str = BLACK) -> dict[str, LineStyle]:
    """Return method -> style, in the order of legends, with `ink` in place of black."""
    ordered = method_order(methods)
    free = itertools.cycle([*(style for m, style in KNOWN.items() if m not in ordered), *OTHERS])
    styles = {m: KNOWN[m] if m in KNOWN else next(free) for m in ordered}
    return {m: dataclasses.replace(s, colour=ink) if s.colour == BLACK else s for m, s in styles.items()}


def curve_styles(table: "pd.DataFrame", ink: str = BLACK) -> dict[str, LineStyle]:
    """Return curve -> style, in the order of legends.

    Curves of one method are shades of its colour, from dark to pale. Each has a dash and a marker of its own, which no
    other method here has: they differ in grey too.

    Args:
        table: Rows with method and curve.
        ink: In place of black.
    """
    curves_of: dict[str, list[str]] = {}
    for row in records(table.loc[:, ["method", "curve"]].drop_duplicates()):
        curves_of.setdefault(row["method"], []).append(row["curve"])
    styles = {}
    of_method = method_styles(curves_of, ink)
    taken = {style.marker for style in of_method.values()}
    markers = itertools.cycle([s.marker for s in (*KNOWN.values(), *OTHERS) if s.marker not in taken] or ["o"])
    for method, style in of_method.items():
        curves = sorted(curves_of[method])
        found = shades(style, len(curves)) if len(curves) > 1 else [style]
        dashes = itertools.cycle([style.dash, *(other.dash for other in OTHERS)])
        own = itertools.chain([style.marker], markers)
        styles |= {
            curve: dataclasses.replace(shade, dash=dash, marker=next(own))
            for curve, shade, dash in zip(curves, found, dashes, strict=False)
        }
    return styles


def shades(style: LineStyle, count: int) -> list[LineStyle]:
    """Return a method's style in `count` shades, from dark to pale."""
    import seaborn as sns
    from matplotlib.colors import to_hex

    rgb = np.array(_rgb(style.colour))
    dark, pale = (tuple(shade.tolist()) for shade in (0.35 * rgb, rgb + 0.6 * (1 - rgb)))
    ends = dict.fromkeys([to_hex(dark), style.colour.lower(), to_hex(pale)])  # black has no darker shade
    colours = sns.blend_palette(list(ends), count).as_hex()
    return [dataclasses.replace(style, colour=colour) for colour in colours]


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


@functools.cache
def heat() -> "LinearSegmentedColormap":
    """Return the colours of probabilities from 0 to 1: blue, darker and darker, also in grey."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", HEAT)
