"""The values of each section of a report, for `templates/report.html.j2`.

A function returns None if its section is left out.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from analysis.loading import CELL, cells_of, read_family, records, tasks_of, threshold_columns
from analysis.report.html import Image, Table
from analysis.report.range_tests import NAME as RANGE_TESTS
from analysis.report.range_tests import RangeTests
from analysis.report.tables import LEVELS, ReportTables, missing_runs, planned_count
from analysis.stats.best import task_of
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.quality import BAND
from analysis.stats.rates import divergence_rates
from analysis.stats.recommend import CLAIMED, RISK
from analysis.stats.scale import ScaleTables
from analysis.text import range_tests as range_text
from analysis.text.best import best_table
from analysis.text.best import sentence as best_sentence
from analysis.text.contrasts import ratio_text, sentences
from analysis.text.control import control_notes
from analysis.text.edges import edge_span, edge_text, sentence
from analysis.text.format import lr_text, p_text, percent, quality_words, score_text, span_text
from analysis.text.missing import sentences as missing_sentences
from analysis.text.mixture import mixture_notes
from analysis.text.recommend import commands, headroom_text
from analysis.text.report import claims_text, trust_notes
from analysis.text.scale import EXPONENT_HEAD, doubling_text, exponent_row, horizon_warnings, sizes_text, too_few_text
from analysis.text.scale import warnings as size_warnings
from analysis.text.table2 import as_text
from study.config import IMPORTED, QualitySearch, comparators, has_grid, to_json
from study.record.definition import Definition, RecordError
from study.record.failures import read_failures
from study.text.wording import count

Context = dict[str, Any]
Said = TypeVar("Said")
Answers = list[tuple[str, list[tuple[str, str]]]]
"""For each model: (curve, rest of its sentence) pairs."""

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


# The answers


def once(of_models: list[tuple[str, Said]], models: Sequence[str]) -> list[tuple[str, Said]]:
    """Return what is said of each model, with what several have in common once: under all of their names.

    Args:
        of_models: Model, and what is said of it. A model may be there several times, or not at all.
        models: All that the page has.
    """
    said = list[tuple[list[str], Any]]()
    for model, words in of_models:
        alike = next((names for names, known in said if known == words), None)
        if alike is None:
            said.append(([model], words))
        else:
            alike.append(model)
    every = f"all {len(models)} models"
    return [(every if len(names) == len(models) > 1 else ", ".join(names), words) for names, words in said]


def range_tests(tested: RangeTests) -> Context:
    """What range tests suggest, beside the edges."""
    of_curves = []
    for row in records(tested.rules if tested.beside is None else tested.beside):
        words = "" if tested.beside is None else range_text.sentence(row)
        of_curves.append((row["model"], f"{row['curve']}, {range_text.ramp_words(row)}", words))
    head = [
        "model",
        "curve",
        "lr of the test",
        "seeds",
        *(h for n in range_text.NAMES.values() for h in (n, "quartiles")),
    ]
    return {
        "name": RANGE_TESTS,
        "answers": [(model, curve, words) for model, curve, words in of_curves if words],
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
    answers = [(model, [_split(row["curve"], sentence(row)) for row in rows]) for model, rows in tables.by_model(first)]
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


def _split(curve: str, line: str) -> tuple[str, str]:
    """Split a sentence into the curve that it starts with and the rest."""
    return str(curve), line[len(str(curve)) :]


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
        answers.append((model, [_split(curve, line) for curve, line in zip(curves, lines, strict=True)]))
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
    lines = [line for _, own in sizes.by_model() for line in size_warnings(own.exponents)]
    lines += [too_few_text(sizes.too_few)] if len(sizes.too_few) else []
    table = Table(head=["model", *EXPONENT_HEAD], rows=rows, words=3)
    return {"axis": sizes.axis, "sizes": sizes_text(sizes.points), "table": table, "lines": lines}


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
        "answers": once(
            [(model, [_split(row["curve"], doubling_text(row)) for row in rows]) for model, rows in by_model],
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


def missing(tables: ReportTables) -> Context:
    """Planned runs that are not recorded, by reason, and unreadable record files."""
    study = tables.definition.study
    failures = read_failures(tables.folder, set(tables.every["run_id"]))
    planned, count, runs = None, len(failures), None
    reasons = Counter(failures.values())
    if study.trainer == IMPORTED and failures:
        lacking = missing_runs(tables.definition, tables.every)
        lacking = lacking.loc[lacking["run_id"].isin(list(failures))]
        runs = _missing_table(lacking.assign(why=lacking["run_id"].map(failures)))
    elif has_grid(study):
        lacking = missing_runs(tables.definition, tables.every)
        why = [failures.get(run, "not run yet") for run in lacking["run_id"]]
        planned, count, reasons = planned_count(study), len(lacking), Counter(why)
        runs = _missing_table(lacking.assign(why=why)) if count else None
    return {
        "imported": study.trainer == IMPORTED,
        "planned": planned,
        "count": count,
        "reasons": _reasons_table(reasons) if reasons else None,
        "runs": runs,
        "set_aside": sorted(path.name for path in Path(tables.folder / "set_aside").glob("*")),
    }


def _reasons_table(reasons: Counter[str]) -> Table:
    rows = [[reason, f"{n:,}"] for reason, n in reasons.most_common()]
    return Table(head=["reason", "runs"], rows=rows, words=1)


def _missing_table(lacking: pd.DataFrame) -> Table:
    """Missing runs by model, arm and reason."""
    rows = []
    for key, group in lacking.groupby(["model", "method", "options", "why"], sort=False):
        model, method, options, why = (str(part) for part in key)  # pyright: ignore[reportGeneralTypeIssues]
        arm = f"{method} {options}" if options != "{}" else method
        lrs = ", ".join(f"{lr:g}" for lr in sorted(set(group["lr"])))
        rows.append([model, arm, lrs, ranges(group["seed"]), str(len(group)), why])
    return Table(head=["model", "method", "lr", "seeds", "runs", "reason"], rows=rows, words=2)


# How it was measured


def control(every: pd.DataFrame, reference: Mapping[str, Mapping[str, Any]]) -> Context:
    """The control: its safe lr and gain, and its runs."""
    runs = every.loc[every["role"] == "control"]
    rows = []
    for key, group in runs.groupby(["model", "lr"], sort=True):
        model, lr = key  # pyright: ignore[reportGeneralTypeIssues]
        loss = pd.Series(group["final_loss"]).astype(float)
        shown = "-" if loss.isna().all() else number(float(loss.median()), 4)
        rows.append([str(model), f"{lr:g}", str(len(group)), shown])
    table = Table(head=["model", "lr", "runs", "final loss, median"], rows=rows, words=1) if rows else None
    return {"models": [_reference(model, values) for model, values in reference.items()], "table": table}


def _reference(model: str, values: Mapping[str, Any]) -> Context:
    prefix = "gain_"
    gains = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix) and v is not None}
    per_task = ", ".join(f"{task} {number(float(gain), 4)}" for task, gain in gains.items()) if len(gains) > 1 else ""
    return {"model": model, "lr": f"{values['lr']:g}", "gain": f"{float(values['gain']):.4f}", "per_task": per_task}


def configuration(definition: Definition, every: pd.DataFrame) -> Context:
    """Versions, arms, the study and its data."""
    made_by = ", ".join(sorted({str(version) for version in every["version"].dropna()}))
    versions = definition.versions | {"runs made by version": made_by}
    rows = [[name, str(version)] for name, version in versions.items() if version]
    plans = [list(plan) for plan in definition.plans]
    return {
        "versions": Table(head=["part", "version"], rows=rows, words=2),
        "arms": _arms_table(cells_of(every, definition.study)),
        "plans": Table(head=["fixed at", "SHA-256 of the plan"], rows=plans, words=2) if plans else None,
        "study": json_by_line(to_json(definition.study)),
        "data": json_by_line(definition.data),
    }


def _arms_table(runs: pd.DataFrame) -> Table | None:
    """Each curve's thresholds and options, defaults included."""
    thresholds = threshold_columns(runs)
    rows = []
    for row in records(runs.drop_duplicates("curve")):
        values = [f"{name} = {row[name]:g}" for name in thresholds if pd.notna(row[name])]
        options = json.loads(row["options"]) if isinstance(row["options"], str) else {}
        rows.append([row["curve"], ", ".join(values + [f"{k} = {v}" for k, v in options.items()]) or "-"])
    return Table(head=["curve", "thresholds and options"], rows=rows, words=2) if rows else None


