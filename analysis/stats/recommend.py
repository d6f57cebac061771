"""The largest learning rate of each curve whose P(divergence) is at most a risk, at a confidence.

A claim "P(divergence at lr) <= risk" is a one-sided binomial test: with k of n diverged it holds at the level a if

    P(Binomial(n, risk) <= k) <= a        that is, if Clopper and Pearson's upper bound at 1 - a is at most the risk

So 59 clean seeds claim 5% at 95%, and 299 claim 1%. Runs of a fixed number of seeds are tested upward from the lowest
lr until the first failure. A fixed sequence needs no correction for the number of lrs, even if the runs of a seed are
dependent. The runs of a search were placed by outcomes: they nominate an lr and claim nothing. The same holds for
imported runs, unless their grid and seeds were fixed beforehand.

A confirmation is a test of its own: fresh seeds at one lr, named before they are trained
(`study.record.confirmations`). It is judged by these runs alone once all are recorded. Each curve may be wrong with
probability 1 - confidence over all tests ever made of it, including the choice of lr. A failed test spends its size,
the largest probability with which it could have claimed a risk that is too high; a test that claims spends nothing.
After a failure, a test may take half of what is left. (59 seeds at 5% leave 0.0015 of 0.05: the next confirmation
needs 141.)

A run that failed for good may have failed because it diverged, and a few of them show no trend. So the study's own runs
claim nothing from the lowest lr on at which one is missing, and that test counts as failed. A confirmation counts its
missing runs as diverged, so its claim holds whatever they were.

Sources: C. J. Clopper and E. S. Pearson, Biometrika 26 (1934); fixed sequences: W. Maurer, L. A. Hothorn and W.
Lehmacher, in Biometrie in der chemisch-pharmazeutischen Industrie 6 (1995); levels passed on by tests that reject: F.
Bretz et al., Statistics in Medicine 28 (2009).
"""

import functools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import CURVE, in_order, records, threshold_columns, with_curves
from analysis.stats.edges import REACHED, edges, fits
from analysis.stats.intervals import CONFIDENCE, lower_bound, median_interval, upper_bound
from analysis.stats.psychometric import Fit
from analysis.stats.quality import lower_is_better, quality_column, worst_filled
from study.config import IMPORTED, JUDGED_FROM, QualitySearch, Study, log_grid, nominates_only
from study.record.confirmations import Confirmation
from study.record.definition import Definition

RISK = 0.05
LR05 = 0.05

CLAIMED, CANNOT_SAY, TOO_RISKY = "claimed", "cannot say", "too risky"

LIKELY = 0.5
"""The least probability, by the fitted curve, that fresh seeds would claim a nominated lr."""

MOST_SEEDS = 100_000

