"""The values of the sections of a report that compare curves, for `templates/report.html.j2`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.loading import read_family, records
from analysis.report.answers import Answers, Context, once, split_answer
from analysis.report.html import Table
from analysis.report.numbers import interval, number, signed
from analysis.report.tables import ReportTables
from analysis.text.contrasts import ratio_text, sentences
from analysis.text.format import p_text, percent, quality_words, span_text
from analysis.text.recommend import headroom_text
from study.config import comparators
from study.record.definition import RecordError


def contrasts(tables: ReportTables) -> Context | None:
    """Contrasts between methods, and the cost of a wrong lr."""
    found = tables.contrasts
    if found.empty:
        return None
    answers: Answers = []
    against = comparators(tables.definition.study)
    for model in tables.models(found):
        of_model = found.loc[found["model"] == model]
        curves = of_model.loc[of_model["planned"].astype(bool), "curve"].tolist() or [""]
        lines = sentences(of_model, against)
        answers.append((model, [split_answer(curve, line) for curve, line in zip(curves, lines, strict=True)]))
    planned = found["planned"].to_numpy(dtype=bool)
    return {
        "answers": once(answers, tables.models(tables.first_edges)),
        "against": " and with ".join(against),
        "family": _family_of(tables.folder),
        "planned": _contrasts_table(tables, found.loc[planned], "p (Holm)", "p_holm"),
        "others": _contrasts_table(tables, found.loc[~planned], "p, uncorrected", "p"),
        "across": _across_table(tables.across_models),
        "costs": _costs_table(tables),
        "lr_min": tables.sensitivity["sensitivity_lr_min"].iloc[0],
        "lr_max": tables.sensitivity["sensitivity_lr_max"].iloc[0],
    }


def _across_table(found: pd.DataFrame) -> Table | None:
    if found.empty:
        return None
    head = [
        "curve",
        "against",
        "models",
        "seeds",
        "moves the edge up",
        "95% interval",
        "ratio of edges",
        "95% interval",
    ]
    rows = [
        [
            *(str(row[name]) for name in ("curve", "against", "models", "seeds")),
            *(percent(row["moves"]), f"{percent(row['moves_low'])} to {percent(row['moves_high'])}"),
            *(ratio_text(row), span_text(row["low"], row["high"])),
        ]
        for row in records(found)
    ]
    return Table(head=head, rows=rows, words=2)


def _family_of(folder: Path) -> str | None:
    """The name of the family whose member the study is; None of another study."""
    try:
        name, members = read_family(folder.parent)
    except (RecordError, OSError):
        return None
    return name if folder.name in {member.label for member in members} else None


def _contrasts_table(tables: ReportTables, found: pd.DataFrame, p_head: str, p: str) -> Table | None:
    if found.empty:
        return None
    score = quality_words(str(found["quality"].iloc[0]))
    head = ["model", "curve", "against", "LR50 ratio", "95% interval", p_head, "seeds", f"{score}, difference"]
    head += ["95% interval", "at lr", "diverged only here", "only there"]
    return Table(head=head, rows=[_contrast(row, p) for _, rows in tables.by_model(found) for row in rows], words=3)


def _contrast(row: Mapping[str, Any], p: str) -> list[str]:
    ratio = [ratio_text(row), span_text(row["low"], row["high"]), p_text(row[p])]
    quality, at = ["-"] * 2, ["-"] * 3
    if row["difference_pairs"] > 1:
        quality = [signed(row["difference"]), f"{signed(row['difference_low'])} to {signed(row['difference_high'])}"]
    if row["lr_named"] or row["lr_only"] + row["lr_only_against"] > 0:
        named = f", named (p {p_text(row['lr_p_holm'])})" if row["lr_named"] else ""
        counts = [f"{row[only]} of {row['lr_pairs']}" for only in ("lr_only", "lr_only_against")]
        at = [f"{row['lr']:.2g}{named}", *counts]
    return [row["model"], row["curve"], row["against"], *ratio, str(row["pairs"]), *quality, *at]


def _costs_table(tables: ReportTables) -> Table:
    sensitivity = {(row["model"], row["curve"]): row for row in records(tables.sensitivity)}
    body = []
    for model, rows in tables.by_model(tables.recommended):
        for row in rows:
            cost = sensitivity[model, row["curve"]]
            known = math.isfinite(row["best_lr"])
            best_lr = f"{row['best_lr']:.2g}" if known else "-"
            room = [headroom_text(row) or "-"]
            room += [span_text(row["headroom_low"], row["headroom_high"]) if known else "-"]
            loss = [number(cost["sensitivity"]), interval(cost, "sensitivity_low", "sensitivity_high", 3)]
            body.append([model, row["curve"], best_lr, *room, *loss])
    score = quality_words(str(tables.recommended["quality"].iloc[0]))
    head = ["model", "curve", f"lr of best {score}", "headroom", "95% interval", "LR sensitivity", "95% interval"]
    return Table(head=head, rows=body, words=2)
