"""The values of the sections of a report that say how it was measured, for `templates/report.html.j2`."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.loading import cells_of, records, threshold_columns
from analysis.report.answers import Context
from analysis.report.html import Table
from analysis.report.numbers import number, ranges
from analysis.report.tables import ReportTables, missing_runs, planned_count
from study.config import IMPORTED, has_grid, to_json
from study.record.definition import Definition
from study.record.failures import read_failed_runs


def missing(tables: ReportTables) -> Context:
    """Planned runs that are not recorded, by reason, and unreadable record files."""
    study = tables.definition.study
    failed = read_failed_runs(tables.folder, set(tables.every["run_id"]))
    failures = {run.run_id: run.reason for run in failed}
    planned, count, runs = None, len(failures), None
    reasons = Counter(failures.values())
    if study.trainer == IMPORTED and failures:
        rows = [
            {**run.about, "options": json.dumps(run.about["options"], sort_keys=True), "why": run.reason}
            for run in failed
            if run.about
        ]
        runs = _missing_table(pd.DataFrame(rows)) if rows else None
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
        "arms": _arms_table(cells_of(every, definition)),
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
