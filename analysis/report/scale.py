"""The files of `study scale`: a figure and tables in the folder of a study, which reports and MLflow show."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.scale import scale
from analysis.report.html import image
from study.storage.atomic import write_atomic


def write(
    folder: Path,
    axis: str,
    points: pd.DataFrame,
    exponents: pd.DataFrame,
    predictions: pd.DataFrame | None,
    doubling: pd.DataFrame | None = None,
) -> list[Path]:
    """Write the tables and the figure of edges against a size, and return their paths.

    Args:
        folder: Of the study.
        axis: Name of the size.
        points, exponents, predictions, doubling: As `analysis.text.scale.lines` takes them.
    """
    name = "scale" if doubling is None else "edges_over_steps"
    tables = {name: exponents if doubling is None else doubling, f"{name}_points": points}
    if predictions is not None:
        tables[f"{name}_predictions"] = predictions
    paths = []
    for file, table in tables.items():
        paths.append(folder / "tables" / f"{file}.csv")
        content = table.replace([math.inf, -math.inf], np.nan).assign(axis=axis).to_csv(index=False)
        write_atomic(paths[-1], content.encode(), sync=False)
    paths.append(folder / "figures" / f"{name}.png")
    with figure_style():
        image(scale(axis, points, predictions), paths[-1])
    return paths
