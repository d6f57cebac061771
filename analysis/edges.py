"""The edge of each curve: the learning rate at which P(divergence) crosses a level, with an interval that knows seeds.

With x = log10(lr), seed s has its own threshold t_s ~ Logistic(mu, omega), and a run of that seed diverges with

    p(x | t) = floor + (1 - floor) (1 - lapse) S((x - t) / tau)        S(z) = 1 / (1 + exp(-z))

A share `immune` of the seeds never diverges but by the floor. Averaged over seeds,

    P(x) = floor + (1 - floor) plateau S((x - mu) / sigma)             plateau = (1 - lapse) (1 - immune)

with sigma^2 = omega^2 + tau^2: a logistic with floor and free lapse, fitted with a seed effect. (The sum of two
logistic variables is taken as logistic with the same variance: exact where tau or omega is 0, and at the median.) The
edge at a level is where P crosses it. The posterior is summed on a grid: no optimizer, no draw, nothing that blows up
when the data are perfectly separated, which steep cliffs are most of the time. A run that is missing says nothing.

Model: F. A. Wichmann and N. J. Hill, "The psychometric function", Perception & Psychophysics 63 (2001), whose lapse is
free here too; the latent thresholds are those of interval-censored survival data. Bounds without a model: Clopper and
Pearson, Bonferroni over lrs.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from analysis.rates import CONFIDENCE, lower_bound, upper_bound, wilson
from analysis.runs import CURVE, in_order, threshold_columns, with_curves

SIGMA = 10 ** np.linspace(-2, -0.2, 8)
"""Scales of the logistic, in decades of lr: 0.01 is a cliff (P from 0.1 to 0.9 within 11%), 0.63 a gentle slope."""

TAU_SHARE = (0.0, 0.5, 0.85, 1.0)
TAU_PRIOR = (0.7, 0.15, 0.1, 0.05)
"""tau / sigma: 0, seeds switch once; 1, runs of a seed are as independent as runs of different seeds."""

FLOOR = (0.002, 0.03, 0.1, 0.3, 0.6, 0.9)
FLOOR_PRIOR = (0.6, 0.2, 0.1, 0.05, 0.03, 0.02)
LAPSE = (0.005, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
LAPSE_PRIOR = (0.45, 0.15, 0.1, 0.1, 0.08, 0.07, 0.05)
"""lapse is the share of runs that do not diverge above their threshold; the same grid serves `immune`, of seeds."""

PAD = 0.6
"""Decades by which the prior of mu (uniform) goes beyond the tried lrs on either side."""

REACHED, NOT_REACHED, BELOW = "reached", "not reached", "below the range"


CURVE_POINTS = 2000
"""Points of the posterior, evenly spaced in its weight, from which the band of a fitted curve is taken."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The posterior of one curve: G grid points with weights that sum to 1.

    mu, sigma: (G,) in decades. floor, plateau: (G,) probabilities. weight: (G,). lrs: the tried ones, ascending.
    """

    mu: np.ndarray
    sigma: np.ndarray
    floor: np.ndarray
    plateau: np.ndarray
    weight: np.ndarray
    lrs: tuple[float, ...]

    def edge(self, level: float, shares: Sequence[float]) -> list[float]:
        """Quantiles of log10 of the edge; -inf: P is above the level everywhere, inf: it never gets there."""
        need = (level - self.floor) / ((1 - self.floor) * self.plateau)
        edge = np.where(need <= 0, -np.inf, np.inf)
        inside = (need > 0) & (need < 1)
        edge[inside] = self.mu[inside] + self.sigma[inside] * special.logit(need[inside])
        return _weighted_quantiles(edge, self.weight, shares)

    def curve(self, lrs: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Quantiles of P(divergence | lr): (len(shares), len(lrs))."""
        ends = np.cumsum(self.weight)
        drawn = np.searchsorted(ends, (np.arange(CURVE_POINTS) + 0.5) / CURVE_POINTS * ends[-1])
        mu, sigma, floor, plateau = (v[drawn] for v in (self.mu, self.sigma, self.floor, self.plateau))
        p = floor + (1 - floor) * plateau * special.expit((np.log10(lrs)[:, None] - mu) / sigma)
        return np.quantile(p, shares, axis=1)


