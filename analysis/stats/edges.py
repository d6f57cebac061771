"""The edge of each curve: the learning rate at which P(divergence) crosses a level, with an interval that respects
seeds.

`analysis.stats.psychometric` fits the curves; an interval averages over its model and a curve without a shape. Bounds
without a model: Clopper and Pearson, Bonferroni over lrs.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import CURVE, in_order, records, threshold_columns, with_curves
from analysis.stats.edge_posterior import edge_interval
from analysis.stats.intervals import TAIL, lower_bound, upper_bound, wilson
from analysis.stats.psychometric import Fit, fit
from analysis.stats.rates import FEW_RUNS, octave_bins
from study.config import check_share

REACHED, NOT_REACHED, BELOW = "reached", "not reached", "below the range"


def fits(runs: pd.DataFrame) -> dict[tuple[str, str], Fit]:
    """Return (model, curve) -> Fit.

    Args:
        runs: One row a run (`analysis.load`). Curves with equal outcomes share a fit.
    """
    known: dict[Any, Fit] = {}
    fit_of = {}
    for key, (lrs, diverged_SK) in outcomes_by_curve(with_curves(runs)).items():
        alike = (tuple(lrs), _did(diverged_SK))
        if alike not in known:
            known[alike] = fit(lrs, diverged_SK)
        fit_of[key] = known[alike]
    return fit_of


def _did(diverged_SK: np.ndarray) -> bytes:
    """The outcomes as bytes, whatever the order of seeds."""
    did = np.nan_to_num(diverged_SK, nan=-1).astype(np.int8)
    return did[np.lexsort(did.T[::-1])].tobytes()


def outcomes(curve: pd.DataFrame) -> tuple[list[float], np.ndarray]:
    """Return the runs of one curve as `fit` takes them: its lrs, ascending, and the (S, K) matrix of outcomes."""
    return _matrix(*_marked(curve))


def outcomes_by_curve(runs: pd.DataFrame) -> dict[tuple[str, str], tuple[list[float], np.ndarray]]:
    """Return (model, curve) -> `outcomes`, in the order of the table. Faster than a table for each curve."""
    seed_N, lr_N, diverged_N = _marked(runs)
    of_curve = sorted(runs.groupby(CURVE, sort=False).indices.items(), key=lambda item: item[1][0])
    by_curve = {}
    for key, at in of_curve:
        model, curve = key  # pyright: ignore[reportGeneralTypeIssues]
        by_curve[str(model), str(curve)] = _matrix(seed_N[at], lr_N[at], diverged_N[at])
    return by_curve


def _marked(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seed, lr, and 1 if it diverged, of each run."""
    diverged = (runs["outcome"] == "diverged").to_numpy(dtype=float)
    return runs["seed"].to_numpy(dtype=np.int64), runs["lr"].to_numpy(dtype=float), diverged


def _matrix(seed_N: np.ndarray, lr_N: np.ndarray, diverged_N: np.ndarray) -> tuple[list[float], np.ndarray]:
    _, of_seed = np.unique(seed_N, return_inverse=True)
    lrs, of_lr = np.unique(lr_N, return_inverse=True)
    diverged_SK = np.full((of_seed.max(initial=-1) + 1, len(lrs)), math.nan)
    np.fmax.at(diverged_SK, (of_seed, of_lr), diverged_N)
    return lrs.tolist(), diverged_SK


