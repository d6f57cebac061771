"""P(divergence | lr) of one curve as a psychometric function, with a threshold of its own for each seed.

With x = log10(lr), seed s has its own threshold t_s ~ Logistic(mu, omega), and a run of that seed diverges with

    p(x | t) = floor + (1 - floor) (1 - lapse) S((x - t) / tau)        S(z) = 1 / (1 + exp(-z))

A share `immune` of the seeds diverges only by the floor. Averaged over seeds,

    P(x) = floor + (1 - floor) plateau S((x - mu) / sigma)             plateau = (1 - lapse) (1 - immune)

with sigma^2 = omega^2 + tau^2: a logistic with floor and free lapse, fitted with a seed effect. (The sum of two
logistic variables is taken as logistic with the same variance: exact where tau or omega is 0, and at the median.) The
edge at a level is where P crosses it. The posterior is summed on a grid, so there is no optimizer and no sampling, and
perfectly separated data, common on steep cliffs, need no special case. Missing runs carry no information.

Source: F. A. Wichmann and N. J. Hill, "The psychometric function", Perception & Psychophysics 63 (2001), whose lapse is
free here too; the latent thresholds are those of interval-censored survival data.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy import sparse, special

from analysis.stats.links import Link
from analysis.stats.posterior_grid import STEADY, Grid, first_grid


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """The posterior of one curve: G grid points with weights that sum to 1.

    It stores the indices of its points and their log weights, since a study has a fit for each curve and explicit
    points take five times the memory. Results are cached: curves with equal outcomes share a fit.

    Attributes:
        grid: The last, finest grid.
        at: Indices of the points that are kept, (G,).
        log_weight: Of these points, (G,).
        lrs: The tried learning rates, ascending.
        log_evidence: Log probability of the outcomes under the model.
        patterns: Outcomes of a seed, 1, 0, or -1 if missing, (P, K).
        counts: Seeds with each pattern, (P,).
    """

    grid: "Grid"
    at: np.ndarray
    log_weight: np.ndarray
    lrs: tuple[float, ...]
    log_evidence: float
    patterns: np.ndarray
    counts: np.ndarray
    _known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        tried = f"{len(self.lrs)} lrs from {self.lrs[0]:g} to {self.lrs[-1]:g}" if self.lrs else "no lr"
        return f"<Fit of {int(self.counts.sum())} seeds and {tried}>"

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
        """Return quantiles of log10 of the edge; see `edges` for infinite values."""
        return self.once(
            ("edge", level, tuple(shares)), lambda: weighted_quantiles(self.edges(level), self.weight, shares)
        )

    def curve(self, lrs: np.ndarray, shares: Sequence[float]) -> np.ndarray:
        """Return quantiles of P(divergence | lr), (len(shares), len(lrs))."""
        key = ("curve", lrs.tobytes(), tuple(shares))
        return self.once(key, lambda: np.quantile(self._rates(lrs), shares, axis=1))

    def line(self, lrs: np.ndarray) -> np.ndarray:
        """Return P(divergence | lr), the mean of the middle half of its posterior, (len(lrs),).

        It crosses a level where the median does, to about a line's width, and stays inside the band. The median itself
        has kinks, since floor and plateau have few values. The mean of the whole posterior lies away from low levels.
        """
        quarter = CURVE_POINTS // 4
        key = ("line", lrs.tobytes())
        return self.once(key, lambda: np.sort(self._rates(lrs), axis=1)[:, quarter:-quarter].mean(axis=1))

    def once(self, key: Any, find: Callable[[], Any]) -> Any:
        """Return `find()`, computed once for each key."""
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]

    def edges(self, level: float) -> np.ndarray:
        """Return log10 of the edge at every point of the posterior, (G,).

        -inf: P is above the level at every lr; inf: P never reaches it.
        """
        need = (level - self.floor) / ((1 - self.floor) * self.plateau)
        edge = np.where(need <= 0, -np.inf, np.inf)
        inside = (need > 0) & (need < 1)
        edge[inside] = self.mu[inside] + self.sigma[inside] * self.grid.link.quantile(need[inside])
        return edge

    def drawn(self) -> np.ndarray:
        """Return CURVE_POINTS points of the posterior, evenly spaced in its weight."""
        ends = np.cumsum(self.weight)
        return np.searchsorted(ends, (np.arange(CURVE_POINTS) + 0.5) / CURVE_POINTS * ends[-1])

    def _rates(self, lrs: np.ndarray) -> np.ndarray:
        """P(divergence | lr) at the points of `drawn`, (len(lrs), CURVE_POINTS)."""
        drawn = self.drawn()
        mu, sigma, floor, plateau = (v[drawn] for v in (self.mu, self.sigma, self.floor, self.plateau))
        return floor + (1 - floor) * plateau * self.grid.link.cdf((np.log10(lrs)[:, None] - mu) / sigma)


CURVE_POINTS = 2000
"""Points that give the band of a fitted curve, and stand for the fit of another link."""


@functools.lru_cache(maxsize=8)
def _unfolded(fit: Fit) -> tuple[np.ndarray, ...]:
    """mu, sigma, floor, plateau and weight of a fit's points; cached for the latest fits only."""
    weight = np.exp(fit.log_weight.astype(float))
    return *fit.grid.points(fit.at), weight / weight.sum()


