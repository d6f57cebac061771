"""What can be claimed of each curve, what to confirm next, and with which quality, as a table.

`analysis.stats.claims` has the tests and their sources, `analysis.stats.nomination` what to confirm.
"""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, in_order, records, threshold_columns, with_curves
from analysis.stats.claims import CLAIMED, Confirmed, Evidence
from analysis.stats.edges import REACHED, edges, fits
from analysis.stats.intervals import CONFIDENCE, median_interval
from analysis.stats.nomination import claim_and_nomination
from analysis.stats.psychometric import Fit
from analysis.stats.quality import lower_is_better, quality_column, worst_filled
from study.config import IMPORTED, JUDGED_FROM, QualitySearch, Study, check_share, nominates_only
from study.record.confirmations import Confirmation
from study.record.definition import Definition

RISK = 0.05
LR05 = 0.05

COLUMNS = (
    *("status", "lr", "n", "k", "bound", "basis", "risk", "confidence", "tested_at"),
    *("nominated", "nominated_k", "nominated_n", "nominated_bound", "chance", "more_if_clean", "more_at_rate"),
    *("pending", "failed", "failed_lr", "failed_k", "failed_n", "failed_allowed"),
    *("quality", "quality_median", "quality_median_low", "quality_median_high", "quality_n"),
    *("best_lr", "headroom", "headroom_low", "headroom_high", "edge_status", "searched"),
    *("seeds", "lowest_k", "lowest_n", "lowest_bound", "n_min", "n_max", "lr_min", "lr_max", "steps"),
    *("missing", "missing_from"),
)


