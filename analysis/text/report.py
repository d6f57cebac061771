"""Sentences of a report about one model: its claims, and counts where it has many curves."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.stats.intervals import CONFIDENCE, upper_bound
from analysis.stats.recommend import CLAIMED, RISK
from study.config import IMPORTED


def claims_text(recommended: pd.DataFrame) -> str:
    """Return a sentence with the lrs that are claimed for one model, or why none is."""
    claimed = [row for row in records(recommended) if row["status"] == CLAIMED]
    risk = f"at most {100 * RISK:g}% of the runs diverge, {100 * CONFIDENCE:g}% confidence"
    if claimed:
        lrs = ", ".join(f"{row['curve']} up to lr {row['lr']:g} ({row['k']:g} of {row['n']:g})" for row in claimed)
        return f"Claimed ({risk}): {lrs}."
    if "edges" in set(recommended["searched"]):
        return f"No lr can be claimed yet ({risk}): the search chose lrs by earlier outcomes, so it only nominates."
    if IMPORTED in set(recommended["searched"]):
        return f"No lr can be claimed yet ({risk}): imported runs that were not planned only nominate."
    most = max(recommended["nominated_n"].fillna(0).tolist(), default=0)
    bound = f": after 0 of {most:g} diverged, the risk may be up to {100 * upper_bound(0, int(most)):.2g}%"
    return f"No lr can be claimed yet ({risk}){bound if most else ''}."


def many_edges_text(edges: Sequence[Mapping[str, Any]], level: float) -> str:
    """Return a sentence that counts the edges of one model by status."""
    counts = Counter(row["status"] for row in edges)
    reached = sorted(row["edge"] for row in edges if row["status"] == REACHED)
    span = f" (from lr {reached[0]:.2g} to {reached[-1]:.2g})" if reached else ""
    return (
        f"{len(edges):,} curves: {counts[REACHED]:,} reached LR{100 * level:02.3g}{span}, "
        f"{counts[NOT_REACHED]:,} did not reach it, {counts[BELOW]:,} have it below the lowest lr."
    )


def many_contrasts_text(contrasts: pd.DataFrame) -> str:
    """Return a sentence that counts the planned contrasts of one model that are significant."""
    p = contrasts.loc[contrasts["planned"].astype(bool), "p_holm"]
    return f"{int((p <= 0.05).sum())} of {len(p)} curves differ in LR50 from none (Holm's p at most 0.05)."
