"""A table of a result: a DataFrame that shows its answer."""

import shutil
import textwrap
from typing import Any, Self

import numpy as np
import pandas as pd

from analysis.text.format import p_text

P_COLUMNS = ("p", "p_holm", "lr_p", "lr_p_holm")
RUN = ("run_id", "model", "curve", "lr", "seed", "outcome")
"""Columns that are shown first of runs."""

ANSWER = 6
"""First columns that are always shown."""

CUT = 20
"""Letters of a long text where it leaves no room for the answer."""

WHY_EMPTY = "why_empty"
"""The key in `attrs` of why a table has no row."""

SHORT_ID = 12
"""Letters of a run's id that are shown."""

DIGITS = 4
"""Digits after the point that are shown."""


class ResultTable(pd.DataFrame):
    """A DataFrame that is shown without the columns that are empty in all rows, in a few digits.

    As text it shows the first columns that fit into pandas' `display.width`, and names the others.

    It holds all columns and digits, and so does what is written from it, as by `to_csv`.
    """

    @property
    def _constructor(self) -> type["ResultTable"]:
        return ResultTable

    def unless_empty(self, why: str) -> Self:
        """Return the table, which says `why` where it is shown if it has no row."""
        if not len(self):
            self.attrs[WHY_EMPTY] = why
        return self

    def shown(self) -> tuple[pd.DataFrame, str]:
        """Return what is shown, and in words which columns are left out, or why there is no row."""
        plain = pd.DataFrame(self)
        if plain.columns.nlevels > 1 or not plain.columns.is_unique:  # a user's own arrangement
            return plain, ""
        if not len(plain):
            return plain, self.attrs.get(WHY_EMPTY, "")
        empty = [name for name in plain if _is_empty(pd.Series(plain[name]))]
        shown = plain.drop(columns=empty)
        if "run_id" in shown:
            shown = shown.assign(run_id=shown["run_id"].astype(str).str[:SHORT_ID])
        if set(RUN) <= set(shown):
            shown = shown.loc[:, [*RUN, *shown.columns.drop(list(RUN))]]
        for name in P_COLUMNS:
            if name in shown and isinstance(shown[name].dtype, np.dtype) and shown[name].dtype.kind == "f":
                shown[name] = [p_text(p) for p in shown[name]]
        return shown, f"Empty in all rows, and not shown: {', '.join(map(str, empty))}" if empty else ""

    def __repr__(self) -> str:
        shown, left_out = self.shown()
        width = int(pd.get_option("display.width") or shutil.get_terminal_size().columns)
        with pd.option_context("display.precision", DIGITS, "display.show_dimensions", False):
            columns, text = _fitting(shown, width)
        parts = [text]
        most = pd.get_option("display.max_rows")
        if most is not None and len(shown) > most:
            parts.append(f"[{len(shown):,} rows]")
        if more := [str(name) for name in shown.columns[columns:]]:
            parts.append(textwrap.fill(f"{len(more)} more columns: {', '.join(more)}", width))
        return "\n".join([*parts, *textwrap.wrap(left_out, width)])

    def _repr_html_(self) -> Any:
        from html import escape

        shown, left_out = self.shown()
        with pd.option_context("display.precision", DIGITS):
            html = shown._repr_html_()  # pyright: ignore[reportCallIssue] - of pandas, for notebooks
        return f"{html}<p>{escape(left_out)}</p>" if left_out and html else html


def _fitting(shown: pd.DataFrame, width: int) -> tuple[int, str]:
    """Return how many of the first columns fit into a width, and their text: at least the answer, its texts cut."""
    few = min(ANSWER, shown.shape[1])
    with pd.option_context("display.expand_frame_repr", False, "display.max_columns", None):
        if _width(repr(shown.iloc[:, :few])) > width:
            with pd.option_context("display.max_colwidth", CUT):
                return few, repr(shown.iloc[:, :few])
        columns = few
        while columns < shown.shape[1] and _width(repr(shown.iloc[:, : columns + 1])) <= width:
            columns += 1
        return columns, repr(shown.iloc[:, :columns])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _is_empty(column: pd.Series) -> bool:
    return bool((column.isna() | column.isin(["", "{}"])).all())
