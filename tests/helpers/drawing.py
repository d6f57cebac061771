"""Helpers for tests of figures."""

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox


def words(figure: Figure) -> list[str]:
    """Return the texts in the panels of a figure."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def drawn(figure: Figure) -> Figure:
    """Draw a figure; every warning is an error."""
    figure.draw_without_rendering()
    return figure


def names_of(ax: Axes) -> dict[str, Bbox]:
    """The boxes of the names that are seen, without the lines to their points."""
    return {
        text.get_text(): Text.get_window_extent(text) for text in ax.texts if text.get_text() and text.get_visible()
    }


def markers(ax: Axes) -> list[Bbox]:
    """The boxes of the markers of the points."""
    found = []
    points = ax.get_figure(root=True).dpi / 72
    for line in ax.lines:
        if line.get_marker() in (None, "None", "") or line.get_markevery() is not None:
            continue
        half = line.get_markersize() / 2 * points
        places = line.get_transform().transform(np.column_stack(line.get_data()))
        found += [Bbox.from_extents(x - half, y - half, x + half, y + half) for x, y in places]
    for scatter in (one for one in ax.collections if isinstance(one, PathCollection)):
        places = ax.transData.transform(scatter.get_offsets().compressed().reshape(-1, 2))
        halves = np.resize(np.sqrt(scatter.get_sizes()) / 2 * points, len(places))
        found += [Bbox.from_extents(x - h, y - h, x + h, y + h) for (x, y), h in zip(places, halves, strict=True)]
    return found


def check_names(ax: Axes) -> int:
    """Return how many names an axes shows, after a check that they lie inside it and cover nothing."""
    boxes = names_of(ax)
    arrows = [text.arrow_patch.get_window_extent() for text in ax.texts if not text.get_text()]
    legends = [artist.get_window_extent() for artist in ax.get_children() if isinstance(artist, Legend)]
    for name, box in boxes.items():
        assert ax.bbox.x0 <= box.x0 < box.x1 <= ax.bbox.x1, name
        assert ax.bbox.y0 <= box.y0 < box.y1 <= ax.bbox.y1, name
        assert not any(box.overlaps(other) for other in [*markers(ax), *arrows, *legends]), name
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes.values(), 2))
    return len(boxes)
