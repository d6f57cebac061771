"""Edges as text: table cells, and one sentence for each curve."""

import math
from collections.abc import Mapping
from typing import Any

from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.text.format import percent, span_text, two_digits
from study.text.wording import count


def edge_text(row: Mapping[str, Any]) -> str:
    """Return an edge for a table: `0.48`, `> 1.6`, `< 0.01`."""
    if row["status"] == NOT_REACHED:
        return f"> {row['lr_max']:g}"
    return two_digits(row["edge"]) if row["status"] == REACHED else f"< {row['lr_min']:g}"


def edge_span(row: Mapping[str, Any]) -> str:
    """Return the interval of an edge: `0.44 to 0.53`, `above 12.8`. Ends of the tried lrs are not rounded."""
    if row["low"] == row["lr_max"] and math.isinf(row["high"]):
        return f"above {row['lr_max']:g}"
    if row["low"] == 0 and row["high"] == row["lr_min"]:
        return f"below {row['lr_min']:g}"
    return span_text(row["low"], row["high"])


def sentence(row: Mapping[str, Any]) -> str:
    """Return a row of `edges` as a sentence: the edge, its interval, and the risk at the highest safe lr."""
    n = f"{row['n_min']}" if row["n_min"] == row["n_max"] else f"{row['n_min']} to {row['n_max']}"
    share = "half" if row["level"] == 0.5 else f"{100 * row['level']:g}%"
    within = f"within {row['steps']} steps"
    seeds = count(row["seeds"], "seed")
    outside = f"edge {edge_span(row)} at 95% confidence"
    if row["status"] == NOT_REACHED and row["most_k"] == 0:
        return (
            f"{row['curve']}: no divergence {within} up to lr {row['lr_max']:g} (0 of {n} at each lr; "
            f"{outside}), so the risk at lr {row['safe_lr']:g} is at most {percent(row['safe_bound'])}."
        )
    if row["status"] == NOT_REACHED:
        answer = (
            f"fewer than {share} of the runs diverge {within} up to lr {row['lr_max']:g} "
            f"({_most(row)}; {outside}; {seeds})"
        )
    elif row["status"] == BELOW:
        answer = (
            f"at least {share} of the runs diverge {within} at lr {row['lr_min']:g}, the lowest tried "
            f"({_lowest(row)}; {outside}; {seeds})"
        )
    else:
        answer = f"{share} of the runs diverge {within} at lr {two_digits(row['edge'])} ({interval_text(row)}, {seeds})"
    if row["status"] == REACHED and row["safe_bound"] >= row["level"]:
        safe = ""  # a single run of an adaptive search gives no useful bound
    elif row["status"] == BELOW:
        safe = "no safe lr was tried"
    else:
        lowest = ", the lowest tried" if row["safe_k"] else ""
        safe = (
            f"{row['safe_k']} of {row['safe_n']} diverged at lr {row['safe_lr']:g}{lowest}, "
            f"so the risk there is at most {percent(row['safe_bound'])}"
        )
    warning = "" if row["monotone"] else " The rate falls again at a higher lr: see the rates, not only the edge."
    return f"{row['curve']}: {'; '.join(filter(None, [answer, safe]))}.{warning}"


def _most(row: Mapping[str, Any]) -> str:
    """The highest rate of an lr; a few runs may lie at the level or above, although the curve does not."""
    seen = f"{row['most_k']} of {row['most_n']}"
    if row["most_k"] < row["level"] * row["most_n"]:
        return f"at most {seen}, at lr {row['most_lr']:g}"
    return f"neighbouring lrs read together, although {seen} diverged at lr {row['most_lr']:g}"


def _lowest(row: Mapping[str, Any]) -> str:
    seen = f"{row['safe_k']} of {row['safe_n']}"
    if row["safe_k"] >= row["level"] * row["safe_n"]:
        return seen
    return f"neighbouring lrs read together, although {seen} diverged at lr {row['safe_lr']:g}"


def interval_text(row: Mapping[str, Any]) -> str:
    """Return the interval of an edge: `95% interval 0.48 to 0.78`, `above 1.7 at 95% confidence`."""
    if row["low"] == 0 and math.isinf(row["high"]):
        return "the 95% interval is wider than the range tried"
    if row["low"] == 0:
        return f"below {two_digits(row['high'])} at 95% confidence"
    if math.isinf(row["high"]):
        return f"above {two_digits(row['low'])} at 95% confidence"
    return f"95% interval {two_digits(row['low'])} to {two_digits(row['high'])}"
