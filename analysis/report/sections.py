"""The values of each section of a report, for `templates/report.html.j2`.

A function returns None if its section is left out.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.loading import CELL, CURVE, records, tasks_of
from analysis.report.answers import Context, once, split_answer
from analysis.report.comparison_sections import contrasts
from analysis.report.html import Image, Table
from analysis.report.measurement_sections import configuration, control, missing
from analysis.report.numbers import interval, number
from analysis.report.range_tests import NAME as RANGE_TESTS
from analysis.report.range_tests import RangeTests
from analysis.report.tables import LEVELS, ReportTables
from analysis.stats.best import task_of
from analysis.stats.horizon import SETTLED_WITHIN
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.quality import BAND
from analysis.stats.range_tests import RAMP, grouped
from analysis.stats.rates import divergence_rates
from analysis.stats.recommend import CLAIMED, RISK
from analysis.stats.scale import ScaleTables
from analysis.text import range_tests as range_text
from analysis.text.best import best_table
from analysis.text.best import sentence as best_sentence
from analysis.text.control import control_notes, reference_notes
from analysis.text.edges import edge_span, edge_text, sentence
from analysis.text.format import lr_text, percent, quality_words, score_text
from analysis.text.missing import sentences as missing_sentences
from analysis.text.mixture import mixture_notes
from analysis.text.recommend import commands
from analysis.text.report import claims_text, trust_notes
from analysis.text.scale import (
    EXPONENT_HEAD,
    doubling_text,
    exponent_row,
    horizon_warnings,
    prediction_rows,
    sizes_text,
    too_few_text,
)
from analysis.text.scale import warnings as size_warnings
from analysis.text.table2 import as_text
from study.config import QualitySearch
from study.text.wording import count

MOST_CELLS = 2_000
"""Rows of a table that a page shows without becoming slow."""

FEW_SEEDS = 5

FRONTIERS = ("frontier", "threshold_map", "tradeoff")
OTHER_FIGURES = ("kept", "auc_", "rmse_", "score_", "error_", "micro", "horizon", "gallery")
"""Names of figures, or their beginnings."""


def report(
    tables: ReportTables,
    images: Mapping[str, Image],
    reference: Mapping[str, Mapping[str, Any]],
    influence: pd.DataFrame | None,
    sizes: ScaleTables | None = None,
    doubling: pd.DataFrame | None = None,
    tested: RangeTests | None = None,
) -> Context:
    """Return the values of `report.html.j2`.

    Args:
        images: Name -> figure.
        reference: Model -> safe lr and gains of the control, as in `page.write`.
        influence: How far other rules move the edges; None leaves the section out.
        sizes: Edges against a size; None leaves the section out.
        doubling: How far the edges moved over the last doubling of the steps; None leaves it out.
        tested: Range tests; None leaves them out.
    """
    definition = tables.definition
    return {
        "study": definition.study,
        "rule": definition.study.rule,
        "heading": heading(tables),
        "notes": [
            *trust_notes(tables.runs, tables.definition.study),
            *mixture_notes(tables.every),
            *control_notes(tables.definition, tables.folder, tables.every),
            *reference_notes(tables.definition.study, tables.every, tables.scored, reference),
        ],
        "best": best(tables),
        "claims": claims(tables),
        "divergence": divergence(tables) if len(tables.runs) else None,
        "at_best": best_settings(tables),
        "contrasts": contrasts(tables),
        "influence": rule_influence(tables, influence),
        "scale": scale(sizes),
        "horizon": horizon(tables, doubling),
        "range_tests": None if tested is None else range_tests(tested),
        "cells": cells(tables),
        "missing": missing(tables),
        "control": control(tables.every, reference),
        "configuration": configuration(definition, tables.every),
        "images": images,
        "constant_rmse": {task["name"]: task.get("constant_rmse") for task in tasks_of(definition.data)},
        "frontiers": [name for name in images if name.startswith(FRONTIERS)],
        "other_figures": [name for name in images if name.startswith(OTHER_FIGURES)],
    }


def range_tests(tested: RangeTests) -> Context:
    """What range tests suggest, beside the edges."""
    answers = []
    for of_curve in [] if tested.beside is None else grouped(tested.beside, [*CURVE, *RAMP]).values():
        rows = records(of_curve)
        if words := " ".join(range_text.sentences(rows)):
            answers.append((rows[0]["model"], f"{rows[0]['curve']}, {range_text.ramp_words(rows[0])}", words))
    head = [
        "model",
        "curve",
        "lr of the test",
        "seeds",
        *(h for n in range_text.NAMES.values() for h in (n, "quartiles")),
    ]
    return {
        "name": RANGE_TESTS,
        "answers": answers,
        "table": Table(head=head, rows=range_text.rows(tested.rules), words=3),
    }


def heading(tables: ReportTables) -> Context:
    definition, runs = tables.definition, tables.runs
    facts = definition.data.get("facts", {})
    return {
        "runs": len(runs),
        "source": facts.get("name") or definition.data.get("source", definition.study.data),
        "outcomes": Counter(runs["outcome"]),
        "devices": ", ".join(sorted({str(device) for device in runs["device"].dropna()})),
    }


def best(tables: ReportTables) -> Context | None:
    """The best quality of each method within the risk; None unless the study is a quality search."""
    search, definition = tables.definition.study.search, tables.definition
    if tables.best is None or not isinstance(search, QualitySearch):
        return None
    return {
        "search": search,
        "task": task_of(definition.data, search),
        "table": Table(**_head_and_rows(best_table(tables.best, definition)), words=3),
        "answers": [(row["model"], best_sentence(row, definition)) for row in records(tables.best)],
    }


def claims(tables: ReportTables) -> Context | None:
    """The largest learning rates that can be claimed."""
    found = tables.recommended
    if found.empty:
        return None
    score = quality_words(str(found["quality"].iloc[0]))
    head = ["model", "curve", "claimed up to lr", "diverged", "nominated lr", "diverged there", "its risk, at most"]
    head += ["fresh seeds to claim it", "chance", f"{score} there", "95% interval"]
    by_model = tables.by_model(found)
    return {
        "several": len(by_model) > 1,
        "risk": RISK,
        "confidence": CONFIDENCE,
        "sentences": once(
            [(model, claims_text(found.loc[found["model"] == model])) for model, _ in by_model], tables.models(found)
        ),
        "table": Table(head=head, rows=[_claim(row) for _, rows in by_model for row in rows], words=2),
        "commands": commands(found, "DIR"),
    }


def _claim(row: Mapping[str, Any]) -> list[str]:
    claim, nominated = ["-", "-"], ["-"] * 5
    if row["status"] == CLAIMED:
        claim = [f"{row['lr']:g}", f"{row['k']:g} of {row['n']:g}"]
    if not math.isnan(row["nominated"]):
        tried = f"{row['nominated_k']:g} of {row['nominated_n']:g}" if row["nominated_n"] else "-"
        seeds = "-" if math.isnan(row["more_if_clean"]) else f"{row['more_if_clean']:g}"
        bound, chance = percent(row["nominated_bound"]), percent(row["chance"])
        nominated = [f"{row['nominated']:.3g}", tried, bound, seeds, chance]
    quality = [number(row["quality_median"]), interval(row, "quality_median_low", "quality_median_high", 3)]
    return [row["model"], row["curve"], *claim, *nominated, *quality]


def divergence(tables: ReportTables) -> Context:
    """The edge of each curve."""
    first = tables.first_edges
    answers = [
        (model, [split_answer(row["curve"], sentence(row)) for row in rows]) for model, rows in tables.by_model(first)
    ]
    seeds = min(first["seeds"].tolist())
    return {
        "answers": once(answers, tables.models(first)),
        "lost": once(
            [
                (model, line)
                for model in tables.models(tables.missing)
                for line in missing_sentences(tables.missing.loc[tables.missing["model"] == model], first)
            ],
            tables.models(first),
        ),
        "few_seeds": count(seeds, "seed") if seeds < FEW_SEEDS else None,
        "table": _edges_table(tables),
    }


def _edges_table(tables: ReportTables) -> Table:
    found = {level: {(r["model"], r["curve"]): r for r in records(table)} for level, table in tables.edges.items()}
    head = ["model", "curve", *(h for level in found for h in (f"LR{100 * level:02.3g}", "95% interval")), "seeds"]
    body = []
    for model, rows in tables.by_model(tables.edges[LEVELS[0]]):
        for row in rows:
            at_levels = [of_level[model, row["curve"]] for of_level in found.values()]
            texts = [text for at in at_levels for text in (edge_text(at), edge_span(at))]
            curve = row["curve"] + ("" if row["monotone"] else " (falls again)")
            body.append([model, curve, *texts, str(row["seeds"])])
    return Table(head=head, rows=body, words=2)


def best_settings(tables: ReportTables) -> Table | None:
    """Each method at its best lr and threshold, as Table 2 of the paper."""
    if tables.table2 is None or tables.table2.empty:
        return None
    return Table(**_head_and_rows(as_text(tables.table2, divergence_rates(tables.runs))), words=2)


def _head_and_rows(found: tuple[list[str], list[list[str]]]) -> dict[str, Any]:
    return dict(zip(("head", "rows"), found, strict=True))


def rule_influence(tables: ReportTables, found: pd.DataFrame | None) -> Table | None:
    """How far other rules of divergence move each edge."""
    if found is None or found.empty:
        return None
    rules = dict(zip(found["rule"], found["settings"], strict=True))
    others = [rule for rule in rules if rule != "own"]
    head = ["model", "curve", "LR50", *(h for r in others for h in (f"{r}: {rules[r]}", "times", "runs changed"))]
    body = []
    for model, of_model in tables.by_model(found):
        of_curve: dict[str, dict[str, Mapping[str, Any]]] = {}
        for row in of_model:
            of_curve.setdefault(row["curve"], {})[row["rule"]] = row
        for curve, rows in of_curve.items():
            body.append([model, curve, edge_text(rows["own"]), *(text for r in others for text in _moved(rows[r]))])
    return Table(head=head, rows=body, words=2)


def _moved(row: Mapping[str, Any]) -> list[str]:
    ratio = "-" if math.isnan(row["ratio"]) else f"{row['ratio']:.2f}"
    return [edge_text(row), ratio, f"{row['changed']} of {row['n']}"]


def scale(sizes: ScaleTables | None) -> Context | None:
    """How the edges depend on a size."""
    if sizes is None:
        return None
    rows = [[str(row["model"]), *exponent_row(row)] for row in records(sizes.exponents)]
    several = len(set(sizes.exponents["model"])) > 1
    lines = [
        f"{model}: {line}" if several else line
        for model, own in sizes.by_model()
        for line in size_warnings(own.exponents if own.predictions is None else own.predictions)
    ]
    lines += [too_few_text(sizes.too_few)] if len(sizes.too_few) else []
    table = Table(head=["model", *EXPONENT_HEAD], rows=rows, words=3)
    predicted = None
    if sizes.predictions is not None:
        head, *body = prediction_rows(sizes.axis, sizes.predictions)
        rows = [[str(model), *row] for model, row in zip(sizes.predictions["model"], body, strict=True)]
        predicted = Table(head=["model", *head], rows=rows, words=3)
    return {
        "axis": sizes.axis,
        "sizes": sizes_text(sizes.points),
        "table": table,
        "lines": lines,
        "predictions": predicted,
    }


def horizon(tables: ReportTables, doubling: pd.DataFrame | None) -> Context | None:
    """How far the edges moved over the last doubling of the steps."""
    if doubling is None or doubling.empty:
        return None
    by_model = tables.by_model(doubling)
    every = records(doubling)
    totals = {name: sum(row[name] for row in every) for name in ("runs", "late", "recovered")}
    ends = {name: max(row[name] for row in every) for name in ("steps", "steps_half")}
    return {
        **totals,
        **ends,
        "settled": SETTLED_WITHIN,
        "answers": once(
            [(model, [split_answer(row["curve"], doubling_text(row)) for row in rows]) for model, rows in by_model],
            tables.models(tables.first_edges),
        ),
        "warnings": once(
            [(model, line) for model, rows in by_model for line in horizon_warnings(rows)],
            tables.models(tables.first_edges),
        ),
    }


# The runs


def cells(tables: ReportTables) -> Context | None:
    """All cells; without a table if there are too many."""
    if tables.rates.empty:
        return None
    if len(tables.rates) > MOST_CELLS:
        return {"count": len(tables.rates), "table": None, "binned": False}
    scored = tables.scored
    scores = [f"{kind}_{task['name']}" for task in tasks_of(tables.definition.data) for kind in ("auc", "rmse")]
    bands = ["kept", *(name for name in scores if name in scored)]
    merged = tables.rates.merge(scored[[*CELL, *(f"{b}{e}" for b in bands for e in ("", *BAND))]], on=CELL)
    head = ["model", "curve", "lr", "n", "k", "rate", "95% interval", "undertrained", *(score_text(b) for b in bands)]
    head += ["micro rate", "95% interval"]
    body = [_cell(row, bands) for _, rows in tables.by_model(merged) for row in rows]
    binned = bool(merged["binned"].to_numpy(dtype=bool).any())
    return {"count": len(body), "table": Table(head=head, rows=body, words=2), "binned": binned}


def _cell(row: Mapping[str, Any], bands: Iterable[str]) -> list[str]:
    counts = [lr_text(row), str(row["n"]), str(row["k"]), f"{row['rate']:.2f}", interval(row, "low", "high")]
    values = [f"{number(row[b])} ({interval(row, f'{b}_q10', f'{b}_q90', 3)})" for b in bands]
    micro = [f"{row['micro_rate']:.2f}", interval(row, "micro_low", "micro_high")]
    return [row["model"], row["curve"], *counts, str(row["undertrained"]), *values, *micro]
