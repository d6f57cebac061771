"""The page and the terminal text of a family: the edges of its studies, one below the other."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.forest import forest_plot
from analysis.loading import FamilyMember, records
from analysis.report import scale, sections
from analysis.report.figures import said
from analysis.report.html import Table, image, render
from analysis.report.table_files import write_tables
from analysis.stats.edges import REACHED
from analysis.stats.scale import ScaleTables
from analysis.text import alt
from analysis.text.contrasts import ratio_text
from analysis.text.edges import edge_text
from analysis.text.forest import interaction_text, times_text
from analysis.text.format import aligned, p_text, span_text, without_empty
from study.storage.atomic import write_atomic

HEAD = ("", "model", "curve", "diverged", "LR50 (95%)", "against", "ratio (95%)", "p (Holm)")
GAINS_HEAD = ("", "model", "curve", "against", "LR50 ratio", "95% interval", "p (Holm)")
INTERACTIONS_HEAD = ("", "model", "curve", "against", "compared with", "ratio of ratios", "95% interval", "p (Holm)")

MOST_ANSWERS = 12
"""Interactions in words."""


def write(
    folder: Path,
    name: str,
    members: Sequence[FamilyMember],
    forest: pd.DataFrame,
    sizes: ScaleTables | None = None,
    gains: pd.DataFrame | None = None,
    interactions: pd.DataFrame | None = None,
) -> Path:
    """Write report.html, its tables and figures/forest.png of a family and return the path of report.html.

    Args:
        folder: The folder of the family.
        name: The family's name.
        members: Its studies.
        forest: `analysis.stats.forest.forest`.
        sizes: Edges against a size; None leaves the section out.
        gains, interactions: `analysis.stats.interactions`; None or no rows leave the sections out.

    Raises:
        OSError: If the folder cannot be written.
    """
    found = {"forest": forest, "gains": gains, "interactions": interactions}
    write_tables(folder, {table_name: table for table_name, table in found.items() if table is not None})
    images = {}
    with figure_style():
        if len(forest):
            images["forest"] = image(said(forest_plot(forest), alt.forest(forest)), folder / "figures" / "forest.png")
    if sizes is not None:
        _, images["scale"] = scale.write(folder, sizes)
    content = render(
        "family.html.j2",
        name=name,
        members=members,
        images=images,
        scale=sections.scale(sizes),
        table=Table(head=HEAD, rows=[_cells(row) for row in records(forest)], words=3),
        gains=_table(GAINS_HEAD, gains, words=4),
        interactions=_table(INTERACTIONS_HEAD, interactions, words=5),
        answers=_interaction_answers(interactions),
        without_runs=[member.words for member in members if member.label not in set(forest["label"])],
    )
    path = folder / "report.html"
    write_atomic(path, content.encode(), sync=False)
    return path


def text(forest: pd.DataFrame, gains: pd.DataFrame | None = None, interactions: pd.DataFrame | None = None) -> str:
    """Return what a terminal prints: a line for each study and curve, then each method within each study.

    Args:
        forest: `analysis.stats.forest.forest`.
        gains, interactions: `analysis.stats.interactions`.
    """
    parts = [_aligned(HEAD, [*map(_cells, records(forest))], words=3)]
    if gains is not None and len(gains):
        parts.append(_aligned(GAINS_HEAD, [*map(_ratio_cells, records(gains))], words=4))
    if answers := _interaction_answers(interactions):
        parts.append("\n".join(answers))
    return "\n\n".join(parts)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]], *, words: int) -> str:
    first, others = without_empty(head, rows, words)
    return "\n".join(aligned([first, *others]))


def _interaction_answers(found: pd.DataFrame | None) -> list[str]:
    """The interactions with the smallest p, in words."""
    if found is None:
        return []
    few = found.sort_values("p_holm", kind="stable").iloc[:MOST_ANSWERS]
    more = len(found) - len(few)
    return [*map(interaction_text, records(few)), *([f"{more} more are in tables/interactions.csv."] if more else [])]


def _table(head: Sequence[str], found: pd.DataFrame | None, *, words: int) -> Table | None:
    rows = [] if found is None else [*map(_ratio_cells, records(found))]
    return Table(head=head, rows=rows, words=words) if rows else None


def _ratio_cells(row: Mapping[str, Any]) -> list[str]:
    """The cells of a gain, or of an interaction, which is with another study."""
    names = ("words", "model", "curve", "against", "words_against")
    shown = [str(row[name]) for name in names if name in row]
    return [*shown, ratio_text(row), span_text(row["low"], row["high"]), p_text(row["p_holm"])]


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
