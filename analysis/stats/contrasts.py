"""Which method moves the edge, and by how much: each method against its comparators, then every other pair.

The interval of a ratio of edges is that of the difference of their posteriors (`analysis.stats.edges`, level 0.5). It
holds at any number of seeds and includes what a grid of lrs hides: a bootstrap of seeds that all switch between the
same two lrs would have no width. Beyond the tried lrs the edge is unknown, not modelled, so such an edge makes an
interval one-sided. p is twice the smaller probability that the ratio lies on the other side of 1. The posteriors are
taken as independent. If a seed's thresholds with two methods correlate, both interval and p are conservative; on real
data they hardly correlate. (Tried: coupling the posteriors by the correlation of paired seeds, or by its lower bound.
Intervals of 95% covered 85%, since a grid's part of the uncertainty is not shared.) See docs/statistics.md for
simulations. Quality, and outcomes at one lr, are paired by seed.

The contrasts that the study plans (`study.config.planned_contrasts`: each method against the untreated one, or against
those that `Study.compare` names) are a family, over all of its models: Holm (S. Holm, Scandinavian Journal of
Statistics 6, 1979). One without runs yet counts too. If a confirmation (`study.record.confirmations`) named an lr and
fresh seeds before they were trained, McNemar's mid-p of these runs joins the family (M. W. Fagerland, S. Lydersen, P.
Laake, BMC Medical Research Methodology 13:91, 2013). All other contrasts are descriptive and not corrected.
"""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import CURVE, in_order, records, with_curves
from analysis.stats.edge_posterior import edge_ends
from analysis.stats.edges import NOT_REACHED, REACHED, edges, fits, outcomes, outcomes_by_curve
from analysis.stats.intervals import CONFIDENCE, mean_interval
from analysis.stats.psychometric import Fit
from analysis.stats.quality import judged_at_own_best, quality_column
from study.config import comparators, planned_contrasts
from study.record.confirmations import Confirmation
from study.record.definition import Definition

LEVEL = 0.5
TAIL = (1 - CONFIDENCE) / 2

KNOWN, AT_LEAST, AT_MOST, UNDECIDED = "known", "at least", "at most", "undecided"

COLUMNS = (
    *("model", "curve", "against", "ratio", "low", "high", "status", "p", "p_holm", "planned"),
    *("pairs", "seeds", "seeds_against", "monotone"),
    *("lr", "lr_named", "lr_pairs", "lr_only", "lr_only_against", "lr_p", "lr_p_holm"),
    *("quality", "difference", "difference_low", "difference_high", "difference_pairs", "best_lr", "best_lr_against"),
    "method",
)


