"""Does a method gain more in one study of a family than in another?

The gain of a method is the ratio of its LR50 to that of its comparator, within one study. The interaction is the ratio
of two such gains: that of a member over that of the member it is compared with. 1 means that what the members differ in
(no warm-up, a larger batch) moves the edge of both methods by the same factor.

Its interval is that of the posteriors of the four edges, as `analysis.stats.contrasts.ratio_interval` takes two: each
end of an edge beyond the tried lrs makes it one-sided, and the posteriors are taken as independent. Of a curve that
falls again, the model-free bounds are used, without p. p is corrected by Holm's method over all interactions of the
family, and that of gains over all contrasts that its members plan.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.loading import records
from analysis.stats.contrasts import (
    LEVEL,
    NORMAL,
    Points,
    contrasts,
    differences,
    holm,
    interval_of_pairs,
    points,
    quantile_of_pairs,
    ratio_of_edges,
)
from analysis.stats.edges import edges
from analysis.stats.forest import FittedMember
from study.config import planned_contrasts

GAINS = (
    *("label", "words", "model", "curve", "against", "ratio", "low", "high", "status", "p", "p_holm"),
    *("pairs", "monotone", "method"),
)
INTERACTIONS = (
    *("label", "words", "model", "curve", "against", "label_against", "words_against"),
    *("ratio", "low", "high", "status", "p", "p_holm", "monotone", "method"),
)


def gains(family: Sequence[FittedMember]) -> pd.DataFrame:
    """Return the planned contrasts within each member of a family: the ratio of LR50 to the comparator's.

    Args:
        family: `analysis.stats.forest.fitted_members`.

    Returns:
        One row a member, model and planned contrast; columns label, words (of the member), and those of
        `analysis.stats.contrasts.contrasts`. p_holm is over all planned contrasts of all members; those without runs
        yet count as p = 1.
    """
    tables = [_contrasts_of(one) for one in family if one.runs is not None]
    found = [table for table in tables if len(table)]
    if not found:
        return pd.DataFrame(columns=pd.Index(GAINS))
    table = pd.concat(found, ignore_index=True)
    p = table["p"].to_numpy(dtype=float)
    without_runs = np.full(max(sum(map(_planned, family)) - len(p), 0), math.nan)
    table["p_holm"] = holm(np.concatenate([p, without_runs]))[: len(p)]
    return table.reindex(columns=[*GAINS])


def interactions(family: Sequence[FittedMember], gains: pd.DataFrame) -> pd.DataFrame:
    """Return how the gain of each method differs between a member and the one that it is compared with.

    Args:
        family: `analysis.stats.forest.fitted_members`.
        gains: `gains(family)`.

    Returns:
        One row a member and gain that the other member has too; columns label, words, model, curve, method, against
        (the comparator's curve), label_against, words_against (the other member); ratio (of the two gains; NaN unless
        all four edges were reached), low, high (95% interval; 0 and inf if it lacks that end), status ("known", "at
        least", "at most", "undecided"), monotone (of all four), p, p_holm (over all of them; those that are planned
        and have no row count as p = 1).
    """
    sides = {one.member.label: _sides(one) for one in family if one.runs is not None}
    rows = records(gains)
    words = {one.member.label: one.member.words for one in family}
    found = []
    for one in family:
        other = one.member.against
        if other == one.member.label or one.runs is None or other not in sides:
            continue
        for row in (row for row in rows if row["label"] == one.member.label):
            like = _counterpart(row, [theirs for theirs in rows if theirs["label"] == other])
            if like is not None:
                same = {name: row[name] for name in ("label", "words", "model", "curve", "method", "against")}
                keys = [(r["model"], r[side]) for r in (row, like) for side in ("curve", "against")]
                of = [sides[label][key] for label, key in zip((row["label"],) * 2 + (other,) * 2, keys, strict=True)]
                found.append(same | {"label_against": other, "words_against": words[other]} | _interaction(*of))
    table = pd.DataFrame(found, columns=pd.Index(INTERACTIONS))
    planned = sum(_planned(one) for one in family if one.member.against != one.member.label)
    p = np.concatenate([table["p"].to_numpy(dtype=float), np.full(max(planned - len(table), 0), math.nan)])
    return table.assign(p_holm=holm(p)[: len(table)])


def _planned(one: FittedMember) -> int:
    """How many contrasts a member plans; of one that has not begun, as `family.json` has it."""
    study = one.study
    begun = len(study.models) * len(planned_contrasts(study)) if study else 0
    return max(begun, one.member.contrasts)


def _contrasts_of(one: FittedMember) -> pd.DataFrame:
    assert one.runs is not None
    assert one.definition is not None
    if not planned_contrasts(one.definition.study):
        return pd.DataFrame()
    table = contrasts(one.runs, one.definition, fitted=one.fitted)
    table = table.loc[table["planned"].astype(bool)]
    return table.assign(label=one.member.label, words=one.member.words)


def _counterpart(row: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The same contrast of another member: of the same model, or of its only one if the members differ in the model."""
    alike = [other for other in others if (other["curve"], other["against"]) == (row["curve"], row["against"])]
    of_model = [other for other in alike if other["model"] == row["model"]]
    return of_model[0] if of_model else alike[0] if len(alike) == 1 else None


_Side = tuple[Mapping[str, Any], Points]
"""The row of an edge (`analysis.stats.edges.edges`), and its posterior."""


def _sides(one: FittedMember) -> dict[tuple[str, str], _Side]:
    assert one.runs is not None
    rows = {(str(row["model"]), str(row["curve"])): row for row in records(edges(one.runs, LEVEL, one.fitted))}
    return {key: (row, points(one.fitted[key])) for key, row in rows.items()}


def _interaction(a: _Side, b: _Side, c: _Side, d: _Side) -> dict[str, Any]:
    """(a / b) / (c / d)."""
    return ratio_of_edges([a[0], d[0]], [b[0], c[0]], lambda: interaction_interval(a[1], b[1], c[1], d[1]))


@functools.lru_cache(maxsize=4096)
def interaction_interval(a: Points, b: Points, c: Points, d: Points) -> tuple[float, float, float]:
    """Return (low, high, p) of (a / b) / (c / d), as `ratio_interval` does of a / b.

    All combinations of the scores of four edges are too many (88 million). So each difference is first evaluated at
    the scores of one edge.
    """
    shares_N = special.ndtr(NORMAL)
    one, other = ([quantile_of_pairs(end, shares_N) for end in differences(*pair)] for pair in ((a, b), (c, d)))
    return interval_of_pairs(one[0][:, None] - other[1], one[1][:, None] - other[0])
