"""Range tests of a study: what each says, over seeds, and beside what runs at fixed lrs showed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, curves_of_arms, in_order, records, threshold_columns, with_defaults
from analysis.stats.quality import lower_is_better
from analysis.stats.range_rules import RULES
from study.record.schema import threshold_column

RAMP = ["lr_from", "lr_to", "lr_steps"]
"""Columns that name the ramp of a range test."""

NEAR = 2.0
"""How far the nearest trained lr may lie from a suggestion to stand for it, as a factor."""


def with_curves(
    tests: pd.DataFrame, runs: pd.DataFrame, defaults: Mapping[str, float], methods: Sequence[str]
) -> pd.DataFrame:
    """Return the range tests with the column `curve`, in the order of tables.

    Args:
        tests: `study.record.range_tests.read_range_tests`, of one setting.
        runs: One row a run, with the column `curve`: arms that stand there have the same curve here.
        defaults: As in `analysis.loading.with_defaults`.
        methods: Of the study, in its order.
    """
    arms = [
        {threshold_column(name): value for name, value in json.loads(row["thresholds"]).items()}
        | {"method": row["method"], "options": row["options"]}
        for row in records(tests)
    ]
    of_test = pd.DataFrame(arms)
    if len(runs):
        of_test = of_test.reindex(columns=[*of_test, *(n for n in threshold_columns(runs) if n not in of_test)])
        defaults = {name: value for name, value in defaults.items() if threshold_column(name) in runs}
    curves = curves_of_arms(with_defaults(of_test, defaults), runs)
    tests = tests.assign(curve=curves).sort_values([*RAMP, "seed"])
    rank = {method: i for i, method in enumerate(dict.fromkeys(methods))}
    return in_order(tests.sort_values("method", key=lambda own: own.map(rank), kind="stable"))


def readings(tests: pd.DataFrame) -> pd.DataFrame:
    """Return what each rule reads off each range test, in the order of `tests` (`with_curves`).

    Returns:
        Columns model, curve, method, `RAMP`, seed, and one for each of `RULES`: an lr; inf where the loss never
        explodes, NaN where a rule suggests nothing.
    """
    read = [{name: rule(row["step_lr"], row["loss"]) for name, rule in RULES.items()} for row in records(tests)]
    lrs = pd.DataFrame(read, columns=list(RULES), index=tests.index)
    return pd.concat([tests[[*CURVE, "method", *RAMP, "seed"]], lrs], axis=1)


def over_seeds(read: pd.DataFrame) -> pd.DataFrame:
    """Return the median and the quartiles of each rule over the seeds of a curve and ramp.

    Returns:
        Columns model, curve, method, `RAMP`, rule, n (seeds), found (seeds with an lr), middle, lower, upper. A seed
        whose loss never explodes counts as above the ramp: middle or upper is then inf. Seeds without a suggestion are
        left out.
    """
    rows, names = [], [*CURVE, "method", *RAMP]
    for key, of_curve in grouped(read, names).items():
        same = dict(zip(names, key, strict=True))
        for rule in RULES:
            lrs = of_curve[rule].to_numpy(dtype=float)
            lrs = np.sort(lrs[~np.isnan(lrs)])
            ends = {name: quantile(lrs, share) for name, share in QUARTILES.items()}
            rows.append(same | {"rule": rule, "n": len(of_curve), "found": int(np.isfinite(lrs).sum())} | ends)
    return pd.DataFrame(rows, columns=pd.Index([*names, "rule", "n", "found", *QUARTILES]))


QUARTILES = {"middle": 0.5, "lower": 0.25, "upper": 0.75}


def quantile(values: np.ndarray, share: float) -> float:
    """Return a quantile of sorted lrs, on the scale of their logarithm. inf where it falls beside an infinite one."""
    if not len(values):
        return math.nan
    at = share * (len(values) - 1)
    below, above = float(values[math.floor(at)]), float(values[math.ceil(at)])
    return below if below == above else below * (above / below) ** (at - math.floor(at))


def grouped(table: pd.DataFrame, names: Sequence[str]) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Return the distinct values of some columns, in the order of the table, each with its rows."""
    groups: Any = table.groupby(list(names), sort=False)
    return dict(iter(groups))