def json_by_line(values: Mapping[str, Any]) -> str:
    """Return JSON with one line a key, and one line for each object in a list."""
    lines = []
    for key in sorted(values):
        value = values[key]
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            items = ",\n".join(f"  {json.dumps(item, sort_keys=True)}" for item in value)
            lines.append(f'"{key}": [\n{items}\n ]')
        else:
            lines.append(f'"{key}": {json.dumps(value, sort_keys=True)}')
    return "{\n " + ",\n ".join(lines) + "\n}"


# Numbers


def number(value: float, digits: int = 3) -> str:
    """Return a number with its digits; `-` if it is missing, `inf` and `-inf` as they are."""
    return f"{value:.{digits}f}" if math.isfinite(value) else ("-" if math.isnan(value) else f"{value:g}")


def interval(row: Mapping[str, Any], low: str, high: str, digits: int = 2) -> str:
    """Return `0.12 to 0.34`; `-` if both ends are missing."""
    if math.isnan(row[low]) and math.isnan(row[high]):
        return "-"
    return f"{number(row[low], digits)} to {number(row[high], digits)}"


def signed(value: float) -> str:
    """Return a difference with its sign and four digits; `-` if it is missing."""
    return f"{value:+.4f}" if math.isfinite(value) else "-"


def ranges(values: Iterable[int]) -> str:
    """Return 0, 1, 2, 5 as `0-2, 5`."""
    ordered = np.unique(np.fromiter(values, dtype=int))
    spans = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(f"{span[0]}" if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