COLUMNS = (
    *("risk", "confidence", "status", "lr", "basis", "k", "n", "bound", "tested_at"),
    *("nominated", "nominated_k", "nominated_n", "nominated_bound", "chance", "more_if_clean", "more_at_rate"),
    *("pending", "failed", "quality", "quality_median", "quality_low", "quality_high", "quality_n"),
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
        One row a curve; columns model, curve, method, <thresholds>, options; risk, confidence (as requested);
        status ("claimed", "cannot say", or "too risky": the lowest lr has a higher risk, at the confidence);
        lr (the largest with a claim), basis ("study": its runs of fixed seeds; "confirmation"), k, n (diverged runs
        of the seeds that support the claim), tested_at (the confidence of that test, higher than requested after one
        that failed), bound (of the risk there, at that confidence); NaN without a claim;
        nominated (an lr above the claim that fresh seeds would probably claim, or NaN), nominated_k and nominated_n
        (the cell there; n is 0 if none was tried), nominated_bound (of its risk, at the confidence), chance (that
        fresh seeds claim it, by the fitted curve), more_if_clean and more_at_rate (fresh seeds that a confirmation
        needs if none of them diverges, or if as many do as in that cell; NaN if no number suffices);
        pending (runs that confirmations still miss), failed (confirmations that failed);
        quality (the column's name), quality_median with its exact 95% interval quality_low, quality_high (over
        seeds; NaN below 6), quality_n: at lr, or else at nominated; a diverged run is the worst result;
        best_lr (of best median quality), headroom (LR05 over best_lr; NaN unless LR05 was reached) with its 95%
        interval headroom_low, headroom_high (0 and inf outside the tried lrs), edge_status (status of LR05 in `edges`);
        searched ("edges", "quality", "imported", "planned import", or "" for a study of fixed runs);
        seeds (distinct);
        lowest_k, lowest_n and lowest_bound (the cell of the lowest lr, and the bound of its risk, at the confidence);
        n_min, n_max (runs a cell), lr_min, lr_max, steps (the horizon); missing (the study's runs that failed, without
        those of confirmations), missing_from (their lowest lr: the study's runs claim nothing from there on, and no
        higher lr is nominated; NaN if none is missing).

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
        row = _claim_and_nomination(evidence, fitted[model, curve], risk, confidence)
        named_lr = row["lr"] if row["status"] == CLAIMED else row["nominated"]
        row |= _quality_at(scores[at][lr_N[at] == named_lr])
        row |= _headroom(lr_N[at], scores[at], edge[model, curve], column)
        facts = {name: edge[model, curve][name] for name in ("seeds", "n_min", "n_max", "lr_min", "lr_max", "steps")}
        facts |= {"edge_status": edge[model, curve]["status"], "searched": _origin(study)}
        facts |= {"missing": sum(lost.values()), "missing_from": min(lost, default=math.nan)}
        rows.append(head | {"risk": risk, "confidence": confidence, "quality": column} | row | facts)
    return in_order(pd.DataFrame(rows, columns=pd.Index([*CURVE, *same, *COLUMNS])))


def checked(definition: Definition, risk: float, confidence: float, quality: str | None) -> str:
    """Return the requested column of quality, the first task's if None. Raises as `recommend`."""
    for name, value in (("risk", risk), ("confidence", confidence)):
        if not 0 < value < 1:
            raise ValueError(f"need 0 < {name} < 1, got {name}={value:g}")
    return quality_column(definition, quality)


PLANNED_IMPORT = "planned import"


def _origin(study: Study) -> str:
    """The column `searched`."""
    if study.trainer == IMPORTED:
        return IMPORTED if nominates_only(study) else PLANNED_IMPORT
    return study.search.kind if study.search else ""


# The tests


def passes(k: Any, n: Any, risk: float, level: float) -> np.ndarray:
    """Return whether k diverged of n runs claim, at the level (1 - confidence), that P(divergence) is at most the
    risk."""
    k, n = np.asarray(k, dtype=float), np.asarray(n, dtype=float)
    inside = k < n
    # P(Binomial(n, risk) <= k); 1 where all diverged, and where there are none.
    tail = np.where(inside, special.betaincc(k + 1, np.where(inside, n - k, 1), risk), 1.0)
    return tail <= level


def most_allowed(n: int, risk: float, level: float) -> int:
    """Return the most diverged of n runs that still claim; -1 if even none does not."""
    return int(passes(np.arange(n), n, risk, level).sum()) - 1


def size(n: int, allowed: int, risk: float) -> float:
    """Return the largest probability of claiming a risk that is too high, if so many diverged of n are allowed."""
    return float(special.betaincc(allowed + 1, n - allowed, risk))


@functools.lru_cache(maxsize=1024)
def seeds_needed(risk: float, level: float, rate: float = 0.0) -> int | None:
    """Return the smallest number of fresh seeds that claim the risk at the level; None above 100,000.

    Args:
        risk: The P(divergence) to claim.
        level: 1 - confidence.
        rate: The share of the seeds that diverges, rounded up to a whole seed.
    """
    if not 0 < level < 1 or rate >= risk:
        return None
    first = 1
    while first <= MOST_SEEDS:
        n = np.arange(first, min(10 * first, MOST_SEEDS + 1))
        enough = passes(np.ceil(np.round(rate * n, 9)), n, risk, level)
        if enough.any():
            return int(n[enough][0])
        first *= 10
    return None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What the tests of a curve rest on.

    Attributes:
        grid: (lr, k, n) of the study's own runs, ascending.
        placed: Whether they may have been placed by outcomes.
        confirmations: In the order in which they were named.
        missing: lr -> how many of the study's own runs failed.
    """

    grid: tuple[tuple[float, int, int], ...]
    placed: bool
    confirmations: tuple["Confirmed", ...]
    missing: Mapping[float, int] = field(default_factory=dict)

    @property
    def cells(self) -> list[tuple[float, int, int, int]]:
        """(lr, k, n, missing) of the study's own runs, ascending; n includes the missing runs."""
        recorded = {lr: (k, n) for lr, k, n in self.grid}
        missing = self.missing
        counts = ((lr, *recorded.get(lr, (0, 0)), missing.get(lr, 0)) for lr in sorted({*recorded, *missing}))
        return [(lr, k, n + lost, lost) for lr, k, n, lost in counts]


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A confirmation: k diverged of the recorded runs, n named ones; the study had study_seeds at that time."""

    lr: float
    k: int
    n: int
    missing: int
    study_seeds: int


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


def claim(evidence: Evidence, risk: float, confidence: float) -> dict[str, Any]:
    """Return the largest lr that the tests of a curve claim: columns of `recommend`, and the next test's next_level."""
    left, some_failed, claims, failed = 1 - confidence, False, [], 0

    def level() -> float:
        return left / 2 if some_failed else left

    tests: list[Confirmed | None] = list(evidence.confirmations)
    if not evidence.placed:
        # The study's own test comes first, unless confirmations were named when it was too small to claim anything.
        tests.insert(_before(evidence, risk, 1 - confidence), None)
    for test in tests:
        cells = [(test.lr, test.k, test.n, test.missing)] if test else evidence.cells
        for lr, k, n, missing in cells:
            at = level()
            allowed = most_allowed(n, risk, at)
            if allowed >= 0 and k + missing <= allowed and (test or not missing):
                basis = "confirmation" if test else "study"
                claims.append({"lr": lr, "basis": basis, "k": k, "n": n, "level": at})
                continue
            if allowed >= 0:
                left, some_failed = left - size(n, allowed, risk), True
                failed += test is not None and k > allowed
            break
    result: dict[str, Any] = {"status": CANNOT_SAY, "lr": math.nan, "k": math.nan, "n": math.nan}
    result |= {"basis": None, "bound": math.nan, "tested_at": math.nan, "next_level": level(), "failed": failed}
    result["pending"] = sum(test.missing for test in evidence.confirmations)
    _, k, n = evidence.grid[0] if evidence.grid else (math.nan, 0, 0)
    result |= {"lowest_k": k, "lowest_n": n}
    result["lowest_bound"] = upper_bound(k, n, confidence) if n else math.nan
    if claims:
        best = max(claims, key=lambda claim: (claim["lr"], claim["n"]))
        bound = upper_bound(best["k"], best["n"], 1 - best["level"])
        return result | best | {"status": CLAIMED, "bound": bound, "tested_at": 1 - best["level"]}
    if n and not evidence.placed and lower_bound(k, n, confidence) > risk + 1e-9:
        result["status"] = TOO_RISKY
    return result


def _before(evidence: Evidence, risk: float, level: float) -> int:
    """How many confirmations were named before the study had the seeds for a claim of its own."""
    fewest = seeds_needed(risk, level) or MOST_SEEDS
    return next(
        (i for i, c in enumerate(evidence.confirmations) if c.study_seeds >= fewest), len(evidence.confirmations)
    )


# What to try next


def _claim_and_nomination(evidence: Evidence, fit: Fit, risk: float, confidence: float) -> dict[str, Any]:
    """The claim of a curve, and what to try next; once for curves with the same fit and evidence."""
    lost = tuple(sorted(evidence.missing.items()))
    key = ("claim", evidence.grid, evidence.placed, evidence.confirmations, lost, risk, confidence)

    def find() -> dict[str, Any]:
        claimed = claim(evidence, risk, confidence)
        return claimed | _nomination(evidence, fit, claimed, risk, confidence)

    return dict(fit.once(key, find))


def _nomination(
    evidence: Evidence, fit: Fit, claimed: Mapping[str, Any], risk: float, confidence: float
) -> dict[str, Any]:
    seeds = seeds_needed(risk, claimed["next_level"])
    none = {"nominated": math.nan, "nominated_k": 0, "nominated_n": 0, "nominated_bound": math.nan, "chance": math.nan}
    none |= {"more_if_clean": math.nan if seeds is None else seeds, "more_at_rate": math.nan}
    candidates = [lr for lr in _candidates(evidence, risk) if not lr <= claimed["lr"]]
    if not candidates or seeds is None:
        return none
    # Quantiles at even shares: their mean of a function of P is the posterior's.
    rate_UC = fit.curve(np.array(candidates), ((np.arange(100) + 0.5) / 100).tolist())
    chance_C = ((1 - rate_UC) ** seeds).mean(axis=0)
    likely = np.flatnonzero(chance_C >= LIKELY)
    if not likely.size and claimed["status"] == CLAIMED:
        return none
    best = int(likely[-1]) if likely.size else int(np.argmax(chance_C))
    lr = candidates[best]
    k, n = next(((k, n) for tried, k, n in evidence.grid if tried == lr), (0, 0))
    at_rate = seeds_needed(risk, claimed["next_level"], k / n) if n else None
    return {
        "nominated": lr,
        "nominated_k": k,
        "nominated_n": n,
        "nominated_bound": upper_bound(k, n, confidence) if n else math.nan,
        "chance": float(chance_C[best]),
        "more_if_clean": seeds,
        "more_at_rate": math.nan if at_rate is None else at_rate,
    }


def _candidates(evidence: Evidence, risk: float) -> list[float]:
    """Lrs up to which no cell's rate is above the risk and no run is missing.

    Those of a search lie anywhere, also below its tried lrs.
    """
    good, missing_from = [], min(evidence.missing, default=math.inf)
    for lr, k, n in evidence.grid:
        if k > risk * n or lr >= missing_from:
            break
        good.append(lr)
    if not evidence.placed:
        return good
    lowest = min(evidence.grid[0][0] if evidence.grid else 1.0, missing_from)
    high = good[-1] if good else lowest / 1.25
    return [lr for lr in log_grid(lowest / BELOW_SEARCH, high, SEARCH_POINTS) if lr <= high] or [high]


BELOW_SEARCH = 4.0
SEARCH_POINTS = 80


# Quality


def _scores(runs: pd.DataFrame, definition: Definition, column: str) -> np.ndarray:
    return worst_filled(runs, definition).get(column, np.full(len(runs), np.nan))


def _quality_at(scores: np.ndarray) -> dict[str, Any]:
    low, middle, high = median_interval(scores)
    return {"quality_median": middle, "quality_low": low, "quality_high": high, "quality_n": len(scores)}


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
