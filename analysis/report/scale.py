"""The files of `study scale`: a figure and tables in the folder of a study, which reports and MLflow show."""

from pathlib import Path

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.scale import scale
from analysis.loading import CURVE
from analysis.report.figures import said
from analysis.report.html import image
from analysis.report.table_files import write_tables
from analysis.stats.scale import ScaleTables
from analysis.text import alt


def write(folder: Path, found: ScaleTables) -> list[Path]:
    """Write the tables and the figure of edges against a size into the folder of a study, and return their paths."""
    name = "scale" if found.doubling is None else "edges_over_steps"
    tables = {
        name: found.exponents if found.doubling is None else found.doubling,
        f"{name}_points": found.points,
        f"{name}_predictions": found.predictions,
    }
    paths = write_tables(folder, {file: _answer_first(t, found.axis) for file, t in tables.items() if t is not None})
    paths.append(folder / "figures" / f"{name}.png")
    with figure_style():
        image(said(scale(found), alt.scale(found)), paths[-1])
    return paths


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
