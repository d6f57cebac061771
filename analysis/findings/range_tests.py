"""Range tests beside edges: how far a suggestion lies from the lr at which half of the runs diverge.

The first folder holds the range tests of all models, as `study range-test` writes them (`tables/range_tests.csv`); the
others are studies of the same curves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.axes import log_axis
from analysis.figures.palette import method_styles
from analysis.findings import published
from analysis.findings.tables import markdown
from analysis.loading import records
from analysis.stats.edges import edges
from analysis.stats.quality import quality
from analysis.stats.range_rules import RULES
from analysis.stats.range_tests import RAMP, beside_edges, grouped, over_seeds
from analysis.stats.rates import divergence_rates
from analysis.text.format import two_digits
from analysis.text.range_tests import DEFAULTS, NAMES, lr_words

AUC = "auc_click"
FILE = "range_tests.csv"
SLOW = {"lr_from": 1e-3, "lr_to": 10.0, "lr_steps": 400}
"""The ramp around the edges."""

SHORT = SLOW | {"lr_steps": 100}
"""The same range in as many steps as the default of both libraries."""

LIGHTNINGS = {"lr_from": 1e-8, "lr_to": 1.0, "lr_steps": 100}
"""The default of Lightning's `lr_find`."""


def beside(folders: Sequence[Path]) -> pd.DataFrame:
    """Return `beside_edges` of the range tests, model by model: LR50, and AUC of click at trained lrs."""
    tests, *studies = folders
    rules, parts = over_seeds(pd.read_csv(tests / FILE)), []
    for study in map(published.read, studies):
        runs, own = study.runs, rules.loc[rules["model"].isin(list(study.runs["model"])).to_numpy()]
        scored = quality(runs, study.definition)
        parts.append(beside_edges(own, divergence_rates(runs), scored, edges(runs, 0.5), AUC, searched=False))
    return pd.concat(parts, ignore_index=True)


def suggestions(folders: Sequence[Path]) -> str:
    """Return each rule's median over the edge, on the ramp SLOW: a row a model and method."""
    table = _of_ramp(beside(folders), SLOW)
    head, lines = ["model", "method", "LR50", *(f"{NAMES[rule]} / LR50" for rule in RULES)], []
    for (model, curve), own in table.groupby(["model", "curve"], sort=False):  # pyright: ignore
        row_of = {row["rule"]: row for row in records(own)}
        edge = own["edge"].iloc[0]
        known = two_digits(edge) if math.isfinite(edge) else "not reached"
        lines.append([model, curve, known, *(_over(row_of[rule]) for rule in RULES)])
    return markdown(head, lines)


def ramps(folders: Sequence[Path]) -> str:
    """Return each rule's median lr for untreated training, by the ramp: a row a model and ramp."""
    table = beside(folders)
    table = table.loc[(table["method"] == "none").to_numpy()]
    head, lines = ["model", "ramp", "steps", "LR50", *(NAMES[rule] for rule in RULES)], []
    for (model, low, high, steps), own in table.groupby(["model", *RAMP], sort=False):  # pyright: ignore
        row_of = {row["rule"]: row for row in records(own)}
        of_rules = [lr_words(row_of[rule]["middle"], high) for rule in RULES]
        lines.append([model, f"{low:g} to {high:g}", str(steps), two_digits(own["edge"].iloc[0]), *of_rules])
    return markdown(head, lines)


def trained(folders: Sequence[Path]) -> str:
    """Return what became of untreated runs near the suggestions of both libraries, beside the best trained lr."""
    table = beside(folders)
    table = table.loc[(table["method"] == "none").to_numpy()]
    head = ["model", "ramp", "of", "suggestion", "nearest trained lr", "diverged there", "AUC there"]
    head, lines = [*head, "best lr", "AUC there", "best lr / suggestion"], []
    for of_model in grouped(table, ["model"]).values():
        for row in records(pd.concat([_of_ramp(of_model, ramp) for ramp in (LIGHTNINGS, SHORT)])):
            if row["rule"] in DEFAULTS:
                whose = [row["model"], f"{row['lr_from']:g} to {row['lr_to']:g}", DEFAULTS[row["rule"]]]
                near = [f"{row['near_lr']:g}", f"{row['near_k']:g} of {row['near_n']:g}", f"{row['near_quality']:.4f}"]
                near = ["-"] * len(near) if math.isnan(row["near_lr"]) else near
                best = [f"{row['best_lr']:g}", f"{row['best_quality']:.4f}", two_digits(row["best_over"])]
                lines.append([*whose, two_digits(row["middle"]), *near, *best])
    return markdown(head, lines)


