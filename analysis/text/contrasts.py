"""Contrasts as text: ratios and intervals for a table, and a sentence for each planned contrast."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.contrasts import AT_LEAST, AT_MOST, UNDECIDED
from analysis.stats.intervals import CONFIDENCE
from analysis.stats.quality import lower_is_better
from analysis.text.format import p_text, quality_words, span_text, two_digits
from study.text.wording import count


def ratio_text(row: Mapping[str, Any]) -> str:
    """Return a ratio for a table: `2.7`, `> 4.4`, `< 0.5`, `?`."""
    if not math.isnan(row["ratio"]):
        return two_digits(row["ratio"])
    if row["status"] == AT_LEAST:
        return f"> {two_digits(row['low'])}"
    return f"< {two_digits(row['high'])}" if row["status"] == AT_MOST else "?"


def sentences(table: pd.DataFrame, against: Sequence[str] = ("none",), *, quality: bool = True) -> list[str]:
    """Return a sentence for each planned contrast of one model, or why there is none.

    Args:
        table: Rows of `analysis.stats.contrasts.contrasts`, of one model.
        against: The methods that the others are compared with (`study.config.comparators`).
        quality: Whether to add the difference in quality.
    """
    planned = records(table.loc[table["planned"].astype(bool)])
    if planned:
        return [_sentence(row) + (_quality_words(row) if quality else "") for row in planned]
    if set(against) & (set(table["method"]) | set(table["against"])):
        return [f"only the method {' or '.join(against)} was run: there is nothing to compare it with."]
    return [
        f"the study has no runs of {' or '.join(against)}: methods are only compared with each other, without a claim."
    ]


def _sentence(row: Mapping[str, Any]) -> str:
    seeds = count(row["pairs"], "paired seed")
    if row["pairs"] != max(row["seeds"], row["seeds_against"]):
        seeds = f"{row['seeds']} and {row['seeds_against']} seeds, {row['pairs']} in common"
    basis = f"{seeds}, p {p_text(row['p_holm'])}"
    significant = row["p_holm"] <= 1 - CONFIDENCE
    if not significant and (row["low"] > 1 or row["high"] < 1):  # the interval is of this contrast alone
        answer = f"no significant difference in LR50 after Holm's correction (ratio {ratio_text(row)}; {basis})"
        return f"{row['curve']} against {row['against']}: {answer}.{_rest(row)}"
    if row["status"] == UNDECIDED:
        answer = f"the lrs tried do not determine the ratio of LR50 ({basis})"
    elif not math.isnan(row["ratio"]):
        interval = span_text(row["low"], row["high"])
        answer = f"LR50 is {two_digits(row['ratio'])} times as high (95% interval {interval}; {basis})"
    else:
        end, side = (row["low"], "more") if row["status"] == AT_LEAST else (row["high"], "less")
        answer = f"LR50 is {side} than {two_digits(end)} times as high (95% confidence; {basis})"
    verdict = "" if significant else ": no significant difference"
    return f"{row['curve']} against {row['against']}: {answer}{verdict}.{_rest(row)}"


def _rest(row: Mapping[str, Any]) -> str:
    text = ""
    if not row["monotone"]:
        text += " A rate falls again at a higher lr: the interval comes from model-free bounds, without p."
    if row["lr_named"]:
        text += (
            f" At lr {row['lr']:g}, chosen before its {row['lr_pairs']} seeds were trained, {row['lr_only']} diverged "
            f"only with {row['curve']}, {row['lr_only_against']} only with {row['against']} "
            f"(p {p_text(row['lr_p_holm'])})."
        )
    return text


def _quality_words(row: Mapping[str, Any]) -> str:
    if row["difference_pairs"] < 2:
        return ""
    low, high = row["difference_low"], row["difference_high"]
    better = (low > 0) != lower_is_better(str(row["quality"]))
    verdict = ("better" if better else "worse") if low > 0 or high < 0 else "no significant difference"
    return (
        f" {quality_words(str(row['quality']))}, each at its own best lr: {row['difference']:+.3g} "
        f"(95% interval {low:+.3g} to {high:+.3g}), {verdict}."
    )
