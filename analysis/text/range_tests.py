"""Range tests as text: a table of each curve, and what lies at the two default suggestions."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.loading import CURVE, records
from analysis.stats.range_rules import RULES
from analysis.stats.range_tests import NEAR, RAMP, grouped
from analysis.text.edges import interval_text
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
        lines += [] if beside is None else [f"  {line}" for line in sentences(records(beside_of[key]))]
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


def sentences(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what range tests of a curve and ramp say beside runs at fixed lrs; empty without such runs.

    Args:
        rows: Those of the curve and ramp in `beside_edges` (`with_words`).
    """
    row_of = {row["rule"]: row for row in rows}
    said = [_explosion(row_of["explosion"]), *(_suggestion(row_of[rule], who) for rule, who in DEFAULTS.items())]
    return [line for line in said if line]


DEFAULTS = {"lightning": "Lightning", "valley": "fastai"}
"""Rule -> the library whose default it is."""


def _explosion(row: Mapping[str, Any]) -> str:
    """Where the loss explodes, beside LR50."""
    middle = row["middle"]
    if math.isnan(row["edge"]) or math.isnan(middle):
        return ""
    edge = {"low": row["edge_low"], "high": row["edge_high"]}
    lr50 = f"{two_digits(row['edge'])} ({interval_text(edge)})"
    if math.isinf(middle):
        found, n = row["found"], row["n"]
        said = f"The loss of {found} of {n} seeds explodes" if found else "The loss does not explode"
        return f"{said} up to lr {row['lr_to']:g}. LR50 is {lr50}."
    return f"The loss explodes at lr {two_digits(middle)}, {two_digits(middle / row['edge'])} times LR50, {lr50}."


def _suggestion(row: Mapping[str, Any], who: str) -> str:
    """What became of runs at the lr that a library suggests, and how far the best lr lies from it."""
    middle, near, best = row["middle"], row["near_lr"], row["best_lr"]
    if not math.isfinite(middle) or (math.isnan(near) and math.isnan(best)):
        return ""
    if math.isnan(near):
        said = f"no lr within a factor of {NEAR:g} was trained"
    else:
        score = "" if math.isnan(row["near_quality"]) else f" and {row['quality_words']} is {row['near_quality']:.4g}"
        at = f"trained at lr {near:g}{', the best lr' if near == best else ''}"
        said = f"{row['near_k']:g} of {row['near_n']:g} diverge{score} ({at})"
    known = math.isnan(best) or near == best
    return f"At {who}'s suggestion, lr {two_digits(middle)}, {said}{'' if known else _best_words(row)}."


def _best_words(row: Mapping[str, Any]) -> str:
    """How far the best lr lies from the suggestion."""
    ratio = row["best_over"]
    way = f"{two_digits(ratio)} times as high" if ratio >= 1 else f"{two_digits(1 / ratio)} times lower"
    return f"; the best lr, {row['best_lr']:g}, is {way}"


def with_words(beside: pd.DataFrame, quality: str) -> pd.DataFrame:
    """Return the table with the name of the quality in words."""
    return beside.assign(quality_words=quality_words(quality))


def _quartiles(row: Mapping[str, Any], high: float) -> str:
    if math.isnan(row["middle"]):
        return "-"
    return f"{lr_words(row['lower'], high)} to {lr_words(row['upper'], high)}"
