"""Sentences of a report: claims of a model, counts where it has many curves, and how far outcomes can be trusted."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.recommend import CLAIMED, RISK
from analysis.text.format import percent
from study.config import IMPORTED, Study
from study.record.schema import FIRST_LOSSES

MOST_CURVES = 12
"""Curves whose missing runs are named one by one."""

MOST_CLAIMS = 100
"""Claims of a model that are named one by one."""


def claims_text(recommended: pd.DataFrame) -> str:
    """Return the lrs that are claimed for one model, or why none is: failed confirmations, missing runs."""
    return f"{failed_text(recommended)} {_claimed(recommended)}{_forbidden(recommended)}".lstrip()


def failed_text(recommended: pd.DataFrame) -> str:
    """Return the last failed confirmation of each curve, unless a later test claimed; "" if there is none."""
    # A claim after a failed test is tested at a higher confidence.
    failed = [row for row in records(recommended) if row["failed"]]
    rows = [row for row in failed if not float(row["tested_at"]) > float(row["confidence"]) + 1e-9]
    if not rows:
        return ""
    if len(rows) > MOST_CURVES:
        return f"Confirmations of {len(rows):,} curves failed."
    several = len(set(recommended["model"])) > 1
    tests = ", ".join(
        f"{row['model'] + ' ' if several else ''}{row['curve']} at lr {row['failed_lr']:g} ({row['failed_k']:g} of "
        f"{row['failed_n']:g} diverged, {row['failed_allowed']:g} allowed)"
        for row in rows
    )
    return f"{'A confirmation' if len(rows) == 1 else 'Confirmations'} failed: {tests}."


def _forbidden(recommended: pd.DataFrame) -> str:
    lost = [row for row in records(recommended) if row["missing"]]
    if not lost:
        return ""
    if len(lost) > MOST_CURVES:
        return f" {len(lost):,} curves have missing runs: nothing is claimed from the lowest lr of these on."
    lrs = ", ".join(f"{row['curve']} from lr {row['missing_from']:g} on ({row['missing']} missing)" for row in lost)
    return f" Missing runs forbid claims: {lrs}."


def _claimed(recommended: pd.DataFrame) -> str:
    claimed = [row for row in records(recommended) if row["status"] == CLAIMED]
    risk = f"at most {100 * RISK:g}% of the runs diverge, {100 * CONFIDENCE:g}% confidence"
    if len(claimed) > MOST_CLAIMS:
        lrs = sorted(row["lr"] for row in claimed)
        return f"Claimed ({risk}): {len(claimed):,} curves, the lowest up to lr {lrs[0]:g}, the highest to {lrs[-1]:g}."
    if claimed:
        lrs = ", ".join(f"{row['curve']} up to lr {row['lr']:g} ({row['k']:g} of {row['n']:g})" for row in claimed)
        return f"Claimed ({risk}): {lrs}."
    if "edges" in set(recommended["searched"]):
        return f"No lr can be claimed yet ({risk}): the search chose lrs by earlier outcomes, so it only nominates."
    if IMPORTED in set(recommended["searched"]):
        return f"No lr can be claimed yet ({risk}): imported runs that were not planned only nominate."
    tried = [row for row in records(recommended) if row["nominated_n"] and row["nominated_bound"] > RISK]
    if not tried:
        return f"No lr can be claimed yet ({risk})."
    row = min(tried, key=lambda row: row["nominated_bound"])
    return (
        f"No lr can be claimed yet ({risk}): after {row['nominated_k']:g} of {row['nominated_n']:g} diverged at lr "
        f"{row['nominated']:g}, the risk may be up to {percent(row['nominated_bound'])}."
    )


def many_edges_text(edges: Sequence[Mapping[str, Any]], level: float) -> str:
    """Return a sentence that counts the edges of one model by status."""
    counts = Counter(row["status"] for row in edges)
    reached = sorted(row["edge"] for row in edges if row["status"] == REACHED)
    span = f" (from lr {reached[0]:.2g} to {reached[-1]:.2g})" if reached else ""
    return (
        f"{len(edges):,} curves: {counts[REACHED]:,} reached LR{100 * level:02.3g}{span}, "
        f"{counts[NOT_REACHED]:,} did not reach it, {counts[BELOW]:,} have it below the lowest lr."
    )


def many_contrasts_text(contrasts: pd.DataFrame, against: Sequence[str]) -> str:
    """Return a sentence that counts the planned contrasts of one model that are significant."""
    p = contrasts.loc[contrasts["planned"].astype(bool), "p_holm"]
    found = f"{int((p <= 0.05).sum())} of {len(p)} planned contrasts with {' or '.join(against)}"
    return f"{found} show a difference in LR50 (Holm's p at most 0.05)."


MOST_REJUDGED = 50_000
"""Runs of a study that a report judges again, from their losses: each takes a millisecond, and memory by its steps."""


def trust_notes(runs: pd.DataFrame, study: Study) -> list[str]:
    """Return what weakens or is left out of the outcomes of a study's runs, a paragraph each.

    Args:
        runs: One row a run (`analysis.load`).
        study: The study, whose trainer says how to give a better baseline.
    """
    notes = []
    if len(runs) > MOST_REJUDGED:
        notes.append(
            f"A report of over {MOST_REJUDGED:,} runs leaves out how other rules and fewer steps would move the edges: "
            "`study rescore` and `study scale --over steps` show it."
        )
    weak = (runs["baseline"] == FIRST_LOSSES).tolist().count(True) if "baseline" in runs else 0
    if weak:
        notes.append(
            f"{_of_all(weak, len(runs))} judged against the loss at initialization. That baseline is weak: a run that "
            f"learns hardly more than class frequencies passes as healthy. {_better_baseline(study)}"
        )
    slow = (runs["outcome"] == "undertrained").tolist().count(True)
    if slow and bool(runs["moved"].isna().to_numpy().all()):
        notes.append(
            f"{_of_all(slow, len(runs))} undertrained: slow, not diverged. The trainer does not measure how far "
            "weights move, so this rests on the losses alone."
        )
    return notes


def _better_baseline(study: Study) -> str:
    if study.trainer == IMPORTED:
        return (
            "`study import --baseline-column` compares each batch with its best constant predictor, and `--baseline` "
            "all with one number."
        )
    if "command" in study.trainer_options:
        return "`Loop(command=..., baseline=X)` compares with X, the loss of a model without skill."
    return "`watch(loss, targets=y)` compares each batch with its best constant predictor."


def _of_all(n: int, total: int) -> str:
    if n == total:
        return f"All {total:,} runs are" if total > 1 else "The only run is"
    return f"{n:,} of {total:,} runs {'is' if n == 1 else 'are'}"
