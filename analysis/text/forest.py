"""The ratio of a row of a forest plot in words."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.text.format import span_text, two_digits


def times_text(row: Mapping[str, Any]) -> str:
    if not row["against"]:
        return ""
    span = span_text(row["ratio_low"], row["ratio_high"])
    return f"× {two_digits(row['ratio'])} ({span})" if math.isfinite(row["ratio"]) else f"× {span}"