def fit(lrs: Sequence[float], diverged_SK: np.ndarray) -> Fit:
    """Fit one curve. lrs: K ascending learning rates. diverged_SK: S seeds by K lrs, 1, 0, or NaN where missing."""
    grid = _grid(tuple(float(lr) for lr in lrs))
    seen = np.isfinite(diverged_SK)
    coded = np.where(seen, diverged_SK, -1).astype(int)
    patterns_PK, counts_P = np.unique(coded, axis=0, return_counts=True)
    yes_PK, no_PK = (patterns_PK == 1).astype(float), (patterns_PK == 0).astype(float)
    # Immune seeds diverge by the floor alone: (P, F).
    log_immune_PF = yes_PK.sum(1)[:, None] * np.log(FLOOR) + no_PK.sum(1)[:, None] * np.log1p(-np.array(FLOOR))
    parts = []
    for shape in grid.shapes:
        # log p of each pattern at each threshold: (P, C, T), C the combinations of floor and lapse.
        log_PCT = np.tensordot(yes_PK, shape.log_yes_KCT, 1) + np.tensordot(no_PK, shape.log_no_KCT, 1)
        mean_PCM = (np.exp(log_PCT).reshape(-1, log_PCT.shape[-1]) @ shape.weight_TM).reshape(*log_PCT.shape[:2], -1)
        lapsing_CM = np.tensordot(counts_P, np.log(np.maximum(mean_PCM, TINY)), 1)
        # Immunity goes with the smallest lapse, for each floor: (P, F, 1, M) and (P, F, 1, 1) -> (F, I, M).
        steady_PFM = mean_PCM.reshape(len(counts_P), len(FLOOR), len(LAPSE), -1)[:, :, 0]
        share_I = np.array(LAPSE[1:])[:, None]
        mixed_PFIM = (1 - share_I) * steady_PFM[:, :, None] + share_I * np.exp(log_immune_PF)[:, :, None, None]
        immune_FIM = np.tensordot(counts_P, np.log(np.maximum(mixed_PFIM, TINY)), 1)
        parts.append(np.concatenate([lapsing_CM, immune_FIM.reshape(-1, immune_FIM.shape[-1])]))
    log_QM = np.array(parts).reshape(len(SIGMA), len(TAU_SHARE), *parts[0].shape)
    log_weight = (log_QM + grid.log_prior_Q).ravel()
    weight = np.exp(log_weight - log_weight.max())
    keep = weight > 1e-7
    return Fit(
        mu=grid.mu[keep],
        sigma=grid.sigma[keep],
        floor=grid.floor[keep],
        plateau=grid.plateau[keep],
        weight=weight[keep] / weight[keep].sum(),
        lrs=grid.lrs,
    )


TINY = 1e-280


@dataclass(frozen=True, kw_only=True)
class _Shape:
    """What one (sigma, tau) gives before any data. C: floor x lapse, row-major. T: thresholds. M: values of mu."""

    log_yes_KCT: np.ndarray  # noqa: N815 - carries its shape's letters
    log_no_KCT: np.ndarray  # noqa: N815 - carries its shape's letters
    weight_TM: np.ndarray  # noqa: N815 - carries its shape's letters


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Everything that does not depend on the data; the flat arrays have the order of `fit`'s log_weight."""

    lrs: tuple[float, ...]
    shapes: tuple[_Shape, ...]
    log_prior_Q: np.ndarray  # noqa: N815 - carries its shape's letters
    mu: np.ndarray
    sigma: np.ndarray
    floor: np.ndarray
    plateau: np.ndarray