def span(folders: Sequence[Path]) -> str:
    """Return the lowest and the highest median of each rule, over the edge, by the ramp."""
    table = beside(folders)
    table = table.loc[table["edge"].notna().to_numpy()]
    head, lines = ["ramp", "steps", *(f"{NAMES[rule]} / LR50" for rule in RULES)], []
    for (low, high, steps), own in table.groupby(RAMP, sort=False):  # pyright: ignore
        cells = []
        for rule in RULES:
            of_rule = own.loc[(own["rule"] == rule).to_numpy()]
            over = (of_rule["middle"] / of_rule["edge"]).dropna()
            found = over.loc[over < math.inf]
            most = factor_text(found.max()) if len(found) == len(over) else "never"
            cells.append(f"{factor_text(found.min())} to {most}" if len(found) else "never" if len(over) else "")
        lines.append([f"{low:g} to {high:g}", str(steps), *cells])
    return markdown(head, lines)


def factor_text(factor: float) -> str:
    """Return `2.2`, or `1/230` of a factor below 1."""
    return two_digits(factor) if factor >= 1 else f"1/{two_digits(1 / factor)}"


def _of_ramp(table: pd.DataFrame, ramp: Mapping[str, float]) -> pd.DataFrame:
    same = np.all([table[name] == value for name, value in ramp.items()], axis=0)
    return table.loc[same]


def _over(row: Mapping[str, Any]) -> str:
    """A median and quartiles over the edge; the lrs themselves where no edge is known."""
    unit = row["edge"] if math.isfinite(row["edge"]) else 1.0
    words: Callable[[float], str] = factor_text if unit != 1.0 else two_digits
    if math.isnan(row["middle"]):
        return "none"
    if math.isinf(row["middle"]):
        return "never"
    ends = [words(row[name] / unit) if math.isfinite(row[name]) else "never" for name in ("lower", "upper")]
    return f"{'' if unit != 1.0 else 'lr '}{words(row['middle'] / unit)} ({ends[0]} to {ends[1]})"


def figure(folders: Sequence[Path]) -> Figure:
    """Return the figure of each rule's medians over the edge: a panel a ramp, a mark a model and method."""
    table = beside(folders)
    table = table.loc[table["edge"].notna().to_numpy()]
    styles, models = method_styles(table["method"]), list(dict.fromkeys(table["model"]))
    drawn = Figure(figsize=(9.5, 3.1), layout="constrained")
    every = drawn.subplots(1, 2, sharey=True)
    for ax, ramp in zip(every, (SLOW, LIGHTNINGS), strict=True):
        for row in records(_of_ramp(table, ramp)):
            y = list(RULES).index(row["rule"]) + 0.16 * (models.index(row["model"]) - (len(models) - 1) / 2)
            style = styles[row["method"]]
            if math.isfinite(row["middle"]):
                ax.plot(row["middle"] / row["edge"], y, marker="o", color=style.colour, ms=4.5, ls="")
            elif math.isinf(row["middle"]):
                ax.plot(ramp["lr_to"] / row["edge"], y, marker=">", color=style.colour, ms=5, ls="", mfc="white")
        ax.axvline(1, color="0.4", linewidth=0.9, zorder=0)
        ax.set_title(f"lr {ramp['lr_from']:g} to {ramp['lr_to']:g} in {ramp['lr_steps']:g} steps")
        log_axis(ax, "x")
        ax.set_xlabel("suggestion over LR50")
        ax.grid(axis="x", color="0.92")
    every[0].set_yticks(range(len(RULES)), [NAMES[rule] for rule in RULES])
    every[0].set_ylim(len(RULES) - 0.4, -0.6)
    for method, style in styles.items():
        every[0].plot([], [], marker="o", ls="", color=style.colour, ms=4.5, label=method)
    every[0].plot([], [], marker=">", ls="", color="0.4", mfc="white", ms=5, label="never explodes")
    drawn.legend(loc="outside right center")
    return drawn


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "range_tests": suggestions,
    "range_tests_ramps": ramps,
    "range_tests_span": span,
    "range_tests_trained": trained,
}
