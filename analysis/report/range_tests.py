"""The tables, the figure and the sentences of range tests, for `study range-test` and for reports."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.axes import figure_style
from analysis.figures.range_test import range_tests as draw
from analysis.report.html import Image, image
from analysis.report.table_files import write_tables
from analysis.report.tables import ReportTables, report_tables
from analysis.stats.quality import quality_column
from analysis.stats.range_tests import beside_edges, over_seeds, readings, with_curves
from analysis.text.alt import range_tests as alt
from analysis.text.range_tests import text, with_words
from study.config import Arm, EdgeSearch
from study.record.definition import study_exists
from study.record.range_tests import read_range_tests, setting_of

NAME = "range_tests"


@dataclass(frozen=True, kw_only=True)
class RangeTests:
    """Range tests of one setting.

    Attributes:
        tests: `read_range_tests`, with the column `curve`.
        read: `readings`.
        rules: `over_seeds`.
        beside: `beside_edges`; None without recorded runs.
    """

    tests: pd.DataFrame
    read: pd.DataFrame
    rules: pd.DataFrame
    beside: pd.DataFrame | None

    @property
    def text(self) -> str:
        """As a terminal prints them."""
        return text(self.read, self.rules, self.beside)

    def write(self, folder: Path) -> Image:
        """Write the tables and the figure, and return the figure for a page. Raises OSError."""
        tables = {NAME: self.read, f"{NAME}_rules": self.rules if self.beside is None else self.beside}
        write_tables(
            folder, {name: table.drop(columns="quality_words", errors="ignore") for name, table in tables.items()}
        )
        with figure_style():
            figure = draw(self.tests, self.rules)
            figure.set_label(alt(self.rules))
            return image(figure, folder / "figures" / f"{NAME}.png")


def of_report(tables: ReportTables) -> RangeTests | None:
    """Return the range tests of a study, beside its edges; None if it has none."""
    definition = tables.definition
    setting = setting_of(definition.study, definition.data["content"])
    found = _found(tables.folder, setting, definition.study.arms, tables.runs, definition.data)
    if found is None or tables.runs.empty or tables.best is not None:
        return found
    quality = quality_column(definition, None)
    searched = isinstance(definition.study.search, EdgeSearch)
    beside = beside_edges(found.rules, tables.rates, tables.scored, tables.edges[0.5], quality, searched=searched)
    return dataclasses.replace(found, beside=with_words(beside, quality))


def of_folder(folder: Path, setting: str, arms: Sequence[Arm]) -> RangeTests | None:
    """Return the range tests of a folder, which may hold no study yet; None if there are none of this setting."""
    if study_exists(folder):
        return of_report(report_tables(folder))
    return _found(folder, setting, arms, pd.DataFrame(), {})


def _found(
    folder: Path, setting: str, arms: Sequence[Arm], runs: pd.DataFrame, data: Mapping[str, Any]
) -> RangeTests | None:
    tests = read_range_tests(folder)
    tests = tests.loc[tests["setting"] == setting].reset_index(drop=True)
    if tests.empty:
        return None
    tests = with_curves(tests, runs, data.get("defaults", {}), [arm.method for arm in arms])
    read = readings(tests)
    return RangeTests(tests=tests, read=read, rules=over_seeds(read), beside=None)
