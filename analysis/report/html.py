"""HTML of pages: jinja2 templates in `templates/`, tables, and figures inside the page.

A page is one file without scripts that loads nothing. Autoescape escapes every value.
"""

import base64
import functools
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from analysis.figures.panels import evenly_spaced
from analysis.text.format import without_empty
from study.storage.atomic import write_atomic

DPI = 150
"""Resolution of PNG files."""

PIXELS_PER_INCH = 104
"""Size of figures in a page: the text in them is then as large as the text around them."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text.

    Attributes:
        head: The names of the columns.
        rows: Rows of as many cells.
        words: How many first columns hold words; the others hold numbers, aligned right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int

    def shown(self) -> "Table":
        """Return the table without the columns of numbers that are empty in all rows."""
        head, rows = without_empty(self.head, self.rows, self.words)
        return Table(head=head, rows=rows, words=self.words)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A figure in a page: the data URL of its SVG, its width in pixels, and what it shows in words, or ""."""

    source: str
    width: int
    alt: str = ""


def render(template: str, **values: Any) -> str:
    """Return a page made from a template of `templates/`.

    Raises:
        jinja2.UndefinedError: If the template uses a value that is not given.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["spaced"] = evenly_spaced
    return environment


def image(figure: Figure, path: Path) -> Image:
    """Write a figure as PNG to a path and return it as SVG for a page."""
    figure.set_dpi(DPI)
    settle(figure)
    png, svg = io.BytesIO(), io.BytesIO()
    words = str(figure.get_label())
    figure.savefig(png, format="png", dpi=DPI, metadata={"Description": words})
    figure.savefig(svg, format="svg", metadata={"Date": None})
    write_atomic(path, png.getvalue(), sync=False)
    source = f"data:image/svg+xml;base64,{base64.b64encode(svg.getvalue()).decode()}"
    return Image(source=source, width=round(figure.get_figwidth() * PIXELS_PER_INCH), alt=words)


def settle(figure: Figure) -> None:
    """Lay a figure out once for all formats."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def file_name(name: str) -> str:
    """Return a name in which only letters, digits, `_`, `.` and `-` remain."""
    return re.sub(r"[^\w.-]", "_", name)
