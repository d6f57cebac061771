"""Missing runs that depend on the learning rate, as sentences."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.missing import NO_TREND, RISES
from analysis.text.edges import edge_span, edge_text
from analysis.text.format import p_text

MOST_SENTENCES = 12
"""Curves of a model that get a sentence each."""


def sentences(missing: pd.DataFrame, edges: pd.DataFrame) -> list[str]:
    """Return a sentence for each curve of one model whose missing runs depend on the lr; a count if there are many.

    Args:
        missing: `analysis.stats.missing.missing_by_curve`.
        edges: `analysis.stats.edges.edges` of the recorded runs, at the same level.
    """
    own = {(row["model"], row["curve"]): row for row in records(edges)}
    rows = [row for row in records(missing) if row["trend"] != NO_TREND or not row["recorded"]]
    if len(rows) > MOST_SENTENCES:
        return [f"On {len(rows):,} curves the missing share rises with the lr, so their edges may be too high."]
    return [sentence(row, own.get((row["model"], row["curve"]))) for row in rows]


def sentence(row: Mapping[str, Any], edge: Mapping[str, Any] | None) -> str:
    """Return a row of `missing_by_curve` as a sentence, beside the edge of the recorded runs."""
    total = row["missing"] + row["recorded"]
    if edge is None:
        return f"{row['curve']}: all {total:,} runs are missing."
    counts = f"{row['curve']}: {row['missing']:,} of {total:,} runs are missing"
    if row["trend"] == RISES:
        why = f"and their share rises with the lr (p {_p(row['p'])}; the lowest is at lr {row['lowest_lr']:g})"
    else:
        where = f"at lr {row['lowest_lr']:g}" + (" or higher" if row["highest_lr"] > row["lowest_lr"] else "")
        why = f"all {where}, above every lr without a missing run"
    name = f"LR{100 * row['level']:02.3g}"
    return (
        f"{counts}, {why}, so they may have diverged. If all of them did, {name} is {_edge(row)}; without them it is "
        f"{_edge(edge)}."
    )


def _p(p: float) -> str:
    text = p_text(p)
    return text if text.startswith("<") else f"= {text}"


def _edge(row: Mapping[str, Any]) -> str:
    text = edge_text(row)
    undecided = row["low"] == 0 and math.isinf(row["high"])
    return text if undecided or text.startswith((">", "<")) else f"{text} ({edge_span(row)})"
