"""The report of a study: report.html, with its tables and figures beside it, from the record alone.

report.html     one file that states the answers first
runs.parquet    every recorded run, including the control
tables/*.csv    edges and other answers; an unknown end of an interval is an empty field
tables/columns.json   what each column of these files means, and its unit
figures/*.png
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from analysis.figures.axes import figure_style
from analysis.loading import CELL
from analysis.report import range_tests, scale, sections
from analysis.report.figures import report_figures
from analysis.report.html import Image, file_name, image, render
from analysis.report.table_files import write_tables
from analysis.report.tables import ReportTables
from analysis.stats.onsets import are_known
from analysis.stats.scale import ScaleTables
from study.record import checksums
from study.record.files import read_file
from study.record.tables import PUBLISHED, read_published
from study.storage.atomic import write_atomic


def write(
    tables: ReportTables,
    reference: Mapping[str, Mapping[str, Any]] | None = None,
    influence: pd.DataFrame | None = None,
    losses: pd.DataFrame | None = None,
    *,
    sizes: ScaleTables | None = None,
    doubling: pd.DataFrame | None = None,
) -> Path:
    """Write a report into the folder of its study and return the path of report.html.

    Args:
        reference: Model -> the control's "lr" (the safe lr), "gain" (the reference gain), "noise" and "gain_<task>".
        influence: `study.commands.rescore.rule_influence`: how far other rules move the edges.
        losses: Losses of runs, as in `report_figures`.
        sizes: Edges against a size; None leaves the section out.
        doubling: `analysis.stats.horizon.last_doubling`; None leaves it out.

    Raises:
        OSError: If the folder cannot be written.
    """
    folder = tables.folder
    images = _write_figures(tables, losses, reference)
    if sizes is not None:
        _, images["scale"] = scale.write(folder, sizes)
    _write_runs(tables.every, folder)
    write_tables(folder, _answers(tables))
    tested = range_tests.of_report(tables)
    if tested is not None:
        images[range_tests.NAME] = tested.write(folder)
    values = sections.report(tables, images, reference or {}, influence, sizes, doubling, tested)
    onsets = are_known(tables.runs, losses, reference)
    content = render("report.html.j2", **values, onsets=onsets, references=bool(reference))
    path = folder / "report.html"
    write_atomic(path, content.encode(), sync=False)
    return path


def _write_runs(every: pd.DataFrame, folder: Path) -> None:
    """Write `runs.parquet`, unless that would lose runs: the table may have some that the record lacks now."""
    content, before = read_file(folder, PUBLISHED), []
    with contextlib.suppress(ValueError, KeyError, pa.ArrowException):  # else it is no table of runs
        before = read_published(content or b"").column("run_id").to_pylist()
        if pd.read_parquet(io.BytesIO(content or b"")).equals(every):
            return
    if lost := len(set(before) - set(every["run_id"])):
        warnings.warn(
            f"{folder / PUBLISHED} has {lost} runs that the record lacks, and is kept; move it away, and a report "
            "writes it again",
            RuntimeWarning,
            stacklevel=2,
        )
        return
    content = checksums.parquet_bytes(pa.Table.from_pandas(every, preserve_index=False))
    write_atomic(folder / PUBLISHED, content, sync=False)


def _write_figures(
    tables: ReportTables, losses: pd.DataFrame | None, reference: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Image]:
    """Write every figure as PNG; returns name -> figure for the page."""
    with figure_style():
        figures = report_figures(tables, losses, reference)
        where = tables.folder / "figures"
        return {name: image(figure, where / f"{file_name(name)}.png") for name, figure in figures.items()}


def _answers(tables: ReportTables) -> dict[str, pd.DataFrame]:
    """Name -> table, of the CSV files."""
    own = [*CELL, *(name for name in tables.scored if name not in tables.rates)]
    answer, rest = [*CELL, "n", "k", "rate", "low", "high"], [*tables.rates.columns]
    columns = list(dict.fromkeys([*answer, *own, *rest]))
    answers = {
        "edges": pd.concat(tables.edges.values()),
        "cells": tables.rates.merge(tables.scored[own], on=CELL)[columns],
    }
    if tables.best is not None:
        return answers | {"best": tables.best}
    answers |= {
        "recommendation": tables.recommended,
        "contrasts": tables.contrasts,
        "lr_sensitivity": tables.sensitivity,
    }
    if len(tables.across_models):
        answers["across_models"] = tables.across_models
    return answers if tables.table2 is None else answers | {"table2": tables.table2}