def contrasts(
    runs: pd.DataFrame,
    definition: Definition,
    *,
    confirmations: Sequence[Confirmation] = (),
    quality: str | None = None,
    fitted: Mapping[tuple[str, str], Fit] | None = None,
) -> pd.DataFrame:
    """Return every pair of curves of a model; only the planned pairs if it has more than FEW_CURVES curves.

    Args:
        runs: One row a run (`analysis.load`).
        confirmations: `study.record.confirmations.read_confirmations`.
        quality: A column of held-out quality (`auc_click`); the first task's if None.
        fitted: `analysis.stats.edges.fits(runs)`; computed if None.

    Returns:
        One row a pair, the planned ones first, in the order of the comparators; columns model, curve, against (the
        other curve); ratio (LR50 of curve over that of against; NaN unless both were reached), low, high (95% interval;
        0 and inf if it lacks that end), status ("known", "at least": only low is known, "at most", "undecided"), p (at
        least LEAST_P), p_holm (of planned ones), planned (against a comparator and in the family; others are
        descriptive); pairs, seeds, seeds_against (common seeds, and distinct ones of each), monotone (False if a rate
        falls again; the interval is then of the model-free bounds, without p); lr (that of the confirmation with the
        most pairs; without one, where the two differ most), lr_named (whether a confirmation named it), lr_pairs (its
        seeds with both runs), lr_only, lr_only_against (seeds with which only this curve, only the other diverged),
        lr_p, lr_p_holm (McNemar's mid-p; NaN unless named and planned); quality (name), difference (mean over seeds of
        this curve's less the other's, each at its own best lr as the other seeds and progressive validation choose it),
        difference_low, difference_high (95%, Student's t over seeds; NaN with one pair), difference_pairs, best_lr,
        best_lr_against (the choice of most seeds); method.

    Raises:
        ValueError: If there is no such quality.
    """
    runs, against = with_curves(runs), comparators(definition.study)
    name = quality_column(definition, quality)
    fitted = fits(runs) if fitted is None else fitted
    edge_rows = {(row["model"], row["curve"]): row for row in records(edges(runs, LEVEL, fitted))}
    best = judged_at_own_best(runs, definition, name)
    named = [{run.id for run in confirmation.runs(definition)} for confirmation in confirmations]
    sides: dict[str, list[_Side]] = {}
    points_of = {fit: points(fit) for fit in dict.fromkeys(fitted.values())}
    ordered = in_order(runs)
    did, seeds_of = outcomes_by_curve(ordered), ordered.groupby(CURVE, sort=False)["seed"].unique().to_dict()
    confirmed_runs = [ordered.loc[ordered["run_id"].isin(list(ids))] for ids in named]
    at_curve = [confirmation_runs.groupby(CURVE, sort=False).indices for confirmation_runs in confirmed_runs]
    for key, (lrs, diverged_SK) in did.items():
        confirmed = [
            confirmation_runs.iloc[at.get(key, [])]
            for confirmation_runs, at in zip(confirmed_runs, at_curve, strict=True)
        ]
        side = _Side(
            row=edge_rows[key],
            points=points_of[fitted[key]],
            diverged=pd.DataFrame(diverged_SK, index=pd.Index(sorted(seeds_of[key])), columns=pd.Index(lrs)),
            confirmed=tuple(_by_seed_and_lr(runs_of_one) for runs_of_one in confirmed),
            best=best[key],
        )
        sides.setdefault(key[0], []).append(side)
    tables = []
    for of_model in sides.values():
        rows = [_contrast(a, b, planned, name) for a, b, planned in _pairs(of_model, against)]
        tables.append(pd.DataFrame(rows, columns=pd.Index(COLUMNS)))
    if not tables:
        return pd.DataFrame(columns=pd.Index(COLUMNS))
    table = pd.concat(tables, ignore_index=True)
    table = table.sort_values("planned", ascending=False, kind="stable", ignore_index=True)
    return with_holm(table, len(definition.study.models) * len(planned_contrasts(definition.study)))


