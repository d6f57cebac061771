"""What all figures share: style, panel sizes, axes of learning rates, legends.

Create and save figures inside `figure_style()`.
"""

import contextlib
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator
from matplotlib.transforms import offset_copy

from analysis.figures.palette import LineStyle
from analysis.loading import method_order

STYLE = {
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "font.size": 10.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "axes.titlesize": 11.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "text.color": "black",
    "text.parse_math": False,
    "svg.hashsalt": "study",
}

PAPER = {
    "font.size": 8.0,
    "axes.labelsize": 8.0,
    "axes.titlesize": 8.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.7,
    "pdf.fonttype": 42,
}
"""Changes of `STYLE` for a figure in a paper. Type 42 embeds letters as publishers ask for."""

BAND_ALPHA = 0.12
"""Opacity of an uncertainty band: low, because several bands overlap."""


def ink() -> Any:
    """Return the colour of letters, and of what is black on white."""
    return matplotlib.rcParams["text.color"]


def ground() -> Any:
    """Return the colour of what lies behind a figure: of open markers, and of outlines."""
    return matplotlib.rcParams["axes.facecolor"]


def halo() -> withStroke:
    """Return an outline that keeps text readable on top of lines."""
    return withStroke(linewidth=2.2, foreground=ground())


SMALLEST = 8.0
"""Points below which small letters are no smaller than the others."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """Sizes of panels, in inches.

    Attributes:
        lone: Width of a panel that has no other beside it.
        panel: Width of one of several panels beside each other.
        height: Of a panel.
        columns: Panels beside each other, at most.
        wide_columns: The same of panels that have texts in them.
    """

    lone: float
    panel: float
    height: float
    columns: int = 2
    wide_columns: int = 2


REPORT = Page(lone=7.4, panel=5.6, height=3.5)

FULL_WIDTH = 4.5
"""Inches of an axes below which lines and markers become thinner."""

NARROW = 5.0
"""Inches of a paper's figure below which all panels stand one below the other."""


def paper(width: float) -> Page:
    """Return the sizes of a figure of so many inches: 3.3 is a column of a paper."""
    columns = 2 if width >= NARROW else 1
    panel = width / columns
    return Page(lone=width, panel=panel, height=0.68 * panel, columns=columns, wide_columns=1)


def figure_style(page: Page = REPORT) -> contextlib.AbstractContextManager[None]:
    """Return a context in which figures are created and saved, so that all look alike.

    Args:
        page: Where they are shown. In a paper, letters have 8 points, and lines and markers are in proportion.
    """
    style: dict[Any, Any] = sns.axes_style("ticks") | STYLE | ({} if page == REPORT else PAPER)
    return matplotlib.rc_context(style)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that suit an axes, in points: the width of a line, the size of a marker and of small letters."""

    line: float
    marker: float
    text: float


def sizes(ax: Axes) -> Sizes:
    """Return sizes from rcParams; smaller ones in a narrow axes."""
    part = max(0.55, min(1.0, math.sqrt(inches(ax)[0] / FULL_WIDTH)))
    rc, font = matplotlib.rcParams, float(matplotlib.rcParams["font.size"])
    return Sizes(
        line=part * rc["lines.linewidth"],
        marker=part * rc["lines.markersize"],
        text=max(0.85 * font, min(font, SMALLEST)),
    )


def inches(ax: Axes) -> tuple[float, float]:
    """Return the width and height of an axes, as its figure is laid out now."""
    box = ax.get_position()
    width, height = ax.get_figure(root=True).get_size_inches()  # pyright: ignore[reportOptionalMemberAccess]
    return float(box.width * width), float(box.height * height)


def shifted(ax: Axes, points: float) -> Any:
    """Return the transform of data that are drawn so many points to the right."""
    return offset_copy(ax.transData, fig=ax.get_figure(root=True), x=points, units="points")


def grid_shape(panels: int, columns: int = 2) -> tuple[int, int]:
    """Return (rows, columns) for a number of panels."""
    columns = min(columns, max(1, panels))
    return math.ceil(max(1, panels) / columns), columns


def panel_figure(
    panels: int, page: Page = REPORT, *, tall: float = 1.0, wide: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure with a number of empty panels, and their axes.

    Args:
        panels: How many; may be 0.
        page: Its sizes.
        tall: How much higher than usual a panel is.
        wide: Whether panels have texts in them.
    """
    rows, columns = grid_shape(panels, page.wide_columns if wide else page.columns)
    width = page.lone if columns == 1 else page.panel
    figure = Figure(figsize=(width * columns, tall * page.height * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, i + 1) for i in range(panels)]


