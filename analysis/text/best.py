"""Results of a search for quality as text: a sentence an arm, and the table of a terminal."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records, tasks_of
from analysis.stats.best import quality_search, task_of, tuned_of
from analysis.text.format import score_text, value_text
from study.record.definition import Definition


def sentence(row: Mapping[str, Any], definition: Definition) -> str:
    """Return a row of `best` as a sentence."""
    search, curve = quality_search(definition), row["curve"]
    if pd.isna(row["lr"]):
        return (
            f"{curve}: none of {row['cells']} cells diverged in at most {search.risk:.2g} of its runs;"
            " a lower lr may hold"
        )
    found = f"{curve}: best at {setting(row, definition)}"
    if row["n"] == 0:
        return f"{found}, by {row['n_tuned']:.0f} seeds; not judged on fresh seeds yet"
    held = f"{row['k']} of {row['n']} fresh seeds diverged"
    if row["k"] > search.risk * row["n"]:
        held += f" (in tuning {row['k_tuned']:.0f} of {row['n_tuned']:.0f}), more than the risk of {search.risk:.2g}"
    elif row["bound"] > search.risk:
        held += f", which bounds the risk at {100 * row['bound']:.0f}%"
    scores = [said] if (said := _score(row, task_of(definition.data, search))) else []
    end = f"; {row['at_end']} lies at the end of its range, and beyond may be better" if row["at_end"] else ""
    return f"{found}: {'; '.join([held, *scores])}{end}"


def setting(row: Mapping[str, Any], definition: Definition) -> str:
    """Return the tuned values of a row of `best`: `lr 3.1, rel 0.42, abs 0.018`."""
    names = ["lr", *tuned_of(definition.study).get(str(row["method"]), ())]
    return ", ".join(f"{name} {row[name]:.12g}" for name in names)


def _score(row: Mapping[str, Any], task: str) -> str | None:
    for name in (f"auc_{task}", f"rmse_{task}"):
        if name in row and math.isfinite(row[name]):
            return f"held-out {score_text(name)} {value_text(row, name)}"
    return None


def best_table(found: pd.DataFrame, definition: Definition) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) of text, a row a model and arm, with the medians and 95% intervals of AUC and RMSE."""
    scores = [f"{kind}_{task['name']}" for task in tasks_of(definition.data) for kind in ("auc", "rmse")]
    scores = [name for name in scores if name in found]
    head = ["model", "method", "best at", "diverged", *(score_text(name) for name in scores)]
    rows = []
    for row in records(found):
        none = pd.isna(row["lr"])
        said = "nothing within risk" if none else setting(row, definition)
        held = f"{row['k']}/{row['n']}" if row["n"] else "-"
        rows.append([str(row["model"]), str(row["curve"]), said, held, *(value_text(row, name) for name in scores)])
    return head, rows


def text(found: pd.DataFrame, definition: Definition) -> str:
    """Return what a terminal shows: the table, and a sentence an arm."""
    head, rows = best_table(found, definition)
    if not rows:
        return "no runs recorded yet"
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in (head, *rows)]
    said = []
    for model in dict.fromkeys(found["model"]):
        of_model = records(found.loc[found["model"] == model])
        said += ["", f"{model}:", *(f"  {sentence(row, definition)}" for row in of_model)]
    return "\n".join([*lines, *said])