def beside_edges(
    rules: pd.DataFrame,
    rates: pd.DataFrame,
    scored: pd.DataFrame,
    edges: pd.DataFrame,
    quality: str,
    *,
    searched: bool,
) -> pd.DataFrame:
    """Return the rules of `over_seeds` beside what was trained at fixed lrs.

    Args:
        rules: `over_seeds`.
        rates, scored, edges: `divergence_rates`, `quality` and `edges` of the study, the edges at one level.
        quality: The column of held-out quality.
        searched: Whether the study is a search of edges, which trains few runs at lrs of good quality.

    Returns:
        The columns of `rules`, and: edge, edge_low, edge_high (with its interval; NaN unless reached), edge_over (edge
        over middle), near_lr (the nearest trained lr, NaN if none lies within a factor of `NEAR` of the middle), near_k
        and near_n (its diverged runs, of all), near_quality (its median), best_lr and best_quality (of the best median;
        NaN if `searched`, or of bins), best_over (best_lr over middle). What is over an infinite middle is NaN.
    """
    reached = {(row["model"], row["curve"]): row for row in records(edges) if row["status"] == "reached"}
    rates_of, scored_of = grouped(rates, CURVE), grouped(scored, CURVE)
    best_of = {} if searched else {key: _best(of_curve, quality) for key, of_curve in scored_of.items()}
    rows = []
    for row in records(rules):
        middle, key = row["middle"], (row["model"], row["curve"])
        edge, low, high = (reached.get(key, {}).get(name, math.nan) for name in ("edge", "low", "high"))
        best_lr, best = best_of.get(key, (math.nan, math.nan))
        over = middle if math.isfinite(middle) else math.nan
        rows.append(
            row
            | {"edge": edge, "edge_low": low, "edge_high": high, "edge_over": edge / over}
            | _near(rates_of.get(key, rates.head(0)), scored_of.get(key, scored.head(0)), middle, quality)
            | {"best_lr": best_lr, "best_quality": best, "best_over": best_lr / over}
        )
    return pd.DataFrame(rows, columns=pd.Index([*rules.columns, *BESIDE]))


BESIDE = [
    *("edge", "edge_low", "edge_high", "edge_over"),
    *("near_lr", "near_k", "near_n", "near_quality"),
    *("best_lr", "best_quality", "best_over"),
]


def _near(rates: pd.DataFrame, scored: pd.DataFrame, lr: float, quality: str) -> dict[str, Any]:
    missing = {"near_lr": math.nan, "near_k": math.nan, "near_n": math.nan, "near_quality": math.nan}
    if not len(rates) or not math.isfinite(lr):
        return missing
    away = np.abs(np.log(rates["lr"].to_numpy(dtype=float) / lr))
    if away.min() > math.log(NEAR):
        return missing
    near = rates.iloc[int(away.argmin())]
    at = scored.loc[scored["lr"] == near["lr"]]
    value = float(at[quality].iloc[0]) if quality in at and len(at) else math.nan
    return {"near_lr": near["lr"], "near_k": near["k"], "near_n": near["n"], "near_quality": value}


def _best(scored: pd.DataFrame, quality: str) -> tuple[float, float]:
    """The lr of the best median quality, the lowest of equals, and that quality; NaN of bins, or without any."""
    if quality not in scored or scored["binned"].to_numpy(dtype=bool).any():
        return math.nan, math.nan
    known = scored.loc[np.isfinite(scored[quality].to_numpy(dtype=float))].sort_values("lr")
    if known.empty:
        return math.nan, math.nan
    values = known[quality].to_numpy(dtype=float)
    at = int(np.argmin(values) if lower_is_better(quality) else np.argmax(values))
    return float(known["lr"].iloc[at]), float(values[at])