def widen(ax: Axes, which: str, low: float, high: float) -> tuple[float, float]:
    """Set the limits of an axis, and return them; limits that were set before stay if they are wider.

    Args:
        which: "x" or "y".
    """
    auto = ax.get_autoscalex_on() if which == "x" else ax.get_autoscaley_on()
    if not auto:
        before = sorted(ax.get_xlim() if which == "x" else ax.get_ylim())
        down = low > high
        low, high = min(low, high, before[0]), max(low, high, before[1])
        low, high = (high, low) if down else (low, high)
    (ax.set_xlim if which == "x" else ax.set_ylim)(low, high)
    return low, high


def lr_axis(ax: Axes, lrs: Iterable[float], arrows: bool = False) -> None:
    """Make the x axis a logarithmic axis of learning rates. Wider limits, of an earlier call, stay.

    Args:
        lrs: The learning rates to show.
        arrows: Whether to leave room at the right end for arrows of edges that were not reached.
    """
    low, high = float(min(lrs, default=0.1)), float(max(lrs, default=0.1))
    ax.set_xscale("log")
    pad = max(1.06, (high / low) ** 0.03)
    left, right = widen(ax, "x", low / pad, high * (max(pad**2.5, 1.15) if arrows else pad))
    log_ticks(ax.xaxis, left, right, (low, high))
    letters = 72 * inches(ax)[0] / (0.58 * float(matplotlib.rcParams["font.size"]))
    # matplotlib leaves no room for a label that is wider than its axes
    ax.set_xlabel("learning\nrate" if letters < len("learning rate") else "learning rate")


class FewTicks(Locator):
    """The first of several lists of ticks that has room on the axis when it is drawn; the last one, thinned out.

    Args:
        choices: Lists of ticks, the longest first.
        most: Ticks that are enough.
    """

    def __init__(self, choices: Sequence[Sequence[float]], most: int = 9) -> None:
        self.choices, self.most = [list(ticks) for ticks in choices], most

    def __call__(self) -> list[float]:
        return self.tick_values(-math.inf, math.inf)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks between two values."""
        room = max(2, min(self.most, self.axis.get_tick_space() if self.axis is not None else self.most))
        ticks = next((ticks for ticks in self.choices if len(ticks) <= room), self.choices[-1])
        if len(ticks) > room:
            ticks = ticks[:: math.ceil(len(ticks) / room)]
        return [tick for tick in ticks if vmin <= tick <= vmax]


def log_ticks(axis: Axis, left: float, right: float, ends: tuple[float, float]) -> None:
    """Label a logarithmic axis with at most nine round numbers, as many as there is room for: 0.01, 0.02, 0.05, 0.1.

    Args:
        left: Lower limit of the axis.
        right: Upper limit of the axis.
        ends: Ticks to use where fewer than two round numbers lie between the limits.
    """

    def between(*steps: float) -> list[float]:
        return [s * 10.0**e for e in range(-12, 6) for s in steps if left <= s * 10.0**e <= right]

    choices = [
        ticks for steps in ((1, 2, 5), (1, 3), (1,)) if len(ticks := between(*steps)) >= (2 if steps == (1,) else 3)
    ]
    if not choices or len(choices[0]) < 3:
        choices = [between(1, 1.5, 2, 3, 4, 5, 6, 8), *choices]
    if len(choices[0]) < 2:
        choices = [sorted(set(ends))]
    axis.set_major_locator(FewTicks(choices))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _plain_number(value: float, _: Any) -> str:
    """`0.02`, `300`, `1e4`, `2e-5`."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    digits, power = f"{value:.3e}".split("e")
    return f"{float(digits):g}e{int(power)}"