@functools.lru_cache(maxsize=4)
def _grid(lrs: tuple[float, ...]) -> _Grid:
    x_K = np.log10(lrs)
    span = float(x_K[-1] - x_K[0])
    finest = float(np.diff(x_K).min()) / 4 if len(lrs) > 1 else 0.03
    h = min(max(finest, span / 160), 0.05)
    beyond = math.ceil(PAD / h)
    mu_M = x_K[0] + h * np.arange(-beyond, math.ceil(span / h) + beyond + 1)
    # Thresholds go on beyond mu; the outermost cells hold the tails.
    t_T = np.concatenate([mu_M[0] - h * np.arange(beyond, 0, -1), mu_M, mu_M[-1] + h * np.arange(1, beyond + 1)])
    floor_C, lapse_C = (v.ravel() for v in np.meshgrid(FLOOR, LAPSE, indexing="ij"))
    shapes = []
    for sigma in SIGMA:
        for share in TAU_SHARE:
            p_KCT = _mean_expit(x_K[:, None] - t_T, h, share * sigma)[:, None, :]
            p_KCT = floor_C[:, None] + ((1 - floor_C) * (1 - lapse_C))[:, None] * p_KCT
            weight_TM = _cell_weights(t_T, mu_M, h, sigma * math.sqrt(1 - share**2))
            shapes.append(_Shape(log_yes_KCT=np.log(p_KCT), log_no_KCT=np.log1p(-p_KCT), weight_TM=weight_TM))

    # Q: first floor x lapse, then floor x immune; see `fit`.
    half = [LAPSE_PRIOR[0], *(w / 2 for w in LAPSE_PRIOR[1:])]
    prior_Q = np.concatenate([np.outer(FLOOR_PRIOR, half).ravel(), np.outer(FLOOR_PRIOR, half[1:]).ravel()])
    floor_Q = np.concatenate([floor_C, np.repeat(FLOOR, len(LAPSE) - 1)])
    immune_Q = np.tile((1 - LAPSE[0]) * (1 - np.array(LAPSE[1:])), len(FLOOR))
    plateau_Q = np.concatenate([1 - lapse_C, immune_Q])
    size = (len(SIGMA), len(TAU_SHARE), len(prior_Q), len(mu_M))
    every = np.arange(math.prod(size))
    # mu stands for a cell of width h: points spread over it (golden ratio) keep quantiles from sticking to the grid.
    spread = (every * 0.6180339887498949) % 1 - 0.5
    return _Grid(
        lrs=lrs,
        shapes=tuple(shapes),
        log_prior_Q=(np.log(prior_Q) + np.log(TAU_PRIOR)[:, None])[..., None],
        mu=np.broadcast_to(mu_M, size).ravel() + h * spread,
        sigma=np.broadcast_to(SIGMA[:, None, None, None], size).ravel(),
        floor=np.broadcast_to(floor_Q[:, None], size).ravel(),
        plateau=np.broadcast_to(plateau_Q[:, None], size).ravel(),
    )


def _mean_expit(z: np.ndarray, h: float, tau: float) -> np.ndarray:
    """S((z - u) / tau), averaged over u in [-h/2, h/2]; a step where tau is 0."""
    if tau == 0:
        return np.clip(z / h + 0.5, 0, 1)
    upper, lower = (np.logaddexp(0, (z + side * h / 2) / tau) for side in (1, -1))
    return np.clip((upper - lower) * tau / h, 0, 1)


def _cell_weights(t_T: np.ndarray, mu_M: np.ndarray, h: float, omega: float) -> np.ndarray:
    """P(a seed's threshold lies in the cell of t | mu): (T, M), columns that sum to 1."""
    borders = (t_T[:-1] + h / 2)[:, None] - mu_M
    below = special.expit(borders / omega) if omega > 0 else (borders > 0).astype(float)
    return np.diff(below, axis=0, prepend=0.0, append=1.0)


def _weighted_quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    ends = np.cumsum(weight[order])
    index = np.searchsorted(ends, np.asarray(shares) * ends[-1])
    return [float(v) for v in values[order][np.minimum(index, len(values) - 1)]]


def fits(runs: pd.DataFrame) -> dict[tuple[str, str], Fit]:
    """(model, curve) -> Fit, of a table with one row a run (`analysis.load`)."""
    return {key: fit(*outcomes(curve)) for key, curve in _curves(with_curves(runs))}


def outcomes(curve: pd.DataFrame) -> tuple[list[float], np.ndarray]:
    """The runs of one curve as `fit` takes them: its lrs, ascending, and the (S, K) matrix of what diverged."""
    marked = curve.assign(diverged=(curve["outcome"] == "diverged").astype(float))
    matrix = marked.pivot_table(index="seed", columns="lr", values="diverged", aggfunc="max").sort_index(axis=1)
    return [float(lr) for lr in matrix.columns], matrix.to_numpy(dtype=float)