def recommend(
    runs: pd.DataFrame,
    definition: Definition,
    *,
    confirmations: Sequence[Confirmation] = (),
    risk: float = RISK,
    confidence: float = CONFIDENCE,
    quality: str | None = None,
    fitted: Mapping[Any, Fit] | None = None,
    failed: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return what can be claimed of each curve, and what to confirm next.

    Of a search for the best quality, only the runs that judge its winners count.

    Args:
        runs: One row a run (`analysis.load`).
        confirmations: `study.record.confirmations.read_confirmations`.
        risk: The P(divergence) to claim.
        confidence: Of the claim.
        quality: A column of held-out quality; the first task's if None.
        fitted: `analysis.stats.edges.fits(runs)`; computed if None.
        failed: `analysis.stats.missing.failed_runs`; None if no run failed.

    Returns:
        One row a curve; columns model, curve; status ("claimed", "cannot say", or "too risky": the lowest lr has a
        higher risk, at the confidence); lr (the largest with a claim), n, k (seeds that support the claim, and diverged
        runs of them), bound (of the risk there, at the confidence tested_at), basis ("study": its runs of fixed seeds;
        "confirmation"); risk, confidence (as requested), tested_at (the confidence of that test, higher than requested
        after one that failed); NaN without a claim; nominated (an lr above the claim that fresh seeds would probably
        claim, below those of failed confirmations where possible, or NaN), nominated_k and nominated_n (the runs there,
        with those of confirmations; n is 0 if none was tried), nominated_bound (of its risk, at the confidence), chance
        (that fresh seeds claim it, by the fitted curve), more_if_clean and more_at_rate (fresh seeds that a
        confirmation needs if none of them diverges, or if as many do as in that cell; NaN if no number suffices);
        pending (runs that confirmations still miss), failed (confirmations that failed), failed_lr, failed_k, failed_n,
        failed_allowed (the last of these: its lr, diverged runs of its seeds, and how many were allowed; NaN if none
        failed); quality (the column's name), quality_median with its exact 95% interval quality_median_low,
        quality_median_high (over seeds; NaN below 6), quality_n: at lr, or else at nominated; a diverged run is the
        worst result; best_lr (of best median quality), headroom (LR05 over best_lr; NaN unless LR05 was reached) with
        its 95% interval headroom_low, headroom_high (0 and inf outside the tried lrs), edge_status (status of LR05 in
        `edges`); searched ("edges", "quality", "imported", "planned import", or "" for a study of fixed runs); seeds
        (distinct); lowest_k, lowest_n and lowest_bound (the runs at the lowest lr, with those of confirmations unless
        too risky, and the bound of its risk, at the confidence); n_min, n_max (runs a cell), lr_min, lr_max, steps (the
        horizon); missing (the study's runs that failed, without those of confirmations), missing_from (their lowest lr:
        the study's runs claim nothing from there on, and no higher lr is nominated; NaN if none is missing); method,
        <thresholds>, options.

    Raises:
        ValueError: Unless 0 < risk < 1 and 0 < confidence < 1, or if there is no such quality; the message lists
            those that exist.
    """
    column = checked(definition, risk, confidence, quality)
    study = definition.study
    search = study.search
    if isinstance(search, QualitySearch):
        # The judging seeds are independent of the tuning runs, so no run here was chosen by its outcome.
        runs, fitted = runs.loc[runs["seed"] >= JUDGED_FROM].drop(columns="curve", errors="ignore"), None
        failed = None if failed is None else failed.loc[failed["seed"] >= JUDGED_FROM]
    runs = with_curves(runs)
    scores = _scores(runs, definition, column)
    fitted = fits(runs) if fitted is None else fitted
    edge = {(row["model"], row["curve"]): row for row in records(edges(runs, LR05, fitted))}
    named = [(confirmation, {run.id for run in confirmation.runs(definition)}) for confirmation in confirmations]
    same = ["method", *threshold_columns(runs), "options"]
    rows = []
    ids, lr_N = runs["run_id"].to_numpy(dtype=object), runs["lr"].to_numpy(dtype=float)
    diverged_N = (runs["outcome"] == "diverged").to_numpy(dtype=bool)
    heads = records(runs.drop_duplicates(CURVE).reindex(columns=[*CURVE, *same]))
    of_curve = runs.groupby(CURVE, sort=False).indices
    for head in heads:  # arrays, since a table for each of thousands of curves takes seconds
        model, curve = head["model"], head["curve"]
        at = of_curve[model, curve]
        lost = _lost(failed, str(model), str(curve), named)
        evidence = _evidence(ids[at].tolist(), lr_N[at], diverged_N[at], named, lost, placed=nominates_only(study))
        row = claim_and_nomination(evidence, fitted[model, curve], risk, confidence)
        named_lr = row["lr"] if row["status"] == CLAIMED else row["nominated"]
        row |= _quality_at(scores[at][lr_N[at] == named_lr])
        row |= _headroom(lr_N[at], scores[at], edge[model, curve], column)
        facts = {name: edge[model, curve][name] for name in ("seeds", "n_min", "n_max", "lr_min", "lr_max", "steps")}
        facts |= {"edge_status": edge[model, curve]["status"], "searched": _origin(study)}
        facts |= {"missing": sum(lost.values()), "missing_from": min(lost, default=math.nan)}
        rows.append(head | {"risk": risk, "confidence": confidence, "quality": column} | row | facts)
    return in_order(pd.DataFrame(rows, columns=pd.Index([*CURVE, *COLUMNS, *same])))


def checked(definition: Definition, risk: float, confidence: float, quality: str | None) -> str:
    """Return the requested column of quality, the first task's if None. Raises as `recommend`."""
    for name, value in (("risk", risk), ("confidence", confidence)):
        check_share(value, name)
    return quality_column(definition, quality)


PLANNED_IMPORT = "planned import"


def _origin(study: Study) -> str:
    """The column `searched`."""
    if study.trainer == IMPORTED:
        return IMPORTED if nominates_only(study) else PLANNED_IMPORT
    return study.search.kind if study.search else ""


def _lost(
    failed: pd.DataFrame | None, model: str, curve: str, named: Iterable[tuple[Confirmation, set[str]]]
) -> dict[float, int]:
    """Return lr -> how many of a curve's own runs failed. Those of a confirmation belong to its test."""
    if failed is None or failed.empty:
        return {}
    confirmed = {run for _, of_confirmation in named for run in of_confirmation}
    here = (failed["model"] == model) & (failed["curve"] == curve) & ~failed["run_id"].isin(list(confirmed))
    return {float(lr): int(n) for lr, n in Counter(failed.loc[here, "lr"]).items()}


def _evidence(
    ids: Sequence[str],
    lrs: np.ndarray,
    diverged: np.ndarray,
    named: Iterable[tuple[Confirmation, set[str]]],
    missing: Mapping[float, int],
    placed: bool,
) -> Evidence:
    confirmed: list[Confirmed] = []
    own = np.ones(len(ids), bool)
    for confirmation, of_confirmation in named:
        here = np.array([run in of_confirmation for run in ids])
        if not here.any():
            continue
        own &= ~here
        n = len(confirmation.seeds)
        confirmed.append(
            Confirmed(
                lr=confirmation.lr,
                k=int(diverged[here].sum()),
                n=n,
                missing=n - int(here.sum()),
                study_seeds=confirmation.study_seeds,
            )
        )
    tried, of_lr = np.unique(lrs[own], return_inverse=True)
    k, n = np.bincount(of_lr, diverged[own], len(tried)), np.bincount(of_lr, minlength=len(tried))
    grid = tuple(zip(tried.tolist(), k.astype(int).tolist(), n.tolist(), strict=True))
    return Evidence(grid=grid, placed=placed, confirmations=tuple(confirmed), missing=missing)


# Quality


def _scores(runs: pd.DataFrame, definition: Definition, column: str) -> np.ndarray:
    return worst_filled(runs, definition).get(column, np.full(len(runs), np.nan))


def _quality_at(scores: np.ndarray) -> dict[str, Any]:
    low, middle, high = median_interval(scores)
    ends = {"quality_median_low": low, "quality_median_high": high}
    return {"quality_median": middle} | ends | {"quality_n": len(scores)}


def _headroom(lr_N: np.ndarray, score_N: np.ndarray, edge: Mapping[str, Any], column: str) -> dict[str, float]:
    best = _best_lr(lr_N, score_N, column)
    return {
        "best_lr": best,
        "headroom": edge["edge"] / best if edge["status"] == REACHED else math.nan,
        "headroom_low": edge["low"] / best,
        "headroom_high": edge["high"] / best,
    }


def _best_lr(lr_N: np.ndarray, score_N: np.ndarray, column: str) -> float:
    """The lr of best median quality, the lowest of equals; of a search, of the best quarter octave."""
    alone = statistics.median(Counter(lr_N.tolist()).values()) < 2
    group_N = (4 * np.log2(lr_N)).round() if alone else lr_N
    scores: dict[float, list[float]] = {}
    for group, score in zip(group_N.tolist(), score_N.tolist(), strict=True):
        if not math.isnan(score):
            scores.setdefault(group, []).append(score)
    if not scores:
        return math.nan
    medians = {group: statistics.median(scores[group]) for group in sorted(scores)}
    best = (min if lower_is_better(column) else max)(medians, key=lambda group: medians[group])
    return float(np.median(lr_N[group_N == best]))