def fitted_curves(runs: pd.DataFrame, points: int = 120, fitted: Mapping | None = None) -> pd.DataFrame:
    """Return the fitted P(divergence | lr) between the lowest and highest tried lr of each curve.

    Args:
        runs: One row a run (`analysis.load`).
        points: Lrs of a curve, evenly spaced in log; where it is steep there are more.
        fitted: `fits(runs)`; computed if None.

    Returns:
        Columns model, curve, method, lr, rate (mean of the posterior's middle half), low, high (95% band), pointwise.
    """
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    rows = []
    for (model, name), curve in _curves(runs.reindex(columns=[*CURVE, "method"])):
        curve_fit = fitted[model, name]
        lrs = np.geomspace(curve_fit.lrs[0], curve_fit.lrs[-1], points if len(curve_fit.lrs) > 1 else 1)
        lrs, (low, rate, high) = _smooth(curve_fit, lrs)
        same = {"model": model, "curve": name, "method": curve["method"].iloc[0]}
        rows += [
            same | {"lr": x, "rate": r, "low": a, "high": b} for x, r, a, b in zip(lrs, rate, low, high, strict=True)
        ]
    columns = [*CURVE, "method", "lr", "rate", "low", "high"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


def _smooth(curve_fit: Fit, lrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return lrs and the curve with its band there, with further lrs between any two that differ by over SMOOTH."""
    found = _band(curve_fit, lrs)
    for _ in range(HALVINGS):
        steep = np.flatnonzero((np.abs(np.diff(found, axis=1)) > SMOOTH).any(0))
        if not steep.size:
            break
        between = np.sqrt(lrs[steep] * lrs[steep + 1])
        lrs = np.insert(lrs, steep + 1, between)
        found = np.insert(found, steep + 1, _band(curve_fit, between), axis=1)
    return lrs, found


def _band(curve_fit: Fit, lrs: np.ndarray) -> np.ndarray:
    """Low, rate and high, (3, len(lrs))."""
    low, high = curve_fit.curve(lrs, (TAIL, 1 - TAIL))
    return np.array([low, curve_fit.line(lrs), high])


SMOOTH = 0.03
"""The largest step of P(divergence) between two points of a curve that looks smooth."""

HALVINGS = 8


def edges(runs: pd.DataFrame, level: float = 0.5, fitted: Mapping | None = None) -> pd.DataFrame:
    """Return the edge of every curve at a level of P(divergence).

    Args:
        runs: One row a run (`analysis.load`).
        level: P(divergence) at the edge.
        fitted: `fits(runs)`; computed if None. Several levels can share it.

    Returns:
        One row a curve; columns model, curve; edge (an lr; NaN unless reached), low, high (95% interval; 0 and inf if
        an end lies outside the tried lrs), status ("reached", "not reached", "below the range"), level;
        seeds (distinct), lrs (number tried), lr_min, lr_max;
        monotone (False if some rate is above that of a higher lr, their intervals apart; edge is then where the
        rates first cross the level, and low, high are the model-free bounds);
        bound_low, bound_high (model-free: P < level at every tried lr up to bound_low, P > level at bound_high; 0
        and inf if no lr is decided);
        safe_lr, safe_k, safe_n, safe_bound (the highest lr below the edge up to which no run diverged, else the
        lowest lr, with the one-sided 95% bound of its risk);
        most_k, most_n, most_lr (the cell of the highest rate), n_min, n_max (runs a cell), steps (the horizon);
        method, <thresholds>, options.
        If some lr has fewer than `rates.FEW_RUNS` runs, as in a search, the lrs of a quarter octave are read
        together for monotone and the model-free columns.

    Raises:
        ValueError: Unless 0 < level < 1.
    """
    check_share(level, "level")
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    same = ["method", *threshold_columns(runs), "options"]
    rows = []
    heads = runs.drop_duplicates(CURVE).reindex(columns=[*CURVE, *same])
    steps = pd.Series(runs.groupby(CURVE, sort=False)["steps"].max()).tolist()
    did = outcomes_by_curve(runs)
    for head, most in zip(records(heads), steps, strict=True):
        key = (str(head["model"]), str(head["curve"]))
        edge = fitted[key].once(
            ("edge of", level, _did(did[key][1])), functools.partial(edge_of, *did[key], fitted[key], level)
        )
        rows.append(head | {"level": level} | edge | {"steps": most})
    answer, rest = EDGE_COLUMNS[:4], EDGE_COLUMNS[4:]
    columns = [*CURVE, *answer, "level", *rest, "steps", *same]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


EDGE_COLUMNS = (
    *("edge", "low", "high", "status", "seeds", "lrs", "lr_min", "lr_max", "monotone", "bound_low", "bound_high"),
    *("safe_lr", "safe_k", "safe_n", "safe_bound", "most_k", "most_n", "most_lr", "n_min", "n_max"),
)


def edge_of(lrs: list[float], diverged_SK: np.ndarray, fit: Fit, level: float) -> dict[str, Any]:
    """Return the edge of one curve: the EDGE_COLUMNS of `edges`.

    Args:
        lrs: As for `fit`.
        diverged_SK: As for `fit`.
        fit: The fit.
        level: P(divergence) at the edge.
    """
    n = np.isfinite(diverged_SK).sum(0)
    k = np.nansum(diverged_SK, 0).astype(int)
    lrs, k, n = [lr for lr, runs in zip(lrs, n, strict=True) if runs], k[n > 0], n[n > 0]
    read = _pooled(np.array(lrs), k, n)
    bound_low, bound_high = _model_free(read, level)
    monotone = _is_monotone(read.k, read.n)
    if monotone:
        low, edge, high = (_as_tried(10**q, lrs) for q in edge_interval(fit, level))
    else:
        low, edge, high = bound_low, _first_crossing(read.middle.tolist(), read.k / read.n, level), bound_high
    if k.sum() == 0 or edge > lrs[-1]:
        status, edge = NOT_REACHED, math.nan
        low, high = min(low, lrs[-1]), math.inf
    elif (k == n).all() or edge < lrs[0] or (len(lrs) == 1 and edge == lrs[0]):
        status, edge = BELOW, math.nan
        low = 0.0
    else:
        status = REACHED
    clean = [i for i in range(len(lrs)) if k[: i + 1].sum() == 0 and not edge <= lrs[i]]
    safe = clean[-1] if clean else 0
    most = int(np.argmax(k / n))
    return {
        "edge": edge,
        "low": low if low >= lrs[0] else 0.0,
        "high": high if high <= lrs[-1] else math.inf,
        "status": status,
        "seeds": len(diverged_SK),
        "lrs": len(lrs),
        "lr_min": lrs[0],
        "lr_max": lrs[-1],
        "monotone": monotone,
        "bound_low": bound_low,
        "bound_high": bound_high,
        "safe_lr": lrs[safe],
        "safe_k": int(k[safe]),
        "safe_n": int(n[safe]),
        "safe_bound": upper_bound(int(k[safe]), int(n[safe])),
        "most_k": int(k[most]),
        "most_n": int(n[most]),
        "most_lr": lrs[most],
        "n_min": int(n.min()),
        "n_max": int(n.max()),
    }


def _as_tried(lr: float, lrs: Sequence[float]) -> float:
    """The tried lr of which this is the logarithm's inverse, or else the lr itself."""
    return next((tried for tried in lrs if math.isclose(lr, tried, rel_tol=1e-9)), lr)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pools:
    """Runs as they are read without a model, (P,) each, lrs ascending.

    The lowest, mean (in log) and highest lr of each pool; k of its n runs diverged.
    """

    lowest: np.ndarray
    middle: np.ndarray
    highest: np.ndarray
    k: np.ndarray
    n: np.ndarray


def _pooled(lrs: np.ndarray, k: np.ndarray, n: np.ndarray) -> _Pools:
    """Each lr by itself, or those of a quarter octave together if an lr has too few runs, as in a search.

    A single run says little of its lr, and among a hundred lrs some single run always diverges.
    """
    if n.min() >= FEW_RUNS:
        return _Pools(lowest=lrs, middle=lrs, highest=lrs, k=k, n=n)
    _, first = np.unique(octave_bins(lrs), return_index=True)
    lowest, highest = lrs[first], lrs[np.append(first[1:], len(lrs)) - 1]
    mean = np.add.reduceat(n * np.log(lrs), first) / np.add.reduceat(n, first)
    middle = np.where(lowest == highest, lowest, np.exp(mean))
    return _Pools(
        lowest=lowest, middle=middle, highest=highest, k=np.add.reduceat(k, first), n=np.add.reduceat(n, first)
    )


def _model_free(read: _Pools, level: float) -> tuple[float, float]:
    """(bound_low, bound_high).

    The mean rate of a pool is bounded; unequal rates only widen these bounds (W. Hoeffding, Ann. Math. Statist. 27,
    1956). If rates rise with the lr, the rate at a pool's lowest lr is below its mean, that at its highest above.
    """
    counts = [(int(a), int(b)) for a, b in zip(read.k, read.n, strict=True)]
    confidence = 1 - TAIL / len(counts)
    undecided = next((i for i, (k, n) in enumerate(counts) if upper_bound(k, n, confidence) >= level), len(counts))
    above = [i for i, (k, n) in enumerate(counts) if lower_bound(k, n, confidence) > level]
    return (
        float(read.lowest[undecided - 1]) if undecided else 0.0,
        float(read.highest[above[0]]) if above else math.inf,
    )


def _is_monotone(k: np.ndarray, n: np.ndarray) -> bool:
    """False if some lrs, neighbours pooled, diverge more than some higher ones, their 99% intervals apart.

    Given its threshold a seed's runs are independent and its rate never falls, so pooling is fair to clusters.
    """
    first, last = np.triu_indices(len(k))
    sums_k, sums_n = (np.concatenate([[0], np.cumsum(v)]) for v in (k, n))
    low, high = wilson(sums_k[last + 1] - sums_k[first], sums_n[last + 1] - sums_n[first], FALLS)
    most_low, least_high = np.zeros(len(k)), np.ones(len(k) + 1)
    np.maximum.at(most_low, last, low)
    np.minimum.at(least_high, first, high)
    best_so_far = np.maximum.accumulate(most_low)
    return bool((best_so_far <= np.minimum.accumulate(least_high[::-1])[::-1][1:]).all())


FALLS = 0.99


def _first_crossing(lrs: list[float], rates: np.ndarray, level: float) -> float:
    reached = np.flatnonzero(rates >= level)
    if reached.size == 0:
        return math.inf
    i = int(reached[0])
    if i == 0:
        return 0.0
    part = (level - rates[i - 1]) / (rates[i] - rates[i - 1])
    return float(lrs[i - 1] * (lrs[i] / lrs[i - 1]) ** part)


def _curves(runs: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [((str(key[0]), str(key[1])), curve) for key, curve in runs.groupby(CURVE, sort=False)]  # pyright: ignore
