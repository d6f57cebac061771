"""Numbers as text, the same in all tables and sentences: digits, intervals, p, qualities."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def two_digits(value: float) -> str:
    """Return two significant digits: `0.48`, `0.60`, `2.0`, `12`, `130`, `9,500,000`; from 1e9 on `1.2e+09`."""
    if abs(value) < 99.5:
        return f"{value:#.2g}".rstrip(".")
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if abs(rounded) < 1e9 else f"{rounded:g}"


def span_text(low: float, high: float, number: Callable[[float], str] = two_digits) -> str:
    """Return an interval that may lack an end: `0.44 to 0.53`, `above 3.2` (high is inf), `below 0.020` (low is 0)."""
    first, last = map(number, (low, high))
    if low == 0:
        return "undecided" if math.isinf(high) else f"below {last}"
    return f"above {first}" if math.isinf(high) else f"{first} to {last}"


def p_text(p: float) -> str:
    """Return `0.031`, `< 0.001`, or `-` for NaN."""
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:#.2g}"


def lr_text(row: Mapping[str, Any]) -> str:
    """Return the lr of a cell: `0.4`, or `~0.42` if it is the middle of a bin of trained lrs."""
    return f"{'~' if row['binned'] else ''}{row['lr']:g}"


def score_text(column: str) -> str:
    """Return `auc_long_view` as `AUC long_view`; a loop's `error_val_loss` as `val_loss`; others unchanged."""
    kind, _, task = column.partition("_")
    if kind in ("score", "error"):
        return task
    return f"{kind.upper()} {task}" if task else column


def value_text(row: Mapping[str, Any], column: str) -> str:
    """Return a quality with its interval, <column>_low to <column>_high: `0.7041 (0.7007 to 0.7053)`.

    An AUC has four digits, an error three. `-` if there is no value.
    """
    digits = 3 if column.startswith(("rmse_", "error_")) else 4
    middle, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(middle):
        return "-"
    span = f" ({low:.{digits}f} to {high:.{digits}f})" if math.isfinite(low) and math.isfinite(high) else ""
    return f"{middle:.{digits}f}{span}"


def difference_text(row: Mapping[str, Any], column: str = "difference") -> str:
    """Return a difference with its interval, all with signs: `+0.0206 (+0.0185 to +0.0227)`; "" if there is none."""
    middle, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
    if not math.isfinite(middle):
        return ""
    return f"{middle:+.4f}" + (f" ({low:+.4f} to {high:+.4f})" if math.isfinite(low) else "")


def percent(p: float) -> str:
    """Return `5%` for 0.05, `100%` from 0.995 on; `-` for NaN."""
    return "-" if math.isnan(p) else (f"{100 * p:.2g}%" if p < 0.995 else "100%")


def without_empty(head: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) without the columns, behind the first `words`, that are empty or `-` in all rows."""
    full = [i for i in range(len(head)) if i < words or not rows or any(row[i] not in ("", "-") for row in rows)]
    return [head[i] for i in full], [[row[i] for i in full] for row in rows]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line for each row, its cells padded to columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def quality_words(column: str) -> str:
    """Return `auc_click` as `AUC of click`, and a loop's `error_val_loss` as `val_loss`."""
    kind, _, task = column.partition("_")
    return task if kind in ("score", "error") else f"{kind.upper()} of {task}"
