"""One look per method, in every figure: a colour that colour-blind readers tell apart, and a marker and a dash in grey.

Colours: M. Okabe and K. Ito, "Color Universal Design" (2008), without the yellow, which is too pale on white.
Methods without an entry of their own take the remaining looks in alphabetical order.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # who asks for a table of methods in order should not wait for matplotlib
    from matplotlib.colors import LinearSegmentedColormap


@dataclass(frozen=True, kw_only=True)
class Look:
    """colour: "#rrggbb". marker, dash: as matplotlib names them; dash is (offset, (on, off, ...))."""

    colour: str
    marker: str
    dash: tuple[int, tuple[float, ...]]


KNOWN = {
    "none": Look(colour="#000000", marker="o", dash=(0, ())),
    "layer_clip": Look(colour="#E69F00", marker="s", dash=(0, (5, 1.5))),
    "global_clip": Look(colour="#56B4E9", marker="D", dash=(0, (5, 1.5, 1, 1.5))),
    "agc": Look(colour="#CC79A7", marker="^", dash=(0, (3, 1.5))),
    "lamb": Look(colour="#0072B2", marker="v", dash=(0, (1, 1))),
    "clippy": Look(colour="#009E73", marker="P", dash=(0, (7, 1.5, 1, 1.5))),
    "update_rms_clip": Look(colour="#00441B", marker="X", dash=(0, (4, 1, 1, 1, 1, 1))),
    "zclip": Look(colour="#D55E00", marker="<", dash=(0, (2, 2))),
    "adagc": Look(colour="#8C510A", marker=">", dash=(0, (6, 3))),
    "autoclip": Look(colour="#5E3C99", marker="*", dash=(0, (1, 2))),
    "activation_clip": Look(colour="#80A000", marker="h", dash=(0, (3, 1, 1, 1))),
    "rollback": Look(colour="#B2182B", marker="p", dash=(0, (8, 2, 2, 2))),
    "rollback_lower_lr": Look(colour="#F4818C", marker="d", dash=(0, (2, 1, 2, 3))),
}

OTHERS = (
    Look(colour="#7F7F7F", marker="H", dash=(0, (5, 1, 2, 1))),
    Look(colour="#00C5CD", marker="8", dash=(0, (9, 2))),
    Look(colour="#B58900", marker=".", dash=(0, (1, 3))),
)

HEAT = ("#ffffff", "#9ecae6", "#3d94c4", "#00558a")


def method_order(methods: Iterable[str]) -> list[str]:
    """Distinct methods in the order of tables and legends: the known ones first, then the others by name."""
    distinct = set(methods)
    return [m for m in KNOWN if m in distinct] + sorted(distinct - set(KNOWN))


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """method -> Look, for all of these methods."""
    ordered = method_order(methods)
    others = [m for m in ordered if m not in KNOWN]
    return {m: KNOWN[m] if m in KNOWN else OTHERS[others.index(m) % len(OTHERS)] for m in ordered}


@functools.cache
def heat() -> "LinearSegmentedColormap":
    """Probabilities from 0 to 1: one blue whose lightness falls all the way, so that it reads in grey."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", HEAT)
