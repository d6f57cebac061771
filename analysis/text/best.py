"""Results of a quality search as text: a sentence for each arm, and a table."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records, tasks_of
from analysis.stats.best import quality_search, task_of, tuned_of
from analysis.text.format import aligned, score_text, value_text
from study.record.definition import Definition


def sentence(row: Mapping[str, Any], definition: Definition) -> str:
    """Return a row of `best` as a sentence."""
    search, curve = quality_search(definition), row["curve"]
    if pd.isna(row["lr"]):
        return f"{curve}: 0 of {row['cells']} cells had a divergence rate of at most {search.risk:.2g}; try a lower lr"
    best = f"{curve}: best at {setting(row, definition)}"
    if row["n"] == 0:
        return f"{best} with {row['n_tuned']:.0f} seeds; not judged on fresh seeds yet"
    judged = f"{row['k']} of {row['n']} fresh seeds diverged"
    if row["k"] > search.risk * row["n"]:
        judged += f" ({row['k_tuned']:.0f} of {row['n_tuned']:.0f} in tuning), above the risk of {search.risk:.2g}"
    elif row["bound"] > search.risk:
        judged += f", so the risk is at most {100 * row['bound']:.0f}%"
    parts = [judged, _score(row, task_of(definition.data, search))]
    if row["at_end"]:
        parts.append(f"{row['at_end']} at the end of the range: a wider range may be better")
    return f"{best}: {'; '.join(filter(None, parts))}"


def setting(row: Mapping[str, Any], definition: Definition) -> str:
    """Return the tuned values of a row of `best`: `lr 3.1, rel 0.42, abs 0.018`."""
    names = ["lr", *tuned_of(definition.study).get(str(row["method"]), ())]
    return ", ".join(f"{name} {row[name]:.12g}" for name in names)


def _score(row: Mapping[str, Any], task: str) -> str | None:
    for name in (f"auc_{task}", f"rmse_{task}"):
        if name in row and math.isfinite(row[name]):
            return f"held-out {score_text(name)} {value_text(row, name)}"
    return None


def best_table(table: pd.DataFrame, definition: Definition) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) of text: for each model and arm, medians and 95% intervals of AUC and RMSE."""
    scores = [f"{kind}_{task['name']}" for task in tasks_of(definition.data) for kind in ("auc", "rmse")]
    scores = [name for name in scores if name in table]
    head = ["model", "method", "best at", "diverged", *(score_text(name) for name in scores)]
    rows = []
    for row in records(table):
        tuned = "none within the risk" if pd.isna(row["lr"]) else setting(row, definition)
        judged = f"{row['k']}/{row['n']}" if row["n"] else "-"
        rows.append([str(row["model"]), str(row["curve"]), tuned, judged, *(value_text(row, name) for name in scores)])
    return head, rows


def text(table: pd.DataFrame, definition: Definition) -> str:
    """Return the text for a terminal: the table, and a sentence for each arm."""
    head, rows = best_table(table, definition)
    if not rows:
        return "no runs recorded yet"
    answers = []
    for model in dict.fromkeys(table["model"]):
        of_model = records(table.loc[table["model"] == model])
        answers += ["", f"{model}:", *(f"  {sentence(row, definition)}" for row in of_model)]
    return "\n".join([*aligned([head, *rows]), *answers])
