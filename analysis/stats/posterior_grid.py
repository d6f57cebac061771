"""The grid on which the posterior of `analysis.stats.psychometric` is summed: its points, prior and refinement."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from analysis.stats.links import LOGISTIC, Link

SIGMA = (0.01, 0.63)
"""The range of the logistic's scale, in decades of lr, uniform in log. 0.01 is a cliff (P from 0.1 to 0.9 within
11%), 0.63 a gentle slope.
"""

TAU_SHARE = (0.0, 0.5, 0.85, 1.0)

TAU_PRIOR = (0.7, 0.15, 0.1, 0.05)
"""tau / sigma. 0: each seed switches once. 1: runs of a seed are as independent as runs of different seeds."""

FLOOR = (0.002, 0.03, 0.1, 0.3, 0.6, 0.9)

FLOOR_PRIOR = (0.6, 0.2, 0.1, 0.05, 0.03, 0.02)

LAPSE = (0.005, 0.05, 0.15, 0.3, 0.5, 0.7, 0.9)

LAPSE_PRIOR = (0.45, 0.15, 0.1, 0.1, 0.08, 0.07, 0.05)
"""The share of runs above their threshold that do not diverge; the same prior serves `immune`, the share of seeds."""

PAD = 0.6
"""Decades by which the uniform prior of mu extends beyond the tried lrs on either side."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The values of one parameter, in a coordinate u.

    Attributes:
        u: The values.
        knots: Between them the prior's log density is linear.
        log_density: The prior's log density at the knots.
        finest: No two values need be closer.
        at_rest: Whether values below the first knot are equivalent to it, so that a peak there needs no finer grid.
    """

    u: np.ndarray
    knots: np.ndarray
    log_density: np.ndarray
    finest: float
    at_rest: bool

    @property
    def log_prior(self) -> np.ndarray:
        return np.interp(self.u, self.knots, self.log_density) + np.log(_widths(self.u))

    def zoom(self, mass: np.ndarray) -> tuple["Axis", bool]:
        """Return the axis around the posterior's mass, and whether it was too coarse.

        The new axis covers the values that hold mass and one step beyond. If one value holds too much of it, steps
        next to the heaviest values are cut in thirds.
        """
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


def _axis(knots: np.ndarray, mass: Sequence[float] | np.ndarray, finest: float, *, at_rest: bool = True) -> Axis:
    log_density = np.log(np.asarray(mass) / _widths(knots))
    return Axis(u=knots, knots=knots, log_density=log_density, finest=finest, at_rest=at_rest)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The points of a posterior: for each sigma and share (tau / sigma), floor x lapse and then floor x immune, by mu.

    u is log10 of sigma and of lr, and the log odds of floor, lapse and immune. Without `immune`, immunity is left out.
    """

    sigma: Axis
    mu: Axis
    floor: Axis
    lapse: Axis
    immune: Axis | None
    shares: tuple[float, ...]
    link: Link

    @functools.cached_property
    def log_prior(self) -> np.ndarray:
        """(sigma, share, Q, mu), up to a constant; single precision."""
        floor = self.floor.log_prior[:, None]
        of_Q = [(floor + axis.log_prior).ravel() for axis in (self.lapse, self.immune) if axis]
        shares = np.log([TAU_PRIOR[TAU_SHARE.index(share)] for share in self.shares])
        return (
            self.sigma.log_prior[:, None, None, None]
            + shares[:, None, None]
            + np.concatenate(of_Q)[:, None]
            + self.mu.log_prior
        ).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the points: (sigma, share, Q, mu)."""
        kinds = len(self.lapse.u) + (len(self.immune.u) if self.immune else 0)
        return len(self.sigma.u), len(self.shares), len(self.floor.u) * kinds, len(self.mu.u)

    @property
    def prior_mass(self) -> float:
        """The sum of the prior's weights, of a first grid: those of sigma and of mu are 1 each."""
        shares = sum(TAU_PRIOR[TAU_SHARE.index(share)] for share in self.shares)
        return float(len(self.sigma.u) * len(self.mu.u)) * shares

    def points(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return mu, sigma, floor and plateau at flat indices."""
        i_sigma, _, i_q, i_mu = np.unravel_index(at, self.shape)
        floor, lapse = special.expit(self.floor.u), special.expit(self.lapse.u)
        immune = special.expit(self.immune.u) if self.immune else np.zeros(0)
        floors = np.concatenate([np.repeat(floor, len(lapse)), np.repeat(floor, len(immune))])
        plateaus = np.concatenate([np.tile(1 - lapse, len(floor)), (1 - STEADY) * (1 - np.tile(immune, len(floor)))])
        # Points are spread over their cells, by golden ratios, so that quantiles do not stick to the grid.
        mu = self.mu.u[i_mu] + _widths(self.mu.u)[i_mu] * ((at * 0.6180339887498949) % 1 - 0.5)
        sigma = self.sigma.u[i_sigma] + _widths(self.sigma.u)[i_sigma] * ((at * 0.7548776662466927) % 1 - 0.5)
        return mu, 10**sigma, floors[i_q], plateaus[i_q]

    def zoom(self, log_weight_G: np.ndarray) -> "Grid | None":
        """Return a finer grid around the posterior's mass, or None if this one resolves it."""
        F, L = len(self.floor.u), len(self.lapse.u)
        weight = np.exp(log_weight_G.reshape(self.shape))
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
        return replace(self, sigma=sigma, mu=mu, floor=floor, lapse=lapse, immune=immune, shares=shares)


STEADY = LAPSE[0]
"""The lapse that goes with immunity."""

STEP = 0.05
"""Decades between the first values of mu."""


def first_grid(x_K: np.ndarray, clustered: bool, link: Link = LOGISTIC) -> Grid:
    """Return the first grid for lrs at x_K = log10(lr).

    Args:
        x_K: Ascending.
        clustered: Whether some seed has several runs. If not, tau and immunity are left out: the data cannot tell
            them from sigma and lapse.
        link: Of the thresholds. With another than the logistic, each seed switches once (tau is 0).
    """
    low, high = x_K[0] - PAD, x_K[-1] + PAD
    lapse_prior = [LAPSE_PRIOR[0], *(w / 2 for w in LAPSE_PRIOR[1:])] if clustered else LAPSE_PRIOR
    sigma = np.linspace(math.log10(SIGMA[0]), math.log10(SIGMA[1]), 8)
    mu = np.linspace(low, high, math.ceil((high - low) / STEP) + 1)
    return Grid(
        sigma=_axis(sigma, np.ones(len(sigma)), 0.03),
        mu=_axis(mu, np.ones(len(mu)), 0.001, at_rest=False),
        floor=_axis(special.logit(FLOOR), FLOOR_PRIOR, 0.5),
        lapse=_axis(special.logit(LAPSE), lapse_prior, 0.5),
        immune=_axis(special.logit(LAPSE[1:]), lapse_prior[1:], 0.5) if clustered else None,
        shares=(TAU_SHARE if link is LOGISTIC else (0.0,)) if clustered else (1.0,),
        link=link,
    )
