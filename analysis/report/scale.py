"""The files of `study scale`: a figure and tables in the folder of a study, which reports and MLflow show."""

from pathlib import Path

from analysis.figures.axes import figure_style
from analysis.figures.scale import scale
from analysis.report.csv_file import write_csv
from analysis.report.html import image
from analysis.stats.scale import ScaleTables


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
            write_csv(paths[-1], table.assign(axis=found.axis))
    paths.append(folder / "figures" / f"{name}.png")
    with figure_style():
        image(scale(found), paths[-1])
    return paths
