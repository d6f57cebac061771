"""Edges against a size in the folder of a study: tables and a figure, which reports and MLflow show."""

from pathlib import Path

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.scale import scale
from analysis.loading import CURVE
from analysis.report.figures import said
from analysis.report.html import Image, image
from analysis.report.table_files import write_tables
from analysis.stats.scale import ScaleTables
from analysis.text import alt


def name_of(found: ScaleTables) -> str:
    """Return how the names of the files begin."""
    return "scale" if found.doubling is None else "edges_over_steps"


def write(folder: Path, found: ScaleTables) -> tuple[list[Path], Image]:
    """Write the tables and the figure of edges against a size into the folder of a study.

    Returns:
        The paths, and the figure for a page.
    """
    name = name_of(found)
    tables = {
        name: found.exponents if found.doubling is None else found.doubling,
        f"{name}_points": found.points,
        f"{name}_predictions": found.predictions,
    }
    paths = write_tables(folder, {file: _answer_first(t, found.axis) for file, t in tables.items() if t is not None})
    paths.append(folder / "figures" / f"{name}.png")
    with figure_style():
        return paths, image(said(scale(found), alt.scale(found)), paths[-1])


def _answer_first(table: pd.DataFrame, axis: str) -> pd.DataFrame:
    """The table with its size, and then its answer, in front."""
    table = table.assign(axis=axis)
    answers = [
        "size",
        "exponent",
        "exponent_low",
        "exponent_high",
        "edge_half",
        "edge",
        "ratio",
        "low",
        "high",
        "status",
    ]
    first = [*CURVE, "level", "axis", *(name for name in answers if name in table)]
    return pd.DataFrame(table[[*first, *(name for name in table if name not in first)]])
