"""The interval of an edge that only assumes that P rises: against a direct maximization, and on drawn runs."""

import itertools
import math

import numpy as np
import pytest
from scipy import special
from shapes import SHAPES
from simulated_search import search

from analysis.stats.monotone_edge import gap_ratios, monotone_ends

PROBABILITIES = np.linspace(0, 1, 20_001)
"""A grid so fine that the best log-likelihood on it is within 1e-5 of the best of all."""


def best_log_likelihood(k_K, n_K, level, gap):
    """Maximized over all rising curves on a grid of probabilities, at most the level before the gap."""
    best_P = np.zeros(len(PROBABILITIES))  # of the lrs so far, by P at the last of them
    for j, (k, n) in enumerate(zip(k_K, n_K, strict=True)):
        allowed_P = level >= PROBABILITIES if j < gap else level <= PROBABILITIES
        of_lr_P = special.xlogy(k, PROBABILITIES) + special.xlog1py(n - k, -PROBABILITIES)
        best_P = np.maximum.accumulate(best_P) + np.where(allowed_P, of_lr_P, -np.inf)
    return best_P.max()


@pytest.mark.parametrize("level", [0.5, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_ratios_equal_those_of_a_direct_maximization(level, seed):
    rng = np.random.default_rng(seed)
    n_K = rng.integers(1, 8, 6)
    k_K = rng.binomial(n_K, np.linspace(0.05, 0.9, 6))
    log_likelihood_G = np.array([best_log_likelihood(k_K, n_K, level, gap) for gap in range(7)])
    expected = 2 * (log_likelihood_G.max() - log_likelihood_G)
    assert gap_ratios(k_K, n_K, level) == pytest.approx(expected, abs=1e-4)


def test_ends_are_tried_lrs_and_infinite_beyond_them():
    x = np.log10([0.1, 0.2, 0.4])
    low, high = monotone_ends(x, np.array([0, 0, 9]), np.array([9, 9, 9]), 0.5, [-1.96, 0, 1.96])
    assert low == pytest.approx(np.log10([0.2] * 3))
    assert high == pytest.approx(np.log10([0.4] * 3))
    low, high = monotone_ends(x, np.zeros(3), np.full(3, 9), 0.5, [-1.96, 1.96])
    assert low[0] == x[2]
    assert high[1] == math.inf
    low, high = monotone_ends(x, np.full(3, 9), np.full(3, 9), 0.5, [-1.96, 1.96])
    assert low[0] == -math.inf
    assert high[1] == x[0]


@pytest.mark.parametrize(("runs", "low"), [(1, -math.inf), (2, -1.0)])
def test_limit_of_the_95_percent_interval_by_pencil(runs, low):
    """No run of n diverged at lr 0.1: an edge below it has ratio 2 n log 2, which is 1.39 for one run, 2.77 for two."""
    lowest, highest = monotone_ends(np.array([-1.0]), np.zeros(1), np.array([runs]), 0.5, [-1.96, 1.96])
    assert lowest[0] == low
    assert highest[1] == math.inf


def test_bounds_rise_with_the_score_and_lowest_is_never_above_highest():
    rng = np.random.default_rng(3)
    x, scores = np.linspace(-2, 0, 60), np.linspace(-4, 4, 33)
    k = (rng.random(60) < special.expit((x + 1) / 0.1)).astype(float)
    lowest, highest = monotone_ends(x, k, np.ones(60), 0.5, scores)
    assert (lowest <= highest).all()
    for bounds in (lowest, highest):
        assert all(a <= b for a, b in itertools.pairwise(bounds))


@pytest.mark.parametrize("rate", [special.expit, lambda z: np.where(z < 0, 0.1, 0.45 + 0.1 * np.minimum(z, 5))])
def test_intervals_of_runs_at_random_lrs_cover(rate):
    rng, covered = np.random.default_rng(4), 0
    for _ in range(150):
        x = np.sort(rng.uniform(-1, 1, 200))
        k = (rng.random(200) < rate(x / 0.1)).astype(float)
        low, high = monotone_ends(x, k, np.ones(200), 0.5, [-1.96, 1.96])
        truth = 0.0 if rate is special.expit else 0.05
        covered += low[0] <= truth <= high[1]
    # Binomial(150, 0.93) lies below 130 with probability 0.4%.
    assert covered >= 130


def test_searches_cover_two_groups_of_seeds():
    shape = SHAPES["two groups of seeds, 60% and 40%, 0.8 decades apart"].at(0.06)
    found = [search(shape, seed, precision=1.6) for seed in range(24)]
    covered = sum(one.low <= math.log10(0.06) <= one.high for one in found)
    # Binomial(24, 0.92) lies below 18 with probability 0.3%.
    assert covered >= 18
