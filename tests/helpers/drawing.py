"""Helpers for tests of figures."""

from matplotlib.figure import Figure


def words(figure: Figure) -> list[str]:
    """Return the texts in the panels of a figure."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def drawn(figure: Figure) -> Figure:
    """Draw a figure; every warning is an error."""
    figure.draw_without_rendering()
    return figure
