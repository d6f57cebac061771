"""Frontiers: the edge of each method as its threshold moves, and quality against P(divergence).

A *line* is the curves of one model and method that differ in one threshold alone. A method with two thresholds has
lines in both; a curve where lines cross (Clippy at its defaults) is in each of them.

The Pareto front of quality and stability is the cells that no other cell beats: none has a lower rate of divergence
without a lower quality, none a higher quality without a higher rate (V. Pareto, Manuale di economia politica, 1906).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CELL, CURVE, method_order, records, threshold_columns, with_curves
from analysis.stats.edges import EDGE_COLUMNS, edges, fits
from analysis.stats.quality import BAND, lower_is_better, quality_column
from analysis.stats.quality import quality as quality_of_cells
from analysis.stats.rates import BINS, divergence_rates, in_bins
from study.record.definition import Definition

CONTOURS = (0.05, 0.5, 0.95)
"""Levels of P(divergence) that are drawn in a map of lr and threshold."""

LINE = ["threshold", "held", "value"]


def frontier(runs: pd.DataFrame, level: float = 0.5, fitted: Mapping | None = None) -> pd.DataFrame:
    """Return the edge of every curve by the threshold that varies.

    Args:
        runs: One row a run (`analysis.load`).
        level: P(divergence) at the edge.
        fitted: `edges.fits(runs)`; computed if None. Several levels can share it.

    Returns:
        One row a point of a line; columns model, curve; threshold (its name), held (the other values that vary in the
        study and are constant along the line, `abs=0.01`, or ""), value (of the threshold); the columns of
        `edges.edges` from edge to steps; method. A curve in no line, such as `none` or a loop's arm without the
        option that varies, has one row with threshold "" and value NaN.

    Raises:
        ValueError: Unless 0 < level < 1.
    """
    runs = with_curves(runs)
    table = edges(runs, level, fitted)
    columns = [*CURVE, *LINE, *EDGE_COLUMNS, "level", "steps", "method"]
    return _in_order(_with_lines(table, runs).loc[:, columns])


def contours(runs: pd.DataFrame, fitted: Mapping | None = None) -> pd.DataFrame:
    """Return `frontier` at each of `CONTOURS`, one below the other: the lrs at which P(divergence) crosses them."""
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    return pd.concat([frontier(runs, level, fitted) for level in CONTOURS], ignore_index=True)


def threshold_map(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of every line: lr by threshold.

    Returns:
        One row a cell of a line; columns as `frontier` up to value, then lr, n, k, rate, low, high, binned, lr_min,
        lr_max (`rates.divergence_rates`, of `rates.in_bins`), method. Curves in no line are left out.
    """
    runs = with_curves(runs)
    rates = _with_lines(divergence_rates(in_bins(runs)), runs)
    columns = [*CURVE, *LINE, "lr", "n", "k", "rate", "low", "high", *BINS, "method"]
    return _in_order(rates.loc[rates["threshold"] != "", columns])


def tradeoff(runs: pd.DataFrame, definition: Definition, quality: str | None = None) -> pd.DataFrame:
    """Return held-out quality against P(divergence) of every cell, and the Pareto front of each model.

    Args:
        runs: One row a run (`analysis.load`). Cells are those of `rates.in_bins`.
        quality: A column of `analysis.stats.quality`, such as auc_click or rmse_play; the first task's if None.

    Returns:
        One row a cell; columns model, curve, lr, n, k, rate, low, high (P(divergence) with its 95% Wilson interval),
        quality, quality_q10, quality_q90 (median over seeds, and their 10% and 90% quantiles; a diverged run is the
        worst result), pareto, measure (the name of the quality), binned, lr_min, lr_max, method, <thresholds>,
        options. A cell whose quality is NaN is on no front.

    Raises:
        ValueError: If there is no such quality; the message lists those that exist.
    """
    shown = in_bins(with_curves(runs))
    rates, scored = divergence_rates(shown), quality_of_cells(shown, definition)
    kept = [name for name in scored if name.split("_")[0] == "kept" and f"{name}_q10" in scored]
    measure = quality_column(definition, quality, kept)
    bands = {f"{measure}{end}": f"quality{end}" for end in ("", *BAND)}
    # A study without runs has no columns of quality, and no types.
    scored = scored.reindex(columns=[*CELL, *bands]).rename(columns=bands).astype({"lr": "float64"})
    own, same = [*CELL, "n", "k", "rate", "low", "high"], ["method", *threshold_columns(shown), "options"]
    table = rates[[*own, *BINS, *same]].merge(scored, on=CELL, validate="one_to_one").assign(measure=measure)
    front = pd.Series(False, index=table.index)
    for _, of_model in table.groupby("model"):
        good = of_model["quality"].to_numpy(dtype=float) * (-1 if lower_is_better(measure) else 1)
        front[of_model.index] = pareto(good, of_model["rate"].to_numpy(dtype=float))
    return pd.DataFrame(table.assign(pareto=front)[[*own, *bands.values(), "pareto", "measure", *BINS, *same]])


