"""The page and the terminal text of a family: the edges of its studies, one below the other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.forest import forest_plot
from analysis.figures.scale import scale
from analysis.loading import FamilyMember, records
from analysis.report import sections
from analysis.report.csv_file import write_csv
from analysis.report.html import Table, image, render
from analysis.stats.edges import REACHED
from analysis.stats.scale import ScaleTables
from analysis.text.edges import edge_text
from analysis.text.forest import times_text
from analysis.text.format import aligned, p_text, span_text
from study.storage.atomic import write_atomic

HEAD = ("", "model", "curve", "diverged", "LR50 (95%)", "against", "ratio (95%)", "p (Holm)")


def write(
    folder: Path,
    name: str,
    members: Sequence[FamilyMember],
    forest: pd.DataFrame,
    sizes: ScaleTables | None = None,
) -> Path:
    """Write report.html, tables/forest.csv and figures/forest.png of a family and return the path of report.html.

    Args:
        folder: The folder of the family.
        name: The family's name.
        members: Its studies.
        forest: `analysis.stats.forest.forest`.
        sizes: Edges against a size; None leaves the section out.

    Raises:
        OSError: If the folder cannot be written.
    """
    write_csv(folder / "tables" / "forest.csv", forest)
    images = {}
    with figure_style():
        if len(forest):
            images["forest"] = image(forest_plot(forest), folder / "figures" / "forest.png")
        if sizes is not None:
            images["scale"] = image(scale(sizes), folder / "figures" / "scale.png")
    content = render(
        "family.html.j2",
        name=name,
        members=members,
        images=images,
        scale=sections.scale(sizes),
        table=Table(head=HEAD, rows=[_cells(row) for row in records(forest)], words=3),
        without_runs=[member.words for member in members if member.label not in set(forest["label"])],
    )
    path = folder / "report.html"
    write_atomic(path, content.encode(), sync=False)
    return path


def text(forest: pd.DataFrame) -> str:
    """Return the table that a terminal prints: a line for each study and curve.

    Args:
        forest: `analysis.stats.forest.forest`.
    """
    return "\n".join(aligned([HEAD, *map(_cells, records(forest))]))


def _cells(row: Mapping[str, Any]) -> list[str]:
    p = row["p_holm"]
    span = f" ({span_text(row['low'], row['high'])})" if row["low"] > 0 and math.isfinite(row["high"]) else ""
    edge = f"{edge_text(row)}{span}" if row["status"] == REACHED else edge_text(row)
    return [
        *(str(row[name]) for name in ("words", "model", "curve")),
        f"{row['k']}/{row['n']}",
        edge,
        str(row["against"]),
        times_text(row).removeprefix("× "),
        "" if math.isnan(p) else p_text(p),
    ]