def fit(lrs: Sequence[float], diverged_SK: np.ndarray) -> Fit:
    """Fit one curve.

    Args:
        lrs: K ascending learning rates.
        diverged_SK: S seeds by K lrs: 1, 0, or NaN if missing.
    """
    return fit_many(lrs, diverged_SK[None])[0]


def fit_many(lrs: Sequence[float], diverged_NSK: np.ndarray) -> list[Fit]:
    """Fit N curves at the same lrs, (N, S, K). Equal to `fit` of each, but faster: equal seeds count once."""
    N, S, K = diverged_NSK.shape
    x_K = np.log10(lrs)
    seen = np.isfinite(diverged_NSK)
    coded = np.where(seen, diverged_NSK, -1).astype(np.int8).reshape(-1, K)
    # Rows as bytes that sort like their numbers: much faster than `axis=0`, since a search has a thousand lrs.
    rows = (coded + 1).astype(np.uint8).view(f"S{K}")[:, 0]
    _, first, of_seed = np.unique(rows, return_index=True, return_inverse=True)
    patterns_PK = coded[first]
    counts_NP = sparse.csr_array((np.ones(N * S), of_seed, np.arange(0, N * S + 1, S)), (N, len(patterns_PK)))
    counts_NP.sum_duplicates()
    grid = first_grid(x_K, clustered=bool((seen.sum(2) > 1).any()))
    return [
        _zoomed(grid, log_joint_G, tuple(float(lr) for lr in lrs), patterns_PK, counts_NP[[n]])
        for n, log_joint_G in enumerate(_log_joint(grid, x_K, patterns_PK, counts_NP))
    ]


def fit_link(fit: Fit, link: Link) -> Fit:
    """Return the fit of the same outcomes with another link; see `first_grid`."""
    x_K, counts_1P = np.log10(fit.lrs), sparse.csr_array(fit.counts[None])
    grid = first_grid(x_K, clustered=bool(((fit.patterns >= 0).sum(1) > 1).any()), link=link)
    (log_joint_G,) = _log_joint(grid, x_K, fit.patterns, counts_1P)
    found = _zoomed(grid, log_joint_G, fit.lrs, fit.patterns, counts_1P)
    drawn = found.drawn()  # a study keeps these fits too
    return replace(found, at=found.at[drawn], log_weight=np.zeros(len(drawn), dtype=np.float32), _known={})


NEGLIGIBLE = 1e-7
"""Points whose weight is a smaller share of the largest are left out."""

ZOOMS = 4
"""The most times that a grid is refined; each makes three points of one."""


