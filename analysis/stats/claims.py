"""Tests that claim of a curve that P(divergence) at an lr is at most a risk, at a confidence.

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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from analysis.stats.intervals import lower_bound, upper_bound

CLAIMED, CANNOT_SAY, TOO_RISKY = "claimed", "cannot say", "too risky"

MOST_SEEDS = 100_000


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

    def recorded(self, lr: float) -> tuple[int, int]:
        """Return k diverged of n recorded runs at an lr, with those of confirmations."""
        own = [(k, n) for tried, k, n in self.grid if tried == lr]
        fresh = [(test.k, test.n - test.missing) for test in self.confirmations if test.lr == lr]
        return sum(k for k, _ in own + fresh), sum(n for _, n in own + fresh)


@dataclass(frozen=True, kw_only=True)
class Confirmed:
    """A confirmation: k diverged of the recorded runs, n named ones; the study had study_seeds at that time."""

    lr: float
    k: int
    n: int
    missing: int
    study_seeds: int


def claim(evidence: Evidence, risk: float, confidence: float) -> dict[str, Any]:
    """Return the largest lr that the tests of a curve claim: columns of `recommend`.

    Also next_level, that of the next test, and lowest_failed_lr of the confirmations, infinity if none failed.
    """
    left, some_failed, claims, failed = 1 - confidence, False, [], []

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
                if test and k > allowed:
                    failed.append({"failed_lr": lr, "failed_k": k, "failed_n": n, "failed_allowed": allowed})
            break
    result: dict[str, Any] = {"status": CANNOT_SAY, "lr": math.nan, "k": math.nan, "n": math.nan}
    result |= {"basis": None, "bound": math.nan, "tested_at": math.nan, "next_level": level(), "failed": len(failed)}
    result |= failed[-1] if failed else dict.fromkeys(("failed_lr", "failed_k", "failed_n", "failed_allowed"), math.nan)
    result["lowest_failed_lr"] = min((test["failed_lr"] for test in failed), default=math.inf)
    result["pending"] = sum(test.missing for test in evidence.confirmations)
    lowest, k, n = evidence.grid[0] if evidence.grid else (math.nan, 0, 0)
    too_risky = n and not evidence.placed and lower_bound(k, n, confidence) > risk + 1e-9
    if not too_risky:
        k, n = evidence.recorded(lowest)
    result |= {"lowest_k": k, "lowest_n": n}
    result["lowest_bound"] = upper_bound(k, n, confidence) if n else math.nan
    if claims:
        best = max(claims, key=lambda claim: (claim["lr"], claim["n"]))
        bound = upper_bound(best["k"], best["n"], 1 - best["level"])
        return result | best | {"status": CLAIMED, "bound": bound, "tested_at": 1 - best["level"]}
    if too_risky:
        result["status"] = TOO_RISKY
    return result


def _before(evidence: Evidence, risk: float, level: float) -> int:
    """How many confirmations were named before the study had the seeds for a claim of its own."""
    fewest = seeds_needed(risk, level) or MOST_SEEDS
    return next(
        (i for i, c in enumerate(evidence.confirmations) if c.study_seeds >= fewest), len(evidence.confirmations)
    )
