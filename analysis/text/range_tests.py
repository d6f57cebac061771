"""Range tests as text: a table of each curve, and one sentence for each suggestion beside the trained lrs."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import CURVE, records
from analysis.stats.range_rules import RULES
from analysis.stats.range_tests import NEAR, RAMP, grouped
from analysis.text.format import aligned, quality_words, two_digits
from study.text.wording import count

NAMES = {
    "explosion": "loss explodes",
    "lightning": "Lightning",
    "valley": "fastai valley",
    "steep": "fastai steep",
    "minimum": "fastai minimum/10",
}
"""Rule -> its name in tables and figures."""

MOST_SEEDS = 16
"""Seeds of a curve that are printed one by one."""


def lr_words(lr: float, high: float) -> str:
    """Return an lr of a rule: `0.0028`, `> 10` where the loss never explodes up to there, `-` where there is none."""
    if math.isnan(lr):
        return "-"
    return f"> {high:g}" if math.isinf(lr) else two_digits(lr)


def text(read: pd.DataFrame, rules: pd.DataFrame, beside: pd.DataFrame | None) -> str:
    """Return the range tests as a terminal prints them.

    Args:
        read: `analysis.stats.range_tests.readings`.
        rules: `over_seeds` of them.
        beside: `beside_edges`; None where no run is recorded.
    """
    names, parts = [*CURVE, *RAMP], []
    rules_of, beside_of = grouped(rules, names), {} if beside is None else grouped(beside, names)
    for key, of_curve in grouped(read, names).items():
        of_rules = {row["rule"]: row for row in records(rules_of[key])}
        seeds = records(of_curve)
        first, high = seeds[0], seeds[0]["lr_to"]
        rows = [["seed", *(NAMES[rule] for rule in RULES)]]
        rows += [[str(row["seed"]), *(lr_words(row[rule], high) for rule in RULES)] for row in seeds[:MOST_SEEDS]]
        rows.append(["median", *(lr_words(of_rules[rule]["middle"], high) for rule in RULES)])
        rows.append(["quartiles", *(_quartiles(of_rules[rule], high) for rule in RULES)])
        lines = [f"{first['model']}, {first['curve']}: {ramp_words(first)}, {count(len(seeds), 'seed')}"]
        lines += [f"  {line}" for line in aligned(rows)]
        said = [] if beside is None else map(sentence, records(beside_of[key]))
        lines += [f"  {line}" for line in said if line]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def rows(rules: pd.DataFrame) -> list[list[str]]:
    """Return the row of each curve and ramp in the table of a report: each rule with its quartiles."""
    found = []
    for of_curve in grouped(rules, [*CURVE, *RAMP]).values():
        of_rules = {row["rule"]: row for row in records(of_curve)}
        first = of_rules["explosion"]
        high, n = first["lr_to"], str(first["n"])
        lrs = [
            word
            for rule in RULES
            for word in (lr_words(of_rules[rule]["middle"], high), _quartiles(of_rules[rule], high))
        ]
        found.append([first["model"], first["curve"], ramp_words(first), n, *lrs])
    return found


def ramp_words(row: Mapping[str, Any]) -> str:
    """Return `lr 0.001 to 10 in 400 steps`."""
    return f"lr {row['lr_from']:g} to {row['lr_to']:g} in {row['lr_steps']} steps"


def sentence(row: Mapping[str, Any]) -> str:
    """Return what a row of `beside_edges` says beside the runs at fixed lrs; "" if nothing was trained near it."""
    middle = row["middle"]
    if not math.isfinite(middle):
        return ""
    if row["rule"] == "explosion":
        if math.isnan(row["edge"]):
            return ""
        return f"The loss explodes at {two_digits(middle / row['edge'])} times the edge of runs at a fixed lr."
    whose = "At Lightning's suggestion" if row["rule"] == "lightning" else f"At the suggestion of {NAMES[row['rule']]}"
    best = _best_words(row)
    if math.isnan(row["near_lr"]):
        return f"{whose}, lr {two_digits(middle)}, no lr within a factor of {NEAR:g} was trained{best}." if best else ""
    score = "" if math.isnan(row["near_quality"]) else f", and {row['quality_words']} is {row['near_quality']:.4g}"
    return (
        f"{whose}, lr {two_digits(middle)}, {row['near_k']:g} of {row['near_n']:g} diverge{score} "
        f"(at lr {row['near_lr']:g}, the nearest trained){best}."
    )


def _best_words(row: Mapping[str, Any]) -> str:
    """Return how far the best lr lies from the suggestion."""
    ratio = row["best_over"]
    if math.isnan(ratio):
        return ""
    if ratio >= 1:
        return f"; the best trained lr, {row['best_lr']:g}, is {two_digits(ratio)} times as high"
    return f"; the best trained lr, {row['best_lr']:g}, is {two_digits(1 / ratio)} times as low"


def with_words(beside: pd.DataFrame, quality: str) -> pd.DataFrame:
    """Return the table with the name of the quality in words."""
    return beside.assign(quality_words=quality_words(quality))


def _quartiles(row: Mapping[str, Any], high: float) -> str:
    if math.isnan(row["middle"]):
        return "-"
    return f"{lr_words(row['lower'], high)} to {lr_words(row['upper'], high)}"
