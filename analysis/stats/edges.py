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
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse, special

from analysis.loading import CURVE, in_order, records, threshold_columns, with_curves
from analysis.stats.rates import CONFIDENCE, FEW_RUNS, lower_bound, octave_bins, upper_bound, wilson
from analysis.text.format import span_text, two_digits

SIGMA = (0.01, 0.63)
"""Scales of the logistic, in decades of lr, uniform in log: 0.01 is a cliff (P from 0.1 to 0.9 within 11%), 0.63 a
gentle slope."""

TAU_SHARE = (0.0, 0.5, 0.85, 1.0)
TAU_PRIOR = (0.7, 0.15, 0.1, 0.05)
"""tau / sigma: 0, seeds switch once; 1, runs of a seed are as independent as runs of different seeds."""

FLOOR = (0.002, 0.03, 0.1, 0.3, 0.6, 0.9)
FLOOR_PRIOR = (0.6, 0.2, 0.1, 0.05, 0.03, 0.02)
LAPSE = (0.005, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9)
LAPSE_PRIOR = (0.45, 0.15, 0.1, 0.1, 0.08, 0.07, 0.05)
"""lapse is the share of runs that do not diverge above their threshold; the same prior serves `immune`, of seeds."""

PAD = 0.6
"""Decades by which the prior of mu (uniform) goes beyond the tried lrs on either side."""

REACHED, NOT_REACHED, BELOW = "reached", "not reached", "below the range"


