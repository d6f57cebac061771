"""Numbers as the tables of a report show them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np


def number(value: float, digits: int = 3) -> str:
    """Return a number with its digits; `-` if it is missing, `inf` and `-inf` as they are."""
    return f"{value:.{digits}f}" if math.isfinite(value) else ("-" if math.isnan(value) else f"{value:g}")


def interval(row: Mapping[str, Any], low: str, high: str, digits: int = 2) -> str:
    """Return `0.12 to 0.34`; `-` if both ends are missing."""
    if math.isnan(row[low]) and math.isnan(row[high]):
        return "-"
    return f"{number(row[low], digits)} to {number(row[high], digits)}"


def signed(value: float) -> str:
    """Return a difference with its sign and four digits; `-` if it is missing."""
    return f"{value:+.4f}" if math.isfinite(value) else "-"


def ranges(values: Iterable[int]) -> str:
    """Return 0, 1, 2, 5 as `0-2, 5`."""
    ordered = np.unique(np.fromiter(values, dtype=int))
    spans = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
