"""CSV files, which people open in a spreadsheet."""

import contextlib
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.storage.atomic import write_atomic

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet computes a cell that begins so, and a formula may start programs."""


def write_csv(path: Path, table: pd.DataFrame, float_format: str | None = None) -> None:
    """Write a table. A number that is not finite is an empty field; text is never a formula.

    Args:
        path: The file.
        table: Its names and texts may come from somebody else's record.
        float_format: As in `DataFrame.to_csv`.

    Raises:
        OSError: If the file cannot be written.
    """
    texts: Any = table.select_dtypes(exclude=["number", "bool"]).columns
    safe = table.replace([math.inf, -math.inf], np.nan)
    safe[texts] = safe[texts].map(_as_text)
    safe = safe.rename(columns=_as_text)
    write_atomic(path, safe.to_csv(index=False, float_format=float_format).encode(), sync=False)


def _as_text(value: Any) -> Any:
    """Return a value; text that begins like a formula, and is no number, gets an apostrophe in front."""
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    with contextlib.suppress(ValueError):
        float(value)
        return value
    return f"'{value}"