def pareto(quality: Sequence[float] | np.ndarray, rate: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return which of N points no other dominates, (N,) bool.

    A point dominates another if its quality is at least as high and its rate at least as low, one of them strictly.
    Equal points are on the front together. A point with NaN is not on it and dominates nothing.
    """
    quality, rate = np.asarray(quality, dtype=float), np.asarray(rate, dtype=float)
    front = np.zeros(len(quality), dtype=bool)
    valid = np.flatnonzero(~np.isnan(quality) & ~np.isnan(rate))
    best = None
    for i in valid[np.lexsort((-quality[valid], rate[valid]))]:
        here = (quality[i], rate[i])
        if best is None or here == best or quality[i] > best[0]:
            front[i], best = True, here
    return front


def _with_lines(table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The table with the columns of LINE; a curve's row occurs once for every line that contains it."""
    return table.merge(_lines(runs), on=CURVE, how="left", validate="many_to_many")


def _lines(runs: pd.DataFrame) -> pd.DataFrame:
    """Columns model, curve and LINE: every curve in each of its lines, or with threshold "" if it has none."""
    names = threshold_columns(runs)
    rows = []
    for _, arms in runs.drop_duplicates(CURVE).groupby(["model", "method"], sort=False):
        values = {row["curve"]: _values(row, names) for row in records(arms)}
        varied = [key for key in _keys(values) if len({own.get(key) for own in values.values()}) > 1]
        model = arms["model"].iloc[0]
        inside = set()
        for name in (key for key in varied if key in names):
            others = [key for key in varied if key != name]
            groups: dict[str, list[str]] = {}
            # A loop's arm may have no value on the axis: older versions kept no defaults, and `**options` has none.
            for curve, own in ((curve, own) for curve, own in values.items() if name in own):
                held = ", ".join(f"{key}={own[key]}" for key in others if key in own)
                groups.setdefault(held, []).append(curve)
            for held, curves in groups.items():
                if len(curves) < 2:
                    continue
                inside |= set(curves)
                rows += [(model, curve, name, held, float(values[curve][name])) for curve in curves]
        rows += [(model, curve, "", "", np.nan) for curve in values if curve not in inside]
    return pd.DataFrame(rows, columns=pd.Index([*CURVE, *LINE])).astype({"value": "float64"})


def _values(row: Mapping[str, Any], thresholds: Sequence[str]) -> dict[str, str]:
    """Thresholds and options of a run, as text."""
    own = {name: f"{row[name]:.12g}" for name in thresholds if pd.notna(row[name])}
    return own | {key: str(value) for key, value in json.loads(row["options"] or "{}").items()}


def _keys(values: Mapping[str, Mapping[str, str]]) -> list[str]:
    return list(dict.fromkeys(key for own in values.values() for key in own))


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by model, method (`method_order`), line and value, curves without a line last, then by lr."""
    rank = {method: i for i, method in enumerate(method_order(table["method"]))}
    by = ["model", "_rank", "_loose", *LINE, *(["lr"] if "lr" in table else ["curve"])]
    table = table.assign(_rank=[rank[method] for method in table["method"]], _loose=table["threshold"] == "")
    return table.sort_values(by, ignore_index=True).drop(columns=["_rank", "_loose"])