def fitted_curves(runs: pd.DataFrame, points: int = 120, fitted: Mapping | None = None) -> pd.DataFrame:
    """The fitted P(divergence | lr) between the lowest and highest tried lr of each curve: columns model, curve,
    method, lr, rate (posterior median), low, high (95% band, pointwise)."""
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    rows = []
    for (model, name), curve in _curves(runs):
        one = fitted[model, name]
        lrs = np.geomspace(one.lrs[0], one.lrs[-1], points if len(one.lrs) > 1 else 1)
        low, rate, high = one.curve(lrs, (TAIL, 0.5, 1 - TAIL))
        same = {"model": model, "curve": name, "method": curve["method"].iloc[0]}
        rows += [
            same | {"lr": x, "rate": r, "low": a, "high": b} for x, r, a, b in zip(lrs, rate, low, high, strict=True)
        ]
    columns = [*CURVE, "method", "lr", "rate", "low", "high"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


TAIL = (1 - CONFIDENCE) / 2


def edges(runs: pd.DataFrame, level: float = 0.5, fitted: Mapping | None = None) -> pd.DataFrame:
    """The edge of every curve at a level of P(divergence), from one row a run (`analysis.load`).

    fitted: what `fits(runs)` gave, so that several levels share one fit. Raises ValueError unless 0 < level < 1.

    One row a curve; columns: model, curve, method, <thresholds>, options, level;
    edge (an lr; NaN unless reached), low, high (95% interval; low is 0 and high is inf where it leaves the tried lrs),
    status ("reached", "not reached", "below the range"); seeds (distinct), lrs (number tried), lr_min, lr_max;
    monotone (False: a cell's rate lies above that of a higher lr, their 95% intervals apart; edge is then where the
    rates first cross the level, and low, high are the model-free bound);
    bound_low, bound_high (without a model: Clopper-Pearson, Bonferroni over lrs: every lr tried up to bound_low has
    P < level, and bound_high has P > level; 0 and inf where no lr is decided);
    safe_lr, safe_k, safe_n, safe_bound (the highest lr below the edge up to which no run diverged, else the lowest lr,
    with the one-sided 95% bound of the risk there);
    most_k, most_n, most_lr (the cell of the highest rate), n_min, n_max (runs a cell), steps (the horizon).
    """
    if not 0 < level < 1:
        raise ValueError(f"need 0 < level < 1, got level={level:g}")
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    same = ["method", *threshold_columns(runs), "options"]
    rows = []
    for (model, name), curve in _curves(runs):
        head = {"model": model, "curve": name} | {c: curve[c].iloc[0] for c in same} | {"level": level}
        rows.append(
            head | _edge(*outcomes(curve), fitted[model, name], level) | {"steps": max(curve["steps"].tolist())}
        )
    columns = [*CURVE, *same, "level", *EDGE_COLUMNS, "steps"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


EDGE_COLUMNS = (
    *("edge", "low", "high", "status", "seeds", "lrs", "lr_min", "lr_max", "monotone", "bound_low", "bound_high"),
    *("safe_lr", "safe_k", "safe_n", "safe_bound", "most_k", "most_n", "most_lr", "n_min", "n_max"),
)


def _edge(lrs: list[float], diverged_SK: np.ndarray, one: Fit, level: float) -> dict[str, Any]:
    n = np.isfinite(diverged_SK).sum(0)
    k = np.nansum(diverged_SK, 0).astype(int)
    bound_low, bound_high = _model_free(lrs, k, n, level)
    monotone = _is_monotone(k, n)
    if monotone:
        low, edge, high = (10**q for q in one.edge(level, (TAIL, 0.5, 1 - TAIL)))
    else:
        low, edge, high = bound_low, _first_crossing(lrs, k / n, level), bound_high
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


def _model_free(lrs: list[float], k: np.ndarray, n: np.ndarray, level: float) -> tuple[float, float]:
    confidence = 1 - TAIL / len(lrs)
    upper = [upper_bound(int(a), int(b), confidence) for a, b in zip(k, n, strict=True)]
    lower = [lower_bound(int(a), int(b), confidence) for a, b in zip(k, n, strict=True)]
    undecided = next((i for i, p in enumerate(upper) if p >= level), len(lrs))
    above = [lr for lr, p in zip(lrs, lower, strict=True) if p > level]
    return (lrs[undecided - 1] if undecided else 0.0), (above[0] if above else math.inf)


def _is_monotone(k: np.ndarray, n: np.ndarray) -> bool:
    low, high = wilson(k, n)
    return bool((np.maximum.accumulate(low) <= high).all())


def _first_crossing(lrs: list[float], rates: np.ndarray, level: float) -> float:
    reached = np.flatnonzero(rates >= level)
    if reached.size == 0:
        return math.inf
    i = int(reached[0])
    if i == 0:
        return 0.0
    part = (level - rates[i - 1]) / (rates[i] - rates[i - 1])
    return float(lrs[i - 1] * (lrs[i] / lrs[i - 1]) ** part)


def edge_text(row: Mapping[str, Any]) -> str:
    """An edge in a table: `0.48`, `> 1.6`, `< 0.01`."""
    if row["status"] == NOT_REACHED:
        return f"> {row['lr_max']:g}"
    return f"{row['edge']:.2g}" if row["status"] == REACHED else f"< {row['lr_min']:g}"


def sentence(row: Mapping[str, Any]) -> str:
    """One row of `edges` in one sentence, for an engineer: the edge, how sure, and what is safe to say below it."""
    n = f"{row['n_min']}" if row["n_min"] == row["n_max"] else f"{row['n_min']} to {row['n_max']}"
    share = "half" if row["level"] == 0.5 else f"{100 * row['level']:g}%"
    within = f"within {row['steps']} steps"
    seeds = f"{row['seeds']} seed" + ("s" if row["seeds"] != 1 else "")
    if row["status"] == NOT_REACHED and row["most_k"] == 0:
        return (
            f"{row['curve']}: no divergence {within} up to lr {row['lr_max']:g} (0 of {n} at each lr; "
            f"edge {edge_text(row)}), which bounds the risk at lr {row['safe_lr']:g} at {_percent(row['safe_bound'])}."
        )
    if row["status"] == NOT_REACHED:
        said = (
            f"fewer than {share} of the runs diverge {within} up to lr {row['lr_max']:g} "
            f"(at most {row['most_k']} of {row['most_n']}, at lr {row['most_lr']:g}; edge {edge_text(row)}; {seeds})"
        )
    elif row["status"] == BELOW:
        said = (
            f"{share} of the runs or more diverge {within} already at lr {row['lr_min']:g}, the lowest tried "
            f"({row['safe_k']} of {row['safe_n']}; edge {edge_text(row)}; {seeds})"
        )
    else:
        said = f"{share} of the runs diverge {within} at lr {row['edge']:.2g} ({_interval(row)}, {seeds})"
    if row["status"] == BELOW:
        safe = "no safe lr was tried"
    elif row["safe_k"] == 0:
        safe = (
            f"none of {row['safe_n']} diverged at {row['safe_lr']:g}, "
            f"which bounds the risk there at {_percent(row['safe_bound'])}"
        )
    else:
        safe = (
            f"{row['safe_k']} of {row['safe_n']} diverged even at {row['safe_lr']:g}, the lowest tried: "
            f"the risk there is at most {_percent(row['safe_bound'])}"
        )
    odd = "" if row["monotone"] else " The rate falls again at a higher lr: read the rates, not only the edge."
    return f"{row['curve']}: {said}; {safe}.{odd}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] == 0 and math.isinf(row["high"]):
        return "the 95% interval is wider than the range tried"
    if row["low"] == 0:
        return f"95% sure below {row['high']:.2g}"
    if math.isinf(row["high"]):
        return f"95% sure above {row['low']:.2g}"
    return f"95% interval {row['low']:.2g} to {row['high']:.2g}"


def _percent(p: float) -> str:
    return f"{100 * p:.2g}%" if p < 0.995 else "100%"


def _curves(runs: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [((str(key[0]), str(key[1])), curve) for key, curve in runs.groupby(CURVE, sort=False)]  # pyright: ignore