CURVE_POINTS = 2000
"""Points of the posterior, evenly spaced in its weight, from which the band of a fitted curve is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """The posterior of one curve: G grid points with weights that sum to 1. lrs: the tried ones, ascending.

    Kept as where its points lie on the grid and how much they weigh: a study has a fit for each of its curves, and a
    point unfolded takes five times the memory. What was asked once is remembered, since curves that did alike share
    their fit.
    """

    grid: "_Grid"
    at: np.ndarray
    log_weight: np.ndarray
    lrs: tuple[float, ...]
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def mu(self) -> np.ndarray:
        """(G,), in decades."""
        return _unfolded(self)[0]

    @property
    def sigma(self) -> np.ndarray:
        """(G,), in decades."""
        return _unfolded(self)[1]

    @property
    def floor(self) -> np.ndarray:
        """(G,), probabilities."""
        return _unfolded(self)[2]

    @property
    def plateau(self) -> np.ndarray:
        """(G,), probabilities."""
        return _unfolded(self)[3]

    @property
    def weight(self) -> np.ndarray:
        """(G,)"""
        return _unfolded(self)[4]

    def edge(self, level: float, shares: Sequence[float]) -> list[float]:
        """Quantiles of log10 of the edge; -inf: P is above the level everywhere, inf: it never gets there."""
        return self.once(("edge", level, tuple(shares)), lambda: self._edge(level, shares))

    def curve(self, lrs: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Quantiles of P(divergence | lr): (len(shares), len(lrs))."""
        return self.once(("curve", lrs.tobytes(), tuple(shares)), lambda: self._curve(lrs, shares))

    def once(self, asked: Any, find: Callable[[], Any]) -> Any:
        """What `find` finds, found once."""
        if asked not in self._known:
            self._known[asked] = find()
        return self._known[asked]

    def _edge(self, level: float, shares: Sequence[float]) -> list[float]:
        need = (level - self.floor) / ((1 - self.floor) * self.plateau)
        edge = np.where(need <= 0, -np.inf, np.inf)
        inside = (need > 0) & (need < 1)
        edge[inside] = self.mu[inside] + self.sigma[inside] * special.logit(need[inside])
        return _weighted_quantiles(edge, self.weight, shares)

    def _curve(self, lrs: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        ends = np.cumsum(self.weight)
        drawn = np.searchsorted(ends, (np.arange(CURVE_POINTS) + 0.5) / CURVE_POINTS * ends[-1])
        mu, sigma, floor, plateau = (v[drawn] for v in (self.mu, self.sigma, self.floor, self.plateau))
        p = floor + (1 - floor) * plateau * special.expit((np.log10(lrs)[:, None] - mu) / sigma)
        return np.quantile(p, shares, axis=1)


@functools.lru_cache(maxsize=2)
def _unfolded(fit: Fit) -> tuple[np.ndarray, ...]:
    """mu, sigma, floor, plateau, weight of a fit's points; of the latest fits only."""
    weight = np.exp(fit.log_weight.astype(float))
    return *fit.grid.points(fit.at), weight / weight.sum()


def fit(lrs: Sequence[float], diverged_SK: np.ndarray) -> Fit:
    """Fit one curve. lrs: K ascending learning rates. diverged_SK: S seeds by K lrs, 1, 0, or NaN where missing."""
    return fit_many(lrs, diverged_SK[None])[0]


def fit_many(lrs: Sequence[float], diverged_NSK: np.ndarray) -> list[Fit]:
    """Fit N curves at the same lrs, (N, S, K): as `fit` of each, faster, since seeds that did alike count once."""
    N, S, K = diverged_NSK.shape
    x_K = np.log10(lrs)
    seen = np.isfinite(diverged_NSK)
    coded = np.where(seen, diverged_NSK, -1).astype(np.int8)
    patterns_PK, of_seed = np.unique(coded.reshape(-1, K), axis=0, return_inverse=True)
    counts_NP = sparse.csr_array((np.ones(N * S), of_seed.ravel(), np.arange(0, N * S + 1, S)), (N, len(patterns_PK)))
    counts_NP.sum_duplicates()
    grid = _grid(x_K, clustered=bool((seen.sum(2) > 1).any()))
    return [
        _zoomed(grid, log_weight_G, tuple(float(lr) for lr in lrs), patterns_PK, counts_NP[[n]])
        for n, log_weight_G in enumerate(_log_posterior(grid, x_K, patterns_PK, counts_NP))
    ]


NEGLIGIBLE = 1e-7
"""Points of the grid whose weight is less than this share of the largest are left out of a posterior."""

ZOOMS = 4
"""Times that a grid is made finer, at most; each makes three points of one."""


def _zoomed(
    grid: "_Grid",
    log_weight_G: np.ndarray,
    lrs: tuple[float, ...],
    patterns_PK: np.ndarray,
    counts_1P: sparse.csr_array,
) -> Fit:
    """The posterior on a grid fine enough for it: what many seeds say lies between the points of the first grid."""
    done = counts_1P.indices
    patterns_PK, counts_1P = patterns_PK[done], counts_1P[:, done]
    for _ in range(ZOOMS):
        finer = grid.zoom(log_weight_G)
        if finer is None:
            break
        grid = finer
        (log_weight_G,) = _log_posterior(grid, np.log10(lrs), patterns_PK, counts_1P)
    keep = np.flatnonzero(log_weight_G > log_weight_G.max() + math.log(NEGLIGIBLE))
    return Fit(grid=grid, at=keep.astype(np.int32), log_weight=log_weight_G[keep], lrs=lrs)


@dataclass(frozen=True, kw_only=True)
class _Axis:
    """The values of one parameter, in a coordinate u: its prior's log density is linear between knots; no two values
    need be closer than `finest`. at_rest: the first knot is as good as nothing below it, and is not told from there."""

    u: np.ndarray
    knots: np.ndarray
    log_density: np.ndarray
    finest: float
    at_rest: bool

    @property
    def log_prior(self) -> np.ndarray:
        return np.interp(self.u, self.knots, self.log_density) + np.log(_widths(self.u))

    def zoom(self, mass: np.ndarray) -> tuple["_Axis", bool]:
        """Where the posterior's mass is and one step beyond, and where most of it is in thirds, if a point holds so
        much that the axis is coarse: (the axis, whether it was)."""
        if len(self.u) < 2:
            return self, False
        held = np.flatnonzero(mass >= 1e-3 * mass.max())
        first, last = int(held[0]), int(held[-1])
        below = self.u[first - 1] if first else max(2 * self.u[0] - self.u[1], self.knots[0])
        above = self.u[last + 1] if last + 1 < len(self.u) else min(2 * self.u[-1] - self.u[-2], self.knots[-1])
        u = np.unique([below, *self.u[first : last + 1], above])
        peak = self.u[mass.argmax()]
        coarse = mass.max() > 0.3 * mass.sum() and np.diff(u).min() > self.finest
        coarse &= not (self.at_rest and peak == self.knots[0])
        if coarse:
            heavy = np.isin(u, self.u[mass > 0.1 * mass.max()])
            left = np.flatnonzero(heavy[:-1] | heavy[1:])
            third = (u[left + 1] - u[left]) / 3
            u = np.sort(np.concatenate([u, u[left] + third, u[left] + 2 * third]))
        return replace(self, u=u), bool(coarse)


def _widths(u: np.ndarray) -> np.ndarray:
    return np.gradient(u) if len(u) > 1 else np.ones(1)


def _axis(knots: np.ndarray, mass: Sequence[float] | np.ndarray, finest: float, *, at_rest: bool = True) -> _Axis:
    log_density = np.log(np.asarray(mass) / _widths(knots))
    return _Axis(u=knots, knots=knots, log_density=log_density, finest=finest, at_rest=at_rest)


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """The points of a posterior: for each sigma and share (tau / sigma), floor x lapse and then floor x immune, by mu.
    No `immune`: immunity is left out. u is log10 of sigma and of lr; log odds of floor, lapse and immune."""

    sigma: _Axis
    mu: _Axis
    floor: _Axis
    lapse: _Axis
    immune: _Axis | None
    shares: tuple[float, ...]

    @property
    def log_prior(self) -> np.ndarray:
        """(sigma, share, Q, mu), up to a constant."""
        floor = self.floor.log_prior[:, None]
        of_Q = [(floor + axis.log_prior).ravel() for axis in (self.lapse, self.immune) if axis]
        shares = np.log([TAU_PRIOR[TAU_SHARE.index(share)] for share in self.shares])
        return (
            self.sigma.log_prior[:, None, None, None]
            + shares[:, None, None]
            + np.concatenate(of_Q)[:, None]
            + self.mu.log_prior
        )

    def points(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """mu, sigma, floor, plateau at flat indices."""
        i_sigma, _, i_q, i_mu = np.unravel_index(at, self.log_prior.shape)
        floor, lapse = special.expit(self.floor.u), special.expit(self.lapse.u)
        immune = special.expit(self.immune.u) if self.immune else np.zeros(0)
        floors = np.concatenate([np.repeat(floor, len(lapse)), np.repeat(floor, len(immune))])
        plateaus = np.concatenate([np.tile(1 - lapse, len(floor)), (1 - STEADY) * (1 - np.tile(immune, len(floor)))])
        # A point stands for its cell: spread over it (golden ratios), quantiles do not stick to the grid.
        mu = self.mu.u[i_mu] + _widths(self.mu.u)[i_mu] * ((at * 0.6180339887498949) % 1 - 0.5)
        sigma = self.sigma.u[i_sigma] + _widths(self.sigma.u)[i_sigma] * ((at * 0.7548776662466927) % 1 - 0.5)
        return mu, 10**sigma, floors[i_q], plateaus[i_q]

    def zoom(self, log_weight_G: np.ndarray) -> "_Grid | None":
        """The same posterior's neighbourhood on a finer grid; None where this one resolves it."""
        F, L = len(self.floor.u), len(self.lapse.u)
        weight = np.exp(log_weight_G.reshape(self.log_prior.shape))
        of_Q = weight.sum((0, 1, 3))
        lapsing_FL, immune_FI = of_Q[: F * L].reshape(F, L), of_Q[F * L :].reshape(F, -1)
        sigma, finer_sigma = self.sigma.zoom(weight.sum((1, 2, 3)))
        mu, finer_mu = self.mu.zoom(weight.sum((0, 1, 2)))
        floor, finer_floor = self.floor.zoom(lapsing_FL.sum(1) + immune_FI.sum(1))
        lapse, finer_lapse = self.lapse.zoom(lapsing_FL.sum(0))
        immune, finer_immune = None, False
        if self.immune and immune_FI.sum() > 1e-4 * of_Q.sum():
            immune, finer_immune = self.immune.zoom(immune_FI.sum(0))
        if not (finer_sigma or finer_mu or finer_floor or finer_lapse or finer_immune):
            return None
        of_share = weight.sum((0, 2, 3))
        shares = tuple(s for s, w in zip(self.shares, of_share, strict=True) if w > 1e-4 * of_share.max())
        return _Grid(sigma=sigma, mu=mu, floor=floor, lapse=lapse, immune=immune, shares=shares)


STEADY = LAPSE[0]
"""The lapse that goes with immunity."""

STEP = 0.05
"""Decades between the values of mu that are looked at first."""


def _grid(x_K: np.ndarray, clustered: bool) -> _Grid:
    """The first grid for lrs at x_K = log10(lr). clustered: some seed has several runs; if not, tau and immunity have
    nothing to say beyond sigma and lapse, and stay out."""
    low, high = x_K[0] - PAD, x_K[-1] + PAD
    lapse_prior = [LAPSE_PRIOR[0], *(w / 2 for w in LAPSE_PRIOR[1:])] if clustered else LAPSE_PRIOR
    sigma = np.linspace(math.log10(SIGMA[0]), math.log10(SIGMA[1]), 8)
    mu = np.linspace(low, high, math.ceil((high - low) / STEP) + 1)
    return _Grid(
        sigma=_axis(sigma, np.ones(len(sigma)), 0.03),
        mu=_axis(mu, np.ones(len(mu)), 0.001, at_rest=False),
        floor=_axis(special.logit(FLOOR), FLOOR_PRIOR, 0.5),
        lapse=_axis(special.logit(LAPSE), lapse_prior, 0.5),
        immune=_axis(special.logit(LAPSE[1:]), lapse_prior[1:], 0.5) if clustered else None,
        shares=TAU_SHARE if clustered else (1.0,),
    )


def _log_posterior(grid: _Grid, x_K: np.ndarray, patterns_PK: np.ndarray, counts_NP: sparse.csr_array) -> np.ndarray:
    """log of the posterior's weights, the largest 0, of N data sets that count patterns: (N, G) in single precision."""
    floor_F, lapse_L = special.expit(grid.floor.u), special.expit(grid.lapse.u)
    N, P, F, M = len(counts_NP.indptr) - 1, len(patterns_PK), len(floor_F), len(grid.mu.u)
    # C: floor x lapse, and where there is immunity floor alone, at its lapse.
    floor_C, lapse_C = np.repeat(floor_F, len(lapse_L)), np.tile(lapse_L, F)
    if grid.immune:
        floor_C, lapse_C = np.append(floor_C, floor_F), np.append(lapse_C, np.full(F, STEADY))
    gain_C = (1 - floor_C) * (1 - lapse_C)
    yes_PK, no_PK = (patterns_PK == 1).astype(float), (patterns_PK == 0).astype(float)
    yes_P, no_P = yes_PK.sum(1)[:, None], no_PK.sum(1)[:, None]
    by_floor_PF = np.exp(yes_P * np.log(floor_F) + no_P * np.log1p(-floor_F))
    log_NSHQM = np.empty((N, len(grid.sigma.u), *grid.log_prior.shape[1:]), dtype=np.float32)
    some = max(1, ROOM // (P * len(floor_C) * max(CELLS, M, len(x_K))))
    for first, share in itertools.product(range(0, len(grid.sigma.u), some), range(len(grid.shares))):
        sigma_S = 10 ** grid.sigma.u[first : first + some]
        p_SKT, weight_STM = _seeds(x_K, grid.mu.u, sigma_S, grid.shares[share])
        p_SKCT = floor_C[:, None] + gain_C[:, None] * p_SKT[:, :, None]
        log_yes_SKX, log_no_SKX = (v.reshape(*p_SKT.shape[:2], -1) for v in (np.log(p_SKCT), np.log1p(-p_SKCT)))
        here = log_NSHQM[:, first : first + some, share]
        if weight_STM is None and not grid.immune:  # only how many diverged at each lr counts
            log_SNX = (counts_NP @ yes_PK) @ log_yes_SKX + (counts_NP @ no_PK) @ log_no_SKX
            here[:] = np.moveaxis(log_SNX.reshape(len(sigma_S), N, -1, M), 0, 1)
            continue
        mean_SPX = yes_PK @ log_yes_SKX
        mean_SPX += no_PK @ log_no_SKX
        np.exp(mean_SPX, out=mean_SPX)
        if weight_STM is not None:
            mean_SPX = mean_SPX.reshape(len(sigma_S), -1, p_SKT.shape[-1]) @ weight_STM
        mean_SPCM = mean_SPX.reshape(len(sigma_S), P, -1, M)
        if grid.immune:
            share_I = special.expit(grid.immune.u)[:, None]
            steady_SPFM, mean_SPCM = mean_SPCM[:, :, -F:], mean_SPCM[:, :, :-F]
            mixed = (1 - share_I) * steady_SPFM[:, :, :, None] + share_I * by_floor_PF[:, :, None, None]
            mean_SPCM = np.concatenate([mean_SPCM, mixed.reshape(len(sigma_S), P, -1, M)], axis=2)
        for i, mean_PQM in enumerate(mean_SPCM):
            here[:, i] = (counts_NP @ np.log(np.maximum(mean_PQM, TINY)).reshape(P, -1)).reshape(N, -1, M)
    log_NG = log_NSHQM.reshape(N, -1)
    log_NG += grid.log_prior.ravel().astype(np.float32)
    return log_NG - log_NG.max(1, keepdims=True)


TINY = 1e-280

CELLS = 64
"""Into which the thresholds of seeds are cut, where neither tau nor omega is 0."""

ROOM = 500_000
"""Numbers in one array, at most: more values of sigma are looked at one after another."""


def _seeds(
    x_K: np.ndarray, mu_M: np.ndarray, sigma_S: np.ndarray, share: float
) -> tuple[np.ndarray, np.ndarray | None]:
    """What seeds do: P(a run diverges | its seed's threshold lies in cell t), (S, K, T), and P(cell | mu), (S, T, M);
    None for the latter where the threshold is mu itself, T = M. S: values of sigma."""
    tau, omega = (v[:, None, None] for v in (share * sigma_S, math.sqrt(1 - share**2) * sigma_S))
    if share == 0:  # a step: all thresholds between two lrs do the same
        step_KT = (np.arange(len(x_K))[:, None] >= np.arange(len(x_K) + 1)).astype(float)
        return np.broadcast_to(step_KT, (len(sigma_S), *step_KT.shape)), _between(x_K[:, None], mu_M, omega)
    if share == 1:
        return special.expit((x_K[:, None] - mu_M) / tau), None
    # Beyond these ends the runs of all seeds do alike; the outermost cells hold the tails.
    low, high = np.maximum(mu_M[0] - 8 * omega, x_K[0] - 8 * tau), np.minimum(mu_M[-1] + 8 * omega, x_K[-1] + 8 * tau)
    h = np.maximum(high - low, tau) / CELLS
    t_ST = low + h * (np.arange(CELLS) + 0.5)
    borders = np.swapaxes(t_ST[:, :, :-1] + h / 2, 1, 2)
    return _mean_expit(x_K[:, None] - t_ST, h, tau), _between(borders, mu_M, omega)


def _mean_expit(z: np.ndarray, h: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """S((z - u) / tau), averaged over u in [-h/2, h/2]."""
    upper, lower = (np.logaddexp(0, (z + side * h / 2) / tau) for side in (1, -1))
    return np.clip((upper - lower) * tau / h, 0, 1)


def _between(borders: np.ndarray, mu_M: np.ndarray, omega: np.ndarray) -> np.ndarray:
    """P(a seed's threshold lies below, between and above the borders, (..., B, 1) | mu): (S, B + 1, M)."""
    below = special.expit((borders - mu_M) / omega)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)


def _weighted_quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    ends = np.cumsum(weight[order])
    index = np.searchsorted(ends, np.asarray(shares) * ends[-1])
    return [float(v) for v in values[order][np.minimum(index, len(values) - 1)]]


def fits(runs: pd.DataFrame) -> dict[tuple[str, str], Fit]:
    """(model, curve) -> Fit, of a table with one row a run (`analysis.load`). Curves that did alike share one."""
    known: dict[Any, Fit] = {}
    found = {}
    for key, (lrs, diverged_SK) in outcomes_by_curve(with_curves(runs)).items():
        alike = (tuple(lrs), _did(diverged_SK))
        if alike not in known:
            known[alike] = fit(lrs, diverged_SK)
        found[key] = known[alike]
    return found


def _did(diverged_SK: np.ndarray) -> bytes:
    """What diverged, whichever the seeds are."""
    did = np.nan_to_num(diverged_SK, nan=-1).astype(np.int8)
    return did[np.lexsort(did.T[::-1])].tobytes()


def outcomes(curve: pd.DataFrame) -> tuple[list[float], np.ndarray]:
    """The runs of one curve as `fit` takes them: its lrs, ascending, and the (S, K) matrix of what diverged."""
    return _matrix(*_marked(curve))


def outcomes_by_curve(runs: pd.DataFrame) -> dict[tuple[str, str], tuple[list[float], np.ndarray]]:
    """(model, curve) -> `outcomes`, in the order of the table. (A table a curve takes pandas a millisecond each.)"""
    seed_N, lr_N, diverged_N = _marked(runs)
    of_curve = sorted(runs.groupby(CURVE, sort=False).indices.items(), key=lambda item: item[1][0])
    found = {}
    for key, at in of_curve:
        model, curve = key  # pyright: ignore[reportGeneralTypeIssues]
        found[str(model), str(curve)] = _matrix(seed_N[at], lr_N[at], diverged_N[at])
    return found


def _marked(runs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each run its seed, its lr, and 1 where it diverged."""
    diverged = (runs["outcome"] == "diverged").to_numpy(dtype=float)
    return runs["seed"].to_numpy(dtype=np.int64), runs["lr"].to_numpy(dtype=float), diverged


def _matrix(seed_N: np.ndarray, lr_N: np.ndarray, diverged_N: np.ndarray) -> tuple[list[float], np.ndarray]:
    _, of_seed = np.unique(seed_N, return_inverse=True)
    lrs, of_lr = np.unique(lr_N, return_inverse=True)
    diverged_SK = np.full((of_seed.max(initial=-1) + 1, len(lrs)), math.nan)
    np.fmax.at(diverged_SK, (of_seed, of_lr), diverged_N)
    return lrs.tolist(), diverged_SK


def fitted_curves(runs: pd.DataFrame, points: int = 120, fitted: Mapping | None = None) -> pd.DataFrame:
    """The fitted P(divergence | lr) between the lowest and highest tried lr of each curve: columns model, curve,
    method, lr, rate (posterior median), low, high (95% band, pointwise)."""
    runs = with_curves(runs)
    fitted = fits(runs) if fitted is None else fitted
    rows = []
    for (model, name), curve in _curves(runs.reindex(columns=[*CURVE, "method"])):
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
    where some lr has fewer than `rates.FEW_RUNS` runs, as a search leaves them, monotone and all that is read without
    a model are of the lrs of each quarter octave together;
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
    heads = runs.drop_duplicates(CURVE).reindex(columns=[*CURVE, *same])
    steps = pd.Series(runs.groupby(CURVE, sort=False)["steps"].max()).tolist()
    did = outcomes_by_curve(runs)
    for head, most in zip(records(heads), steps, strict=True):
        key = (str(head["model"]), str(head["curve"]))
        found = fitted[key].once(
            ("edge of", level, _did(did[key][1])), functools.partial(edge_of, *did[key], fitted[key], level)
        )
        rows.append(head | {"level": level} | found | {"steps": most})
    columns = [*CURVE, *same, "level", *EDGE_COLUMNS, "steps"]
    return in_order(pd.DataFrame(rows, columns=pd.Index(columns)))


EDGE_COLUMNS = (
    *("edge", "low", "high", "status", "seeds", "lrs", "lr_min", "lr_max", "monotone", "bound_low", "bound_high"),
    *("safe_lr", "safe_k", "safe_n", "safe_bound", "most_k", "most_n", "most_lr", "n_min", "n_max"),
)


def edge_of(lrs: list[float], diverged_SK: np.ndarray, one: Fit, level: float) -> dict[str, Any]:
    """The edge of one curve, EDGE_COLUMNS of `edges`; arguments as `fit`, with what it gave."""
    n = np.isfinite(diverged_SK).sum(0)
    k = np.nansum(diverged_SK, 0).astype(int)
    lrs, k, n = [lr for lr, runs in zip(lrs, n, strict=True) if runs], k[n > 0], n[n > 0]
    read = _pooled(np.array(lrs), k, n)
    bound_low, bound_high = _model_free(read, level)
    monotone = _is_monotone(read.k, read.n)
    if monotone:
        low, edge, high = (10**q for q in one.edge(level, (TAIL, 0.5, 1 - TAIL)))
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pools:
    """Runs as they are read without a model, (P,) each, lrs ascending: the lowest lr of a pool, the mean log lr of its
    runs (as an lr) and the highest; k of n diverged."""

    lowest: np.ndarray
    middle: np.ndarray
    highest: np.ndarray
    k: np.ndarray
    n: np.ndarray


def _pooled(lrs: np.ndarray, k: np.ndarray, n: np.ndarray) -> _Pools:
    """Each lr by itself; those of a quarter octave together where an lr has hardly a run, as a search leaves them: a
    single run that diverged says little of its lr, and among a hundred lrs some single run always does."""
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
    """(bound_low, bound_high). What is bounded is the mean rate of a pool (W. Hoeffding, Ann. Math. Statist. 27 (1956):
    runs of unlike rates only make these bounds wider), which where rates rise its lowest lr is below, its highest
    above."""
    counts = [(int(a), int(b)) for a, b in zip(read.k, read.n, strict=True)]
    confidence = 1 - TAIL / len(counts)
    undecided = next((i for i, (k, n) in enumerate(counts) if upper_bound(k, n, confidence) >= level), len(counts))
    above = [i for i, (k, n) in enumerate(counts) if lower_bound(k, n, confidence) > level]
    return (
        float(read.lowest[undecided - 1]) if undecided else 0.0,
        float(read.highest[above[0]]) if above else math.inf,
    )


def _is_monotone(k: np.ndarray, n: np.ndarray) -> bool:
    """False where some lrs, neighbours pooled, diverge more than some higher ones, their 99% intervals apart. (Given
    its threshold a seed's runs are independent, and none falls: pooling them is fair to clusters.)"""
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


def edge_text(row: Mapping[str, Any]) -> str:
    """An edge in a table: `0.48`, `> 1.6`, `< 0.01`."""
    if row["status"] == NOT_REACHED:
        return f"> {row['lr_max']:g}"
    return two_digits(row["edge"]) if row["status"] == REACHED else f"< {row['lr_min']:g}"


def edge_span(row: Mapping[str, Any]) -> str:
    """Its interval in a table: `0.44 to 0.53`, `above 12.8`. An end of what was tried is that lr, to the last digit."""
    if row["low"] == row["lr_max"] and math.isinf(row["high"]):
        return f"above {row['lr_max']:g}"
    if row["low"] == 0 and row["high"] == row["lr_min"]:
        return f"below {row['lr_min']:g}"
    return span_text(row["low"], row["high"])


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
        said = f"{share} of the runs diverge {within} at lr {two_digits(row['edge'])} ({_interval(row)}, {seeds})"
    if row["status"] == REACHED and row["safe_bound"] >= row["level"]:
        safe = ""  # one run of an adaptive search that did not diverge bounds nothing
    elif row["status"] == BELOW:
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
    return f"{row['curve']}: {'; '.join(filter(None, [said, safe]))}.{odd}"


def _interval(row: Mapping[str, Any]) -> str:
    if row["low"] == 0 and math.isinf(row["high"]):
        return "the 95% interval is wider than the range tried"
    if row["low"] == 0:
        return f"95% sure below {two_digits(row['high'])}"
    if math.isinf(row["high"]):
        return f"95% sure above {two_digits(row['low'])}"
    return f"95% interval {two_digits(row['low'])} to {two_digits(row['high'])}"


def _percent(p: float) -> str:
    return f"{100 * p:.2g}%" if p < 0.995 else "100%"


def _curves(runs: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    return [((str(key[0]), str(key[1])), curve) for key, curve in runs.groupby(CURVE, sort=False)]  # pyright: ignore