class _PowersOrRoundNumbers(LogLocator):
    """Powers of ten; where fewer than two are in view, other round numbers."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        ticks = np.asarray(super().tick_values(vmin, vmax))
        for finer in (LogLocator(subs=(1, 2, 5)), MaxNLocator(4)):
            if np.count_nonzero((vmin <= ticks) & (ticks <= vmax)) < 2:
                ticks = np.asarray(finer.tick_values(vmin, vmax))
        return ticks


def log_axis(ax: Axes, which: str = "y") -> None:
    """Make an axis logarithmic, with two ticks or more, but few, and plain numbers. `which` is "x" or "y"."""
    (ax.set_yscale if which == "y" else ax.set_xscale)("log")
    axis = ax.yaxis if which == "y" else ax.xaxis
    axis.set_major_locator(_PowersOrRoundNumbers(numticks=6 if which == "y" else 5))
    axis.set_major_formatter(FuncFormatter(_plain_number))
    axis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, styles: Mapping[str, LineStyle], lines: bool = True, *, below: bool = False) -> Legend:
    """Add one legend above or below all panels, and return it.

    Args:
        styles: Name -> style of each entry.
        lines: Whether the figure draws lines; False for markers alone.
        below: Whether it stands below them.
    """
    rc = matplotlib.rcParams
    line, marker, letter = rc["lines.linewidth"], rc["lines.markersize"], float(rc["font.size"]) / 10
    handles = [
        Line2D([], [], color=v.colour, ls=v.dash, marker=v.marker, ms=marker, mec=ground(), mew=0.5, lw=line)
        if lines
        else Line2D([], [], color=v.colour, ls="none", marker=v.marker, ms=1.2 * marker)
        for v in styles.values()
    ]
    # An entry takes about 0.75 inches beside its text, whose letters take about 0.085; less where there is little room.
    width = figure.get_figwidth()
    handle, gap, beside = (3.2, 2.0, 0.75) if width > NARROW else (2.2, 1.0, 0.47)
    entries = [letter * (beside + 0.085 * len(name)) for name in styles]
    columns = len(styles) if sum(entries) <= width else max(1, int(width / max(entries)))
    return figure.legend(
        handles,
        list(styles),
        loc="outside lower center" if below else "outside upper left",
        ncols=max(1, columns),
        handlelength=handle,
        columnspacing=gap,
        labelspacing=0.3,
    )


METHODS_BELOW = "methods-below"
"""The id of the legend below all panels."""


def legend_below(ax: Axes, styles: Mapping[str, LineStyle]) -> bool:
    """Add methods to the one legend below all panels of a figure, and return whether its layout makes room for it.

    Args:
        ax: One of the panels.
        styles: Method -> style.
    """
    figure = ax.get_figure(root=True)
    if figure is None or not isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        return False
    every = dict(styles)
    for before in [one for one in figure.legends if one.get_gid() == METHODS_BELOW]:
        for text, line in zip(before.texts, before.get_lines(), strict=True):
            marker: Any = line.get_marker()  # a user's may be a number
            every[text.get_text()] = LineStyle(colour=to_hex(line.get_color()), marker=marker, dash=(0, ()))
        before.remove()
    every = {method: every[method] for method in method_order(every)}
    legend(figure, every, lines=False, below=True).set_gid(METHODS_BELOW)
    return True


def label_y(ax: Axes, text: str) -> None:
    """Label the y axis, in several lines if the axes is low."""
    letters = 72 * inches(ax)[1] / (0.58 * float(matplotlib.rcParams["font.size"]))
    ax.set_ylabel("\n".join(textwrap.wrap(text, max(12, int(letters)))))