def _zoomed(
    grid: "Grid",
    log_joint_G: np.ndarray,
    lrs: tuple[float, ...],
    patterns_PK: np.ndarray,
    counts_1P: sparse.csr_array,
) -> Fit:
    """The posterior on a grid that resolves it: many seeds make it narrower than the first grid's steps."""
    done = counts_1P.indices
    patterns_PK, counts_1P = patterns_PK[done], counts_1P[:, done]
    x_K, prior_mass = np.log10(lrs), grid.prior_mass
    top = log_joint_G.max()
    for _ in range(ZOOMS):
        finer = grid.zoom(log_joint_G - top)
        if finer is None:
            break
        grid = finer
        (log_joint_G,) = _log_joint(grid, x_K, patterns_PK, counts_1P)
        top = log_joint_G.max()
    log_weight_G = log_joint_G - top
    keep = np.flatnonzero(log_weight_G > math.log(NEGLIGIBLE))
    mass = float(np.exp(log_weight_G[keep], dtype=float).sum())
    return Fit(
        grid=grid,
        at=keep.astype(np.int32),
        log_weight=log_weight_G[keep],
        lrs=lrs,
        log_evidence=float(top) + math.log(mass / prior_mass),
        patterns=patterns_PK,
        counts=counts_1P.toarray()[0],
    )


def weighted_quantiles(values: np.ndarray, weight: np.ndarray, shares: Sequence[float]) -> list[float]:
    """Return quantiles of weighted values, which may be infinite."""
    order = np.argsort(values)
    ends = np.cumsum(weight[order])
    index = np.searchsorted(ends, np.asarray(shares) * ends[-1])
    return [float(v) for v in values[order][np.minimum(index, len(values) - 1)]]


