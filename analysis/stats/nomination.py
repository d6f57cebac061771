"""The lr to confirm next: the largest that fresh seeds would probably claim, by the fitted curve."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.stats.claims import CLAIMED, Evidence, claim, seeds_needed
from analysis.stats.intervals import upper_bound
from analysis.stats.psychometric import Fit
from study.config import log_grid

LIKELY = 0.5
"""The least probability, by the fitted curve, that fresh seeds would claim a nominated lr."""

BELOW_SEARCH = 4.0
SEARCH_POINTS = 80


def claim_and_nomination(evidence: Evidence, fit: Fit, risk: float, confidence: float) -> dict[str, Any]:
    """Return columns of `recommend`: the claim of a curve, and what to try next.

    Curves with the same fit and evidence share one computation.
    """
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
    # Where a confirmation failed, a further one costs more seeds and is likelier to fail than one at a lower lr.
    candidates = [lr for lr in candidates if lr < claimed["lowest_failed_lr"]] or candidates
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
    k, n = evidence.recorded(lr)
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
