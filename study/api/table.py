"""A table of a result: a DataFrame that shows its answer."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.text.format import p_text

P_COLUMNS = ("p", "p_holm", "lr_p", "lr_p_holm")
DIGITS = 4
"""Digits after the point that are shown."""


class ResultTable(pd.DataFrame):
    """A DataFrame that is shown without the columns that are empty in all rows, in a few digits.

    It holds all columns and digits, and so does what is written from it, as by `to_csv`.
    """

    @property
    def _constructor(self) -> type["ResultTable"]:
        return ResultTable

    def shown(self) -> tuple[pd.DataFrame, str]:
        """Return what is shown, and which columns are left out, in words."""
        plain = pd.DataFrame(self)
        if plain.columns.nlevels > 1 or not plain.columns.is_unique:  # a user's own arrangement
            return plain, ""
        empty = [name for name in plain if len(plain) and _is_empty(pd.Series(plain[name]))]
        shown = plain.drop(columns=empty)
        for name in P_COLUMNS:
            if name in shown and isinstance(shown[name].dtype, np.dtype) and shown[name].dtype.kind == "f":
                shown[name] = [p_text(p) for p in shown[name]]
        return shown, f"Empty in all rows, and not shown: {', '.join(map(str, empty))}" if empty else ""

    def __repr__(self) -> str:
        shown, left_out = self.shown()
        with pd.option_context("display.precision", DIGITS):
            return "\n".join(filter(None, [repr(shown), left_out]))

    def _repr_html_(self) -> Any:
        from html import escape

        shown, left_out = self.shown()
        with pd.option_context("display.precision", DIGITS):
            html = shown._repr_html_()  # pyright: ignore[reportCallIssue] - of pandas, for notebooks
        return f"{html}<p>{escape(left_out)}</p>" if left_out and html else html


def _is_empty(column: pd.Series) -> bool:
    return bool((column.isna() | column.isin(["", "{}"])).all())
