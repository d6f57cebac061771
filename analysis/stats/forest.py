"""The edges of studies that differ in one thing each, compared with each other: the rows of a forest plot.

Each study is compared with another of its family by the ratio of their LR50
(`analysis.stats.contrasts.edge_ratio`), curve by curve. p is corrected over the whole family by Holm's method. A
ratio with an edge that was not reached is one-sided. Seeds are not paired: another model or recipe is another draw
of thresholds.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.loading import FamilyMember, load, records, with_curves
from analysis.stats.contrasts import LEVEL, contrasts, edge_ratio, first_planned, holm, points
from analysis.stats.edges import edges, fits
from analysis.stats.psychometric import Fit
from study.config import Study
from study.record.definition import Definition, read_definition, study_exists


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedMember:
    """A member of a family with its runs and the fits of its curves; None and no fit without runs."""

    member: FamilyMember
    definition: Definition | None
    runs: pd.DataFrame | None
    fitted: Mapping[tuple[str, str], Fit]

    @property
    def study(self) -> Study | None:
        return self.definition.study if self.definition else None


def fitted_members(members: Sequence[FamilyMember], read: Callable[[Path], pd.DataFrame] = load) -> list[FittedMember]:
    """Return each member with what it has recorded. Raises RecordError if a record cannot be read."""
    found = []
    for member in members:
        begun = study_exists(member.folder)
        definition, runs = (read_definition(member.folder), read(member.folder)) if begun else (None, None)
        runs = runs if runs is not None and len(runs) else None
        fitted = {} if runs is None else fits(runs)
        found.append(FittedMember(member=member, definition=definition, runs=runs, fitted=fitted))
    return found


def forest(members: Sequence[FamilyMember], read: Callable[[Path], pd.DataFrame] = load) -> pd.DataFrame:
    """Return `forest_of` the members, as they are recorded."""
    return forest_of(fitted_members(members, read))


def forest_of(family: Sequence[FittedMember]) -> pd.DataFrame:
    """Return one row a member and curve, in the order of the members; members without runs are left out.

    Args:
        family: `fitted_members`.

    Returns:
        Columns label, words, model, curve, method, n, k (runs, and diverged ones), seeds, level, edge, low, high,
        status, lr_min, lr_max (`analysis.stats.edges.edges`); against (a label, or "" if there is nothing to compare
        with), ratio (of LR50 over that of against; NaN unless both were reached), ratio_low, ratio_high (95%; 0 and
        inf if it lacks that end), p, p_holm.
    """
    begun = [(one.member.label, one.runs, one.fitted) for one in family if one.runs is not None]
    edges_of = {label: {(row["model"], row["curve"]): row for row in _edges(runs, fit)} for label, runs, fit in begun}
    fitted, rows = {label: fit for label, _, fit in begun}, []
    for one in family:
        member = one.member
        if one.runs is None:
            continue
        other = {} if member.against == member.label else edges_of.get(member.against, {})
        for key, row in edges_of[member.label].items():
            names = {"label": member.label, "words": member.words, "against": ""}
            ratio = dict.fromkeys(RATIO, math.nan)
            if against := _counterpart(*key, other):
                sides = points(one.fitted[key]), points(fitted[member.against][against["model"], against["curve"]])
                found = edge_ratio(row, against, *sides)
                names["against"], ratio = member.against, {name: found[of] for name, of in RATIO.items() if of in found}
            rows.append(row | names | ratio)
    table = pd.DataFrame(rows, columns=pd.Index(COLUMNS))
    tested = table["p"].notna().to_numpy()
    table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy(dtype=float))
    return table


def _edges(runs: pd.DataFrame, fitted: Mapping[tuple[str, str], Fit]) -> list[dict[str, Any]]:
    """The edge of each curve, with its runs n and diverged runs k."""
    runs = with_curves(runs)
    diverged = (runs["outcome"] == "diverged").groupby([runs["model"], runs["curve"]])
    counts = pd.DataFrame({"n": diverged.size(), "k": diverged.sum()}).to_dict("index")
    return [row | counts[row["model"], row["curve"]] for row in records(edges(runs, LEVEL, fitted))]


def _counterpart(
    model: str, curve: str, others: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """The same curve of another member: of the same model, or of its only one if the members differ in the model."""
    alike = [row for (_, other), row in others.items() if other == curve]
    return others.get((model, curve), alike[0] if len(alike) == 1 else None)


COLUMNS = (
    *("label", "words", "model", "curve", "n", "k", "edge", "low", "high", "status"),
    *("against", "ratio", "ratio_low", "ratio_high", "p", "p_holm", "seeds", "level", "lr_min", "lr_max", "method"),
)


def curves(runs: pd.DataFrame, definition: Definition) -> pd.DataFrame:
    """Return the same columns for the curves of one study, each compared with its first comparator of its model.

    p is corrected by Holm's method over the planned contrasts of the study (`analysis.stats.contrasts`).
    """
    fitted = fits(runs)
    ratios = contrasts(runs, definition, fitted=fitted)
    planned = first_planned(ratios)
    models, rows = definition.study.models, []
    for row in sorted(_edges(runs, fitted), key=lambda row: models.index(row["model"])):
        ratio = planned.get((row["model"], row["curve"]), dict.fromkeys(RATIO.values(), math.nan) | {"against": ""})
        words = {"label": row["curve"], "words": row["model"] if len(models) > 1 else "", "against": ratio["against"]}
        rows.append(row | words | {name: ratio[of] for name, of in RATIO.items()})
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


RATIO = {"ratio": "ratio", "ratio_low": "low", "ratio_high": "high", "p": "p", "p_holm": "p_holm"}
"""Column -> its name in `analysis.stats.contrasts.contrasts`."""
