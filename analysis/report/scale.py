"""The files of `study scale`: a figure and tables in the folder of a study, which reports and MLflow show."""

import math
from pathlib import Path

import numpy as np

from analysis.figures.axes import figure_style
from analysis.figures.scale import scale
from analysis.report.html import image
from analysis.stats.scale import ScaleTables
from study.storage.atomic import write_atomic


def write(folder: Path, found: ScaleTables) -> list[Path]:
    """Write the tables and the figure of edges against a size into the folder of a study, and return their paths."""
    name = "scale" if found.doubling is None else "edges_over_steps"
    tables = {
        name: found.exponents if found.doubling is None else found.doubling,
        f"{name}_points": found.points,
        f"{name}_predictions": found.predictions,
    }
    paths = []
    for file, table in tables.items():
        if table is not None:
            paths.append(folder / "tables" / f"{file}.csv")
            content = table.replace([math.inf, -math.inf], np.nan).assign(axis=found.axis).to_csv(index=False)
            write_atomic(paths[-1], content.encode(), sync=False)
    paths.append(folder / "figures" / f"{name}.png")
    with figure_style():
        image(scale(found), paths[-1])
    return paths
