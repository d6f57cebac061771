"""The paper's Table 2 as rows of text."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.table2 import AGAINST
from analysis.text.format import difference_text, p_text, score_text, value_text

MOST_LRS = 4
"""The most learning rates of a study that each have a column."""


def as_text(table: pd.DataFrame, rates: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return (head, rows) in the layout of the paper.

    A row gives the quality of a model and method, the best lr and thresholds, and the divergence rate at each lr if
    the study has few.

    Args:
        table: `analysis.stats.table2.table2`.
        rates: `analysis.stats.rates.divergence_rates`.
    """
    scores = [name for name in table.columns if name.startswith(QUALITIES) and not name.endswith(ENDS)]
    lrs = sorted(set(rates["lr"]))
    lrs = lrs if len(lrs) <= MOST_LRS else []
    at = {(row["model"], row["curve"], row["lr"]): row for row in records(rates)}
    head = ["model", "method", *(f"{score_text(name)} (95%)" for name in scores), "best at", "seeds that agree"]
    head += [f"diverged at {lr:g}" for lr in lrs] or ["diverged there"]
    paired = bool(table["more"].notna().any())
    head += [f"{score_text(scores[0])} more than {AGAINST} (95%)", "p (Holm)"] if paired else []
    body = []
    for row in records(table):
        thresholds = str(row["curve"]).removeprefix(str(row["method"])).strip()
        best = ", ".join(filter(None, [f"lr {row['lr']:g}", thresholds]))
        cells = [at.get((row["model"], row["curve"], lr)) for lr in lrs] or [row]
        values = [value_text(row, name) for name in scores]
        agreed = f"{round(row['agreed'] * row['seeds'])} of {row['seeds']}"
        more = [difference_text(row, "more"), "" if math.isnan(row["more"]) else p_text(row["more_p_holm"])]
        more = more if paired else []
        body.append([str(row["model"]), str(row["method"]), *values, best, agreed, *map(_of_n, cells), *more])
    return head, body


QUALITIES = ("auc_", "rmse_", "score_", "error_")
ENDS = ("_low", "_high")


def _of_n(row: Mapping[str, Any] | None) -> str:
    return "-" if row is None else f"{row['k']:g}/{row['n']:g} ({row['low']:.2f} to {row['high']:.2f})"
