"""Names beside the points of an axes. They cover no marker, arrow, axis, legend or other text.

They may cover bars, bands and images. They are placed each time the axes is drawn, when its size, limits and layout
are known.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox, IdentityTransform

from analysis.figures.axes import halo, ink, sizes

STEP = 0.25
"""Width of the squares in which places are sought, in letters."""

FAR = 1.1
"""Letters between a point and its name above which a thin line joins them."""

APART = 0.8
"""Letters between names beside each other."""

CROSSED = 0.2
"""What a line under a name costs, in letters of distance, for each square of its height."""

HIDDEN = 10.0
"""What the line from a name to its point costs where it runs over names and markers, for all of its length."""

NAMED = 2
"""A square of a name; 1 is one of anything else that may not be covered."""

SAMPLES = 32
"""Places of that line at which it is looked at."""

SEGMENTS = 10_000
"""Parts of a line that are looked at together, which bounds the memory."""

GAP = np.full((1, 2), np.nan)
"""Between lines that are drawn together."""


@dataclass(frozen=True, kw_only=True)
class Name:
    """A text, and where it belongs.

    Attributes:
        text: What is written.
        x, y: The point, in data.
        along: Whether it may stand anywhere along a horizontal line through the point.
        colour: Of the letters; None is that of all.
    """

    text: str
    x: float
    y: float
    along: bool = False
    colour: str | None = None

    @property
    def place(self) -> tuple[str, float | None, float]:
        """What is written, and where."""
        return self.text, None if self.along else self.x, self.y


def write_names(ax: Axes, names: Sequence[Name]) -> None:
    """Write each name where it is nearest to its point and covers no marker, arrow, legend, or other text.

    Lines lie below a name only where it would otherwise stand far away. A name without a free place is left out; the
    first ones have the choice. A name that an earlier call wrote at the same place is not written again.
    """
    written = {text.name.place for text in ax.texts if isinstance(text, _NameText)}
    for name in names:
        if name.place not in written:
            ax.add_artist(_NameText(name, sizes(ax).text))
    if not any(isinstance(artist, _Placement) for artist in ax.artists):
        ax.add_artist(_Placement())


class _NameText(Annotation):
    """A name, which is seen where it has a place and its user does not hide it."""

    placed = True

    def __init__(self, name: Name, fontsize: float) -> None:
        line = {"arrowstyle": "-", "color": "#888888", "lw": 0.7, "shrinkA": 0, "shrinkB": 2}
        super().__init__(
            name.text,
            xy=(name.x, name.y),
            xytext=(0, 0),
            textcoords=IdentityTransform(),
            ha="left",
            va="bottom",
            fontsize=fontsize,
            color=name.colour or ink(),
            arrowprops=None if name.along else line,
            zorder=6,
            path_effects=[halo()],
            transform=IdentityTransform(),
            clip_on=False,
        )
        self.name = name
        self.set_in_layout(False)  # it stands inside the axes

    def get_visible(self) -> bool:
        return self.placed and super().get_visible()

    def get_window_extent(self, renderer: Any = None) -> Bbox:
        """Return the box without the line to the point, which is not to move a legend."""
        return Text.get_window_extent(self, renderer)


class _Placement(Artist):
    """Moves the names of an axes before they are drawn: it is drawn first."""

    zorder = -1.0

    def __init__(self) -> None:
        super().__init__()
        self.set_in_layout(False)

    def draw(self, renderer: Any) -> None:
        if self.axes is None or not self.axes.get_visible():
            return
        names = [text for text in self.axes.texts if isinstance(text, _NameText)]
        for text in names:
            text.placed = True
        names = [text for text in names if text.get_visible()]
        if not names:
            return
        dpi = renderer.points_to_pixels(72.0)
        letters = names[0].get_fontsize() * dpi / 72
        squares = _Squares(self.axes.bbox, STEP * letters)
        _mark_artists(squares, self.axes, renderer, dpi)
        for text in names:
            name = text.name
            point = self.axes.transData.transform((name.x, name.y))
            text.placed = bool(self.axes.bbox.contains(*point))  # not where a user has moved the limits
            if not text.placed:
                continue
            box = text.get_window_extent(renderer)
            reach = (self.axes.bbox.x0, self.axes.bbox.x1) if name.along else (point[0], point[0])
            found = squares.place(box.width, box.height, reach, float(point[1]), letters)
            if found is None:
                text.placed = False
                continue
            corner, distance = found
            text.xyann = corner
            beside = APART * letters
            squares.fill(Bbox.from_bounds(corner[0] - beside, corner[1], box.width + 2 * beside, box.height), NAMED)
            if text.arrow_patch is not None:
                text.arrow_patch.set_visible(far := distance > FAR * letters)
                middle = (corner[0] + box.width / 2, corner[1] + box.height / 2)
                if far:
                    squares.draw(np.array([point, middle]), squares.full)


class _Squares:
    """An axes divided into squares, with what they hold.

    Attributes:
        full: Squares that no name may cover.
        crossed: How many lines run through each.
    """

    def __init__(self, box: Bbox, step: float) -> None:
        self.x0, self.y0, self.step = box.x0, box.y0, step
        shape = max(1, int(box.height / step)), max(1, int(box.width / step))
        self.full, self.crossed = np.zeros(shape, dtype=np.int32), np.zeros(shape, dtype=np.int32)
        for edge in (self.full, self.full.T):
            edge[:1] = edge[-1:] = 1

    def fill(self, box: Bbox, kind: int = 1) -> None:
        """Let no name cover a box, in pixels; `NAMED` is that of a name."""
        rows, columns = self.full.shape
        left, right = (int(np.clip((x - self.x0) / self.step, -1, columns)) for x in (box.x0, box.x1))
        bottom, top = (int(np.clip((y - self.y0) / self.step, -1, rows)) for y in (box.y0, box.y1))
        self.full[max(0, bottom) : top + 1, max(0, left) : right + 1] = kind

    def fill_around(self, points: np.ndarray, radius: float) -> None:
        """Let no name cover squares around points, in pixels; there may be hundreds of thousands."""
        around = math.ceil(radius / self.step)
        centres = np.zeros([size + 2 * around for size in self.full.shape], dtype=np.int32)
        shape = np.array(centres.shape)[::-1]
        places = np.clip((points - (self.x0, self.y0)) / self.step + around, -1, shape)
        columns, rows = np.floor(places[((places >= 0) & (places < shape)).all(axis=1)]).astype(int).T
        centres[rows, columns] = 1
        self.full[_sums(centres, 2 * around + 1, 2 * around + 1) > 0] = 1

    def draw(self, points: np.ndarray, into: np.ndarray) -> None:
        """Count the squares of a line through points, in pixels; it has gaps where they are not finite."""
        rows, columns = into.shape
        crossed = np.zeros((rows + 3, columns + 3), dtype=bool)  # also what lies outside
        ends = (points - (self.x0, self.y0)) / self.step + 1
        for first in range(0, len(ends) - 1, SEGMENTS):
            part = ends[first : first + SEGMENTS + 1]
            part = np.stack([part[:-1], part[1:]], axis=1)
            part = np.clip(part[np.isfinite(part).all(axis=(1, 2))], 0, (columns + 2, rows + 2))
            counts = np.ceil(np.abs(part[:, 1] - part[:, 0]).max(axis=1)).astype(int)
            before = np.cumsum(counts + 1) - (counts + 1)
            steps = (part[:, 1] - part[:, 0]) / np.maximum(counts, 1)[:, None]
            segment = np.repeat(np.arange(len(part)), counts + 1)
            nth = np.arange(segment.size) - before[segment]
            x, y = (part[segment, 0] + nth[:, None] * steps[segment]).astype(int).T
            crossed[y, x] = True
        np.maximum(into, crossed[1:-2, 1:-2], out=into)

    def place(
        self, width: float, height: float, reach: tuple[float, float], y: float, letters: float
    ) -> tuple[tuple[float, float], float] | None:
        """Return the lower left corner of the best place for a box, and its distance from what it names, in pixels.

        Args:
            width, height: Of the box.
            reach, y: From where to where on the x axis, and where on the y axis, the box is near to what it names.
            letters: The size of a letter.
        """
        wide, high = (1 + math.ceil(size / self.step) for size in (width, height))
        rows, columns = self.full.shape[0] - high + 1, self.full.shape[1] - wide + 1
        if rows < 1 or columns < 1:
            return None
        left = self.x0 + self.step * (np.arange(columns) + 0.5)
        bottom = (self.y0 + self.step * (np.arange(rows) + 0.5))[:, None]
        across = np.maximum(0, np.maximum(left - reach[1], reach[0] - (left + width)))
        up = np.maximum(0, np.maximum(bottom - y, y - (bottom + height)))
        distance = np.hypot(across, up)
        # Of equally near places, the one whose middle is nearest; along a line, the one that begins where it does.
        along = reach[1] > reach[0]
        middle = (left - reach[0]) if along else np.abs(left + width / 2 - reach[0])
        cost = distance + 0.02 * (middle + np.abs(bottom + height / 2 - y)) + 0.3 * letters * (bottom < y)
        cost = cost + CROSSED * letters * _sums(self.crossed, high, wide) / high
        if not along:
            hidden, names = self._on_the_way(left + width / 2, bottom + height / 2, (reach[0], y))
            joined = distance > FAR * letters
            cost = cost + HIDDEN * letters * hidden * joined
            cost[joined & names] = math.inf
        cost[_sums(self.full, high, wide) > 0] = math.inf
        best = np.unravel_index(int(cost.argmin()), cost.shape)
        if not math.isfinite(cost[best]):
            return None
        return (float(left[best[1]]), float(bottom[best[0], 0])), float(distance[best])

    def _on_the_way(self, x: np.ndarray, y: np.ndarray, end: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        """Return which share of the lines from (x, y) to a point is over full squares, and which cross a name."""
        shares, names = np.zeros((y.size, x.size)), np.zeros((y.size, x.size), dtype=bool)
        for part in np.linspace(0, 1, SAMPLES, endpoint=False):
            columns, rows = (
                np.clip((begin + part * (to - begin) - low) / self.step, 0, most - 1).astype(int)
                for begin, to, low, most in (
                    (x, end[0], self.x0, self.full.shape[1]),
                    (y, end[1], self.y0, self.full.shape[0]),
                )
            )
            shares += self.full[rows, columns] > 0
            names |= self.full[rows, columns] == NAMED
        return shares / SAMPLES, names


def _sums(squares: np.ndarray, high: int, wide: int) -> np.ndarray:
    """Return the sum over each rectangle of squares, by its lower left square."""
    total = np.pad(squares.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]


def _mark_artists(squares: _Squares, ax: Any, renderer: Any, dpi: float) -> None:
    """Fill the squares of markers, legends, and other texts and arrows, and count those of lines."""
    for artist in ax.get_children():
        if not artist.get_visible() or isinstance(artist, _NameText):
            continue
        if isinstance(artist, Line2D):
            _mark_line(squares, artist, dpi)
        elif isinstance(artist, LineCollection):
            parts = [part for path in artist.get_paths() for part in (path.vertices, GAP)]
            if parts:
                squares.draw(artist.get_transform().transform(np.concatenate(parts)), squares.crossed)
        elif isinstance(artist, PathCollection):
            _mark_scatter(squares, artist, dpi)
        elif isinstance(artist, Legend | Text):
            squares.fill(artist.get_window_extent(renderer))


def _mark_line(squares: _Squares, line: Line2D, dpi: float) -> None:
    places = line.get_transform().transform(line.get_path().vertices)
    if line.get_linestyle() != "None":
        squares.draw(places, squares.crossed)
    if line.get_marker() in ("None", "none", "", " ", None) or line.get_markevery() is not None:
        return  # no markers, or only those of a legend
    radius = (line.get_markersize() / 2 + line.get_markeredgewidth()) * dpi / 72
    squares.fill_around(places[np.isfinite(places).all(axis=1)], radius)


def _mark_scatter(squares: _Squares, scatter: PathCollection, dpi: float) -> None:
    offsets = np.ma.filled(np.ma.asarray(scatter.get_offsets(), dtype=float), np.nan)
    places = scatter.get_offset_transform().transform(offsets)
    edge = np.max(scatter.get_linewidth(), initial=0.0)
    radii = (np.resize(np.sqrt(scatter.get_sizes()) / 2, len(places)) + edge) * dpi / 72
    radii = squares.step * np.ceil(radii / squares.step)  # as few as there are widths in squares
    seen = np.isfinite(places).all(axis=1)
    for radius in np.unique(radii[seen]):
        squares.fill_around(places[seen & (radii == radius)], float(radius))
