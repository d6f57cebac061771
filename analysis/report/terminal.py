"""The report as text for a terminal."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.report.answers import under_models
from analysis.report.tables import ReportTables
from analysis.text.best import text as best_text
from analysis.text.contrasts import sentences
from analysis.text.control import control_notes, reference_notes
from analysis.text.edges import sentence
from analysis.text.missing import sentences as missing_sentences
from analysis.text.mixture import mixture_notes
from analysis.text.rates import rates_table
from analysis.text.report import claims_text, many_contrasts_text, many_edges_text, trust_notes
from study.config import comparators

MOST_CURVES = 100
"""Curves of a model that are printed one by one."""

MOST_CONTRASTS = 12
"""Planned contrasts of a model that are printed one by one."""


def text(
    tables: ReportTables,
    folder: str = "DIR",
    command: str = "study",
    reference: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """Return the answers for each model, what weakens them, then the rates of all cells.

    A remark that holds for several models stands once, behind them, under their names.

    Args:
        folder: The folder, as the user types it.
        command: The command, as the user types it.
        reference: Of the control, as in `analysis.report.page.write`.
    """
    notes = [*trust_notes(tables.runs, tables.definition.study), *mixture_notes(tables.every)]
    notes += control_notes(tables.definition, tables.folder, tables.every)
    notes += reference_notes(tables.definition.study, tables.every, tables.scored, reference or {})
    if tables.best is not None:
        return "\n\n".join([best_text(tables.best, tables.definition), *notes])
    own = under_models({model: _model_lines(tables, model, folder) for model in tables.models(tables.first_edges)})
    if own:
        [*own.values()][-1].append(f"More: {command} recommend {folder}")
    answers = ["\n".join([f"{names}:", *(f"  {line}" for line in some)]) for names, some in own.items()]
    place = {model: i for i, model in enumerate(tables.definition.study.models)}
    rates = tables.rates.sort_values("model", key=lambda models: models.map(place), kind="stable")
    curves = pd.Series(rates.groupby("model")["curve"].transform("nunique"))
    printed = curves.to_numpy(dtype=int) <= MOST_CURVES
    return "\n\n".join([*answers, *notes, *([rates_table(rates.loc[printed])] if printed.any() or rates.empty else [])])


def _model_lines(tables: ReportTables, model: str, folder: str) -> list[str]:
    """The answers for one model; counts only, if it has many curves."""
    edges, contrasts, recommended = (
        table.loc[table["model"] == model] for table in (tables.first_edges, tables.contrasts, tables.recommended)
    )
    rows = edges.to_dict("records")
    lost = missing_sentences(tables.missing.loc[tables.missing["model"] == model], edges)
    if len(rows) > MOST_CURVES:
        short = many_edges_text(rows, tables.first_level)
        return [f"{short} All of them: {folder}/tables/edges.csv, cells.csv", *lost]
    lines = [*lost, "\n  ".join(sentence(row) for row in rows)]  # together: these are looked up under a model
    if contrasts["planned"].tolist().count(True) > MOST_CONTRASTS:
        lines.append(many_contrasts_text(contrasts, comparators(tables.definition.study)))
    elif len(contrasts):
        lines += sentences(contrasts, comparators(tables.definition.study), quality=False)
    return [*lines, claims_text(recommended)]
