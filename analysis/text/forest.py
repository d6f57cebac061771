"""Rows of a forest plot as text."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.stats.contrasts import AT_LEAST, UNDECIDED
from analysis.stats.intervals import CONFIDENCE
from analysis.text.format import p_text, span_text, two_digits


def times_text(row: Mapping[str, Any]) -> str:
    """Return the ratio of a row with its interval: `× 2.1 (1.8 to 2.5)`; "" if it is compared with nothing."""
    if not row["against"]:
        return ""
    span = span_text(row["ratio_low"], row["ratio_high"])
    return f"× {two_digits(row['ratio'])} ({span})" if math.isfinite(row["ratio"]) else f"× {span}"


def interaction_text(row: Mapping[str, Any]) -> str:
    """Return a row of `analysis.stats.interactions.interactions` as a sentence, with one verdict: that of p_holm."""
    head = f"{row['words']}, {row['model']}, {row['curve']} against {row['against']}:"
    other, p = row["words_against"], f"p {p_text(row['p_holm'])}"
    span = span_text(row["low"], row["high"])
    if not row["monotone"]:
        p = "model-free bounds, without p, since a rate falls again at a higher lr"
    if row["status"] == UNDECIDED:
        return f"{head} the lrs tried do not determine how its gain differs from that with {other} ({p})."
    if not row["p_holm"] <= 1 - CONFIDENCE:
        return f"{head} no significant difference to its gain with {other} (ratio {span}; {p})."
    if math.isfinite(row["ratio"]):
        return f"{head} its gain is {two_digits(row['ratio'])} times that with {other} (95% interval {span}; {p})."
    end, side = (row["low"], "more") if row["status"] == AT_LEAST else (row["high"], "less")
    return f"{head} its gain is {side} than {two_digits(end)} times that with {other} (95% confidence; {p})."