def first_planned(table: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (model, curve) -> its planned row of `contrasts`, that with its first comparator."""
    planned = records(table.loc[table["planned"].astype(bool)])
    return {(row["model"], row["curve"]): row for row in reversed(planned)}


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return Holm's adjusted p-values. NaN, a test that could not be made, counts as p = 1 and stays NaN."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(np.where(np.isnan(p), 1.0, p), kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.nan_to_num(p[order], nan=1.0) * factors), 1.0)
    return np.where(np.isnan(p), np.nan, adjusted)


def mcnemar_mid_p(only: int, only_against: int) -> float:
    """Return McNemar's two-sided mid-p of two counts of discordant pairs. 8 and 0: 0.0039. 0 and 0: 1."""
    n, fewer = only + only_against, min(only, only_against)
    # P(X <= fewer) and P(X < fewer), X ~ Binomial(n, 1/2): the mid-p is P(X < fewer) + P(X = fewer) / 2 of each tail.
    p = float(special.bdtr(fewer, n, 0.5) + (special.bdtr(fewer - 1, n, 0.5) if fewer else 0.0))
    return max(sys.float_info.min, min(1.0, p))  # never 0, by underflow


# Two edges


@dataclass(frozen=True, kw_only=True, eq=False)
class Points:
    """The posterior of an edge, in log10.

    Attributes:
        lowest_N, highest_N: `edge_ends` at the scores NORMAL, (N,).
        x_min, x_max: The ends of the tried lrs.
    """

    lowest_N: np.ndarray  # noqa: N815 - carries its shape's letters
    highest_N: np.ndarray  # noqa: N815
    x_min: float
    x_max: float


def points(fit: Fit) -> Points:
    """Return the values of a fit that `ratio_interval` needs."""
    lowest, highest = edge_ends(fit, LEVEL, special.ndtr(NORMAL).tolist())
    return Points(
        lowest_N=np.array(lowest),
        highest_N=np.array(highest),
        x_min=math.log10(fit.lrs[0]),
        x_max=math.log10(fit.lrs[-1]),
    )


@functools.lru_cache(maxsize=4096)
def ratio_interval(a: Points, b: Points) -> tuple[float, float, float]:
    """Return (low, high, p): the 95% interval of LR50 of a over that of b, and the two-sided p of equality.

    low is 0 and high is inf if that end lies beyond the tried lrs.
    """
    return interval_of_pairs(*differences(a, b))


def differences(a: Points, b: Points) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest log10 of LR50 of a over that of b, at all pairs of scores, each (N, N)."""
    # An edge outside the tried lrs is only known to be outside: each end takes its worst value.
    lowest_a = np.where(a.lowest_N < a.x_min, -math.inf, np.minimum(a.lowest_N, a.x_max))
    highest_a = np.where(a.highest_N > a.x_max, math.inf, np.maximum(a.highest_N, a.x_min))
    lowest_b = np.where(b.lowest_N < b.x_min, -math.inf, np.minimum(b.lowest_N, b.x_max))
    highest_b = np.where(b.highest_N > b.x_max, math.inf, np.maximum(b.highest_N, b.x_min))
    return lowest_a[:, None] - highest_b, highest_a[:, None] - lowest_b


NORMAL = np.linspace(-4.5, 4.5, 97)
WEIGHT = special.softmax(-(NORMAL**2) / 2)
WEIGHT_NN = WEIGHT[:, None] * WEIGHT
"""Scores at which a posterior is evaluated, and their weights. A difference is taken over all pairs of them."""

LEAST_P = 4 * float(special.ndtr(NORMAL[0]))
"""The resolution of p, 0.000014: what is left out beyond the scores may lie on the other side, of one edge or both."""


def interval_of_pairs(lowest_NN: np.ndarray, highest_NN: np.ndarray) -> tuple[float, float, float]:
    """Return (low, high, p) of a ratio from the ends of its log10 at all pairs of scores; p is at least LEAST_P."""
    above, below = float(WEIGHT_NN[highest_NN >= 0].sum()), float(WEIGHT_NN[lowest_NN <= 0].sum())
    low, high = quantile_of_pairs(lowest_NN, TAIL), quantile_of_pairs(highest_NN, 1 - TAIL)
    return 10 ** float(low), 10 ** float(high), max(LEAST_P, min(1.0, 2 * min(above, below)))


def quantile_of_pairs(values_NN: np.ndarray, shares: float | np.ndarray) -> np.ndarray:
    """Return the quantiles of values that have the weights of pairs of scores, as the shares are shaped."""
    order = np.argsort(values_NN, axis=None)
    at = np.searchsorted(np.cumsum(WEIGHT_NN.ravel()[order]), shares)
    return values_NN.ravel()[order[np.minimum(at, len(order) - 1)]]


# One pair


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One curve of a pair.

    row: Of `edges`. points: Of its posterior. diverged: 1 or 0, seeds by lrs, NaN if missing. confirmed: The same
    for the runs of each confirmation. best: See `judged_at_own_best`.
    """

    row: Mapping[str, Any]
    points: Points
    diverged: pd.DataFrame
    confirmed: tuple[pd.DataFrame, ...]
    best: pd.DataFrame

    @property
    def name(self) -> str:
        return str(self.row["curve"])

    @property
    def seeds(self) -> pd.Index:
        return self.diverged.index


def _by_seed_and_lr(runs: pd.DataFrame) -> pd.DataFrame:
    lrs, diverged_SK = outcomes(runs)
    return pd.DataFrame(
        diverged_SK, index=pd.Index(np.unique(runs["seed"].to_numpy(dtype=np.int64))), columns=pd.Index(lrs)
    )


def _pairs(of_model: Sequence[_Side], against: Sequence[str]) -> list[tuple[_Side, _Side, bool]]:
    """(curve, against, planned), the planned pairs first, as `planned_contrasts` has them.

    An arm is compared with the comparator of its own options, such as its base optimizer, if there is one.
    """
    planned = []
    for i, comparator in enumerate(against):
        others = [side for side in of_model if side.row["method"] == comparator]
        alike = {side.row["options"]: side for side in reversed(others)}
        for side in of_model:
            if others and side.row["method"] not in against[: i + 1]:
                planned.append((side, alike.get(side.row["options"], others[0]), True))
    if len(of_model) > FEW_CURVES:
        return planned
    compared = {(a.name, b.name) for a, b, _ in planned}
    others = [
        (b, a, False)
        for i, a in enumerate(of_model)
        for b in of_model[i + 1 :]
        if (a.name, b.name) not in compared and (b.name, a.name) not in compared
    ]
    return planned + others


FEW_CURVES = 60


def _contrast(a: _Side, b: _Side, planned: bool, quality: str) -> dict[str, Any]:
    row = {
        "model": a.row["model"],
        "curve": a.name,
        "method": a.row["method"],
        "against": b.name,
        "planned": planned,
        "seeds": len(a.seeds),
        "seeds_against": len(b.seeds),
        "pairs": len(a.seeds.intersection(b.seeds)),
    }
    return (
        row
        | edge_ratio(a.row, b.row, a.points, b.points)
        | _at_one_lr(a, b, planned)
        | {"quality": quality}
        | _quality_difference(a, b)
    )


def edge_ratio(a: Mapping[str, Any], b: Mapping[str, Any], points_of_a: Points, points_of_b: Points) -> dict[str, Any]:
    """Return the ratio of two edges: ratio, low, high, status, monotone and p, as in `contrasts`.

    Args:
        a, b: Rows of `edges` at LEVEL.
        points_of_a, points_of_b: `points` of their fits.
    """
    return ratio_of_edges([a], [b], lambda: ratio_interval(points_of_a, points_of_b))


def ratio_of_edges(
    above: Sequence[Mapping[str, Any]],
    below: Sequence[Mapping[str, Any]],
    interval: Callable[[], tuple[float, float, float]],
) -> dict[str, Any]:
    """Return the product of some edges over that of others: the columns of `edge_ratio`.

    Args:
        above, below: Rows of `edges` at LEVEL, of the dividend and of the divisor.
        interval: Returns low, high and p. A curve that falls again has bounds in its place, and no p.
    """
    every = [*above, *below]
    known = all(row["status"] == REACHED for row in every)
    monotone = all(bool(row["monotone"]) for row in every)
    if monotone:
        low, high, p = interval()
    else:
        lowest = math.prod(row["bound_low"] for row in below)
        low = math.prod(row["bound_low"] for row in above) / math.prod(row["bound_high"] for row in below)
        high = math.prod(row["bound_high"] for row in above) / lowest if lowest > 0 else math.inf
        p = math.nan
    # With an edge above the range, its ratio has no upper end, and a ratio with it as divisor no lower end.
    up = [any(row["status"] == NOT_REACHED for row in rows) for rows in (above, below)]
    down = [any(row["status"] not in (REACHED, NOT_REACHED) for row in rows) for rows in (above, below)]
    low = 0.0 if up[1] or down[0] else low
    high = math.inf if up[0] or down[1] else high
    edge = [math.prod(row["edge"] for row in rows) for rows in (above, below)]
    return {
        "ratio": edge[0] / edge[1] if known else math.nan,
        "low": low,
        "high": high,
        "status": status_of(low, high),
        "monotone": monotone,
        "p": p,
    }


def status_of(low: float, high: float) -> str:
    """Return what is known of a ratio whose interval may lack an end: its low end is then 0, its high end inf."""
    if low > 0:
        return KNOWN if math.isfinite(high) else AT_LEAST
    return AT_MOST if math.isfinite(high) else UNDECIDED


def _at_one_lr(a: _Side, b: _Side, planned: bool) -> dict[str, Any]:
    named = max(map(_discordant, a.confirmed, b.confirmed), key=lambda at: at["lr_pairs"], default=NO_PAIRS)
    if named["lr_pairs"]:
        p = mcnemar_mid_p(named["lr_only"], named["lr_only_against"]) if planned else math.nan
        return named | {"lr_named": True, "lr_p": p}
    return _discordant(a.diverged, b.diverged) | {"lr_named": False, "lr_p": math.nan}


NO_PAIRS = {"lr": math.nan, "lr_pairs": 0, "lr_only": 0, "lr_only_against": 0}


def _discordant(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, Any]:
    """The common lr at which the seeds of two tables differ most; the lowest of equals."""
    if not (a.index.equals(b.index) and a.columns.equals(b.columns)):
        a, b = a.align(b, join="inner")
    y_a, y_b = a.to_numpy(dtype=float), b.to_numpy(dtype=float)
    if not y_a.size:
        return NO_PAIRS
    only, only_b, pairs = (y_a > y_b).sum(0), (y_a < y_b).sum(0), np.isfinite(y_a + y_b).sum(0)
    i = int(np.argmax(np.where(pairs > 0, np.abs(only - only_b), -1)))
    counts = {"lr_pairs": int(pairs[i]), "lr_only": int(only[i]), "lr_only_against": int(only_b[i])}
    return {"lr": float(a.columns[i])} | counts


def _quality_difference(a: _Side, b: _Side) -> dict[str, Any]:
    paired = np.empty(0)
    if len(a.best) and len(b.best):
        paired = (a.best["quality"] - b.best["quality"]).dropna().to_numpy(dtype=float)
    low, high = mean_interval(paired)
    mean = float(paired.mean()) if len(paired) else math.nan
    chosen = [float(s.best["lr"].mode().iloc[0]) if len(s.best) else math.nan for s in (a, b)]
    ends = {"difference": mean, "difference_low": low, "difference_high": high, "difference_pairs": len(paired)}
    return ends | {"best_lr": chosen[0], "best_lr_against": chosen[1]}


def with_holm(table: pd.DataFrame, contrasts: int) -> pd.DataFrame:
    """Return a table of contrasts with p_holm and lr_p_holm, over the planned ones as one family.

    The p of a confirmation belongs to it for every planned contrast of a model that has one.

    Args:
        table: Rows of `contrasts`, of all models; of a family of studies, of all members.
        contrasts: How many were planned. Those without a row count as p = 1.
    """
    planned = table["planned"].to_numpy(dtype=bool)
    named = table.groupby("model")["lr_named"].transform("any").to_numpy(dtype=bool)
    of_family = np.stack([planned, planned & named], axis=1)
    p = table[["p", "lr_p"]].to_numpy(dtype=float)
    without_runs = np.full(max(contrasts - planned.sum(), 0), math.nan)
    adjusted = np.full_like(p, math.nan)
    adjusted[of_family] = holm(np.concatenate([p[of_family], without_runs]))[: of_family.sum()]
    return table.assign(p_holm=adjusted[:, 0], lr_p_holm=adjusted[:, 1])