def _log_joint(grid: Grid, x_K: np.ndarray, patterns_PK: np.ndarray, counts_NP: sparse.csr_array) -> np.ndarray:
    """Log of prior weight times likelihood, for N data sets that count patterns: (N, G), single precision."""
    floor_F, lapse_L = special.expit(grid.floor.u), special.expit(grid.lapse.u)
    N, P, F, M = len(counts_NP.indptr) - 1, len(patterns_PK), len(floor_F), len(grid.mu.u)
    # C: floor x lapse, and where there is immunity floor alone, at its lapse.
    floor_C, lapse_C = np.repeat(floor_F, len(lapse_L)), np.tile(lapse_L, F)
    if grid.immune:
        floor_C, lapse_C = np.append(floor_C, floor_F), np.append(lapse_C, np.full(F, STEADY))
    gain_C, rest_C = (1 - floor_C) * (1 - lapse_C), (1 - floor_C) * lapse_C
    yes_PK, no_PK = (patterns_PK == 1).astype(float), (patterns_PK == 0).astype(float)
    yes_P, no_P = yes_PK.sum(1)[:, None], no_PK.sum(1)[:, None]
    by_floor_PF = np.exp(yes_P * np.log(floor_F) + no_P * np.log1p(-floor_F))
    log_NSHQM = np.empty((N, len(grid.sigma.u), *grid.shape[1:]), dtype=np.float32)
    some = max(1, ROOM // (P * len(floor_C) * max(CELLS, M, len(x_K))))
    for first, share in itertools.product(range(0, len(grid.sigma.u), some), range(len(grid.shares))):
        sigma_S = 10 ** grid.sigma.u[first : first + some]
        p_SKT, weight_STM = _seeds(x_K, grid.mu.u, sigma_S, grid.shares[share], grid.link)
        here_NSQM = log_NSHQM[:, first : first + some, share]
        if weight_STM is None and not grid.immune:  # only how many diverged at each lr counts
            k_NK, rest_NK = counts_NP @ yes_PK, counts_NP @ no_PK
            some_K, others_K = k_NK.any(0), rest_NK.any(0)
            log_SNX = k_NK[:, some_K].astype(np.float32) @ _logs(floor_C, gain_C, p_SKT[:, some_K])
            log_SNX += rest_NK[:, others_K].astype(np.float32) @ _logs(rest_C, gain_C, 1 - p_SKT[:, others_K])
            here_NSQM[:] = np.moveaxis(log_SNX.reshape(len(sigma_S), N, -1, M), 0, 1)
            continue
        p_SKX = (floor_C[:, None] + gain_C[:, None] * p_SKT[:, :, None]).reshape(*p_SKT.shape[:2], -1)
        log_yes_SKX, log_no_SKX = np.log(p_SKX), np.log1p(-p_SKX)
        mean_SPX = yes_PK @ log_yes_SKX
        mean_SPX += no_PK @ log_no_SKX
        np.exp(mean_SPX, out=mean_SPX)
        if weight_STM is not None:
            mean_SPX = mean_SPX.reshape(len(mean_SPX), -1, p_SKT.shape[-1]) @ weight_STM
        mean_SPCM = mean_SPX.reshape(len(sigma_S), P, -1, M)
        parts = [mean_SPCM[:, :, : F * len(lapse_L)]]
        if grid.immune:
            share_I = special.expit(grid.immune.u)[:, None]
            steady_SPFM = mean_SPCM[:, :, F * len(lapse_L) :]
            mixed = (1 - share_I) * steady_SPFM[:, :, :, None] + share_I * by_floor_PF[:, :, None, None]
            parts.append(mixed.reshape(len(sigma_S), P, -1, M))
        q = 0
        for mean_SPqM in parts:
            for i, mean_PqM in enumerate(mean_SPqM):
                log_PX = np.log(np.maximum(mean_PqM, TINY)).reshape(P, -1)
                here_NSQM[:, i, q : q + mean_PqM.shape[1]] = (counts_NP @ log_PX).reshape(N, -1, M)
            q += mean_SPqM.shape[2]
    log_NG = log_NSHQM.reshape(N, -1)
    log_NG += grid.log_prior.ravel()
    return log_NG


def _logs(least_C: np.ndarray, gain_C: np.ndarray, share_SKM: np.ndarray) -> np.ndarray:
    """Log of a probability that is at least `least_C`, single precision: (S, K, C * M).

    The probabilities of an outcome and of its opposite are both sums of positive terms, so nothing is lost.
    """
    least_C, gain_C, share_SKM = (part.astype(np.float32) for part in (least_C, gain_C, share_SKM))
    p_SKCM = least_C[:, None] + gain_C[:, None] * share_SKM[:, :, None]
    return np.log(p_SKCM, out=p_SKCM).reshape(*share_SKM.shape[:2], len(least_C) * share_SKM.shape[2])


TINY = 1e-280

CELLS = 64
"""Intervals into which seeds' thresholds are cut if neither tau nor omega is 0."""

ROOM = 500_000
"""The most numbers in one array; further values of sigma are computed one after another."""


def _seeds(
    x_K: np.ndarray, mu_M: np.ndarray, sigma_S: np.ndarray, share: float, link: Link
) -> tuple[np.ndarray, np.ndarray | None]:
    """(P(a run diverges | its seed's threshold lies in cell t), P(cell | mu)): (S, K, T) and (S, T, M), for S sigmas.

    The first is (1, K, T) if it is the same for all sigmas. The second is None if the threshold is mu itself; then
    T = M.
    """
    tau, omega = (v[:, None, None] for v in (share * sigma_S, math.sqrt(1 - share**2) * sigma_S))
    if share == 0:  # a step: all thresholds between two lrs are equivalent
        step_KT = (np.arange(len(x_K))[:, None] >= np.arange(len(x_K) + 1)).astype(float)
        return step_KT[None], _between(x_K[:, None], mu_M, omega, link)
    if share == 1:
        return link.cdf((x_K[:, None] - mu_M) / tau), None
    # Beyond these ends the runs of all seeds are equal; the outermost cells hold the tails.
    low, high = np.maximum(mu_M[0] - 8 * omega, x_K[0] - 8 * tau), np.minimum(mu_M[-1] + 8 * omega, x_K[-1] + 8 * tau)
    h = np.maximum(high - low, tau) / CELLS
    t_ST = low + h * (np.arange(CELLS) + 0.5)
    borders = np.swapaxes(t_ST[:, :, :-1] + h / 2, 1, 2)
    return _mean_expit(x_K[:, None] - t_ST, h, tau), _between(borders, mu_M, omega, link)


def _mean_expit(z: np.ndarray, h: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """The mean of S((z - u) / tau) over u in [-h/2, h/2]."""
    upper, lower = (np.logaddexp(0, (z + side * h / 2) / tau) for side in (1, -1))
    return np.clip((upper - lower) * tau / h, 0, 1)


def _between(borders: np.ndarray, mu_M: np.ndarray, omega: np.ndarray, link: Link) -> np.ndarray:
    """P(a seed's threshold lies below, between and above the borders | mu): (S, B + 1, M) for borders (..., B, 1)."""
    below = link.cdf((borders - mu_M) / omega)
    return np.diff(below, axis=1, prepend=0.0, append=1.0)
