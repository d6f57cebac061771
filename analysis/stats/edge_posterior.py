"""The posterior of an edge, averaged over shapes of the curve.

There are six models: the logistic of `analysis.stats.psychometric`, the same with each of OTHERS, and a curve without a
shape (`analysis.stats.free_curve`). Each is weighted by its evidence. If one shape is clearly the best, the interval is
about as narrow as its own. If none is, or if all seeds switch inside one gap between lrs, the counts alone decide, and
the interval covers at least that gap.

No shape is exactly right, and no number of seeds shows where P rises between two lrs: a rate of 0.35 at one lr and of 1
at the next fit every shape. But evidence grows with every seed, until a wrong shape is believed. So the evidence of S
seeds at an lr counts as that of S / (1 + S / COARSE).

An adaptive search has few runs at each lr. Its interval is that of the logistic, widened to that of
`analysis.stats.monotone_edge`, which only assumes that P rises.

Source: A. J. Bailer, R. B. Noble and M. W. Wheeler, "Model uncertainty and risk estimation for experimental studies of
quantal responses", Risk Analysis 25 (2005), for the dose at which few respond; J. W. Miller and D. B. Dunson, "Robust
Bayesian inference via coarsening", JASA 114 (2019), for evidence under models that are not exact.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

from analysis.stats.free_curve import FreeCurve, free_curve
from analysis.stats.intervals import TAIL
from analysis.stats.links import OTHERS
from analysis.stats.monotone_edge import monotone_ends
from analysis.stats.psychometric import Fit, fit_link, weighted_quantiles

FREE = 0.2
"""Prior probability of the curve without a shape."""

LOGISTIC_SHARE = 0.4
"""Prior probability of the logistic, given that the curve has a shape. The others share the rest equally."""

COARSE = 32.0
"""Seeds whose evidence counts half. It was chosen by simulation, so that intervals cover."""

SHORTER, SHORTER_SEARCHED = 0.3, 0.55
"""Exponents of the tail in `edge_interval`, for grids and for searches. They were chosen by simulation, so that 95%
intervals cover (docs/statistics.md).
"""

FEW = 5.0
"""Seeds below which an interval leaves out less of the posterior. Three seeds are all of one kind too often: if 40% of
all seeds never diverge, none of three is such a seed with probability 0.22. It was chosen by simulation.
"""


def edge_interval(fit: Fit, level: float) -> tuple[float, float, float]:
    """Return log10 of the edge with its 95% interval: (low, edge, high); see `Fit.edges` for infinite values.

    The edge is the logistic's median, moved into the range between the two medians of `edge_ends`. An edge at a low or
    high level depends on a tail of the curve. Few seeds are there, and no list of shapes is complete. So the interval
    leaves out less of the posterior: at level 0.05, 1.5% instead of 2.5% beyond either end. A search leaves out 1%,
    since it stops when its interval is narrow: in a flat tail, that is often by chance.
    """
    tail = TAIL * (4 * level * (1 - level)) ** (SHORTER_SEARCHED if _free(fit) is None else SHORTER)
    (low, least, _), (_, most, high) = edge_ends(fit, level, (tail, 0.5, 1 - tail))
    (edge,) = fit.edge(level, (0.5,))
    return low, min(max(edge, least), most), high


def edge_ends(fit: Fit, level: float, shares: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return quantiles of log10 of the edge: (lowest, highest).

    The free curve only says in which gap between lrs the edge is. `lowest` takes the gap's lower end, and `highest` its
    upper end. After a search, both are quantiles of the logistic's, or of `monotone_ends` where these lie farther out.

    Args:
        fit: Of the curve.
        level: P(divergence) at the edge.
        shares: Probabilities of the quantiles.
    """
    return fit.once(("ends", level, tuple(shares)), lambda: _edge_ends(fit, level, shares))


def _edge_ends(fit: Fit, level: float, shares: Sequence[float]) -> tuple[list[float], list[float]]:
    free = _free(fit)
    if free is None:
        quantiles = fit.edge(level, shares)
        lowest, highest = _monotone_ends(fit, level, shares)
        return np.minimum(quantiles, lowest).tolist(), np.maximum(quantiles, highest).tolist()
    fits = [fit, *_other_fits(fit)]
    others = (1 - LOGISTIC_SHARE) / len(OTHERS)
    prior = np.array([*((1 - FREE) * share for share in (LOGISTIC_SHARE, *[others] * len(OTHERS))), FREE])
    log_evidence = np.array([*(one.log_evidence for one in fits), free.log_evidence])
    seeds = float(fit.counts @ (fit.patterns >= 0).mean(1))  # at an lr, on average
    shares = _of_few(shares, seeds)
    *of_fits, of_free = special.softmax(np.log(prior) + log_evidence / (1 + seeds / COARSE))
    mass = of_free * np.diff(free.below(level), prepend=0.0, append=1.0)
    weight = np.concatenate([*(share * one.weight for share, one in zip(of_fits, fits, strict=True)), mass])
    edges, x = np.concatenate([one.edges(level) for one in fits]), np.log10(fit.lrs)
    lowest, highest = np.concatenate([edges, [-np.inf], x]), np.concatenate([edges, x, [np.inf]])
    return weighted_quantiles(lowest, weight, shares), weighted_quantiles(highest, weight, shares)


def _of_few(shares: Sequence[float], seeds: float) -> Sequence[float]:
    """Shares that lie further out if there are fewer than FEW seeds: 2.5% becomes 1.5% with 3 seeds."""
    if seeds >= FEW:
        return shares
    stretch = special.ndtri(TAIL * seeds / FEW) / special.ndtri(TAIL)
    return special.ndtr(special.ndtri(shares) * stretch).tolist()


def _monotone_ends(fit: Fit, level: float, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    k_K, n_K = fit.counts @ (fit.patterns == 1), fit.counts @ (fit.patterns >= 0)
    seen = n_K > 0
    return monotone_ends(np.log10(fit.lrs)[seen], k_K[seen], n_K[seen], level, special.ndtri(shares))


def _free(fit: Fit) -> FreeCurve | None:
    return fit.once("free", lambda: free_curve(np.log10(fit.lrs), fit.patterns, fit.counts))


def _other_fits(fit: Fit) -> list[Fit]:
    return fit.once("other links", lambda: [fit_link(fit, link) for link in OTHERS])
