"""Rows of a forest plot as text."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.text.format import span_text, two_digits


def times_text(row: Mapping[str, Any]) -> str:
    """Return the ratio of a row with its interval: `× 2.1 (1.8 to 2.5)`; "" if it is compared with nothing."""
    if not row["against"]:
        return ""
    span = span_text(row["ratio_low"], row["ratio_high"])
    return f"× {two_digits(row['ratio'])} ({span})" if math.isfinite(row["ratio"]) else f"× {span}"
