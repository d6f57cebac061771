"""The interval of an edge if P(divergence) only rises with the lr: for runs that each have a seed of their own.

For each gap between neighboring lrs, the log-likelihood ratio compares the best rising curve with the best one that
crosses the level inside this gap. An interval consists of the gaps whose ratio is small enough. Its ends are tried lrs.

Under the true gap, twice the log ratio has the limiting distribution D of the source. Its quantiles are those of the
square of a normal variable times 0.59, to within 2%. A search looks at its interval after every batch and stops when it
is narrow, so the limit is larger here (LIMIT).

Source: M. Banerjee and J. A. Wellner, "Likelihood ratio tests for monotone functions", Annals of Statistics 29 (2001).
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

LIMIT = 0.7
"""Times the square of the score. It was chosen by simulation, so that intervals of searches cover: with 0.59 those of
two groups of seeds (60% and 40%) covered in 91% of 200 searches.
"""


def monotone_ends(
    x_K: np.ndarray, k_K: np.ndarray, n_K: np.ndarray, level: float, scores: Sequence[float] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of log10 of the edge at normal scores, negative ones below the edge: (lowest, highest).

    A score gives the last gap that its ratio does not exclude; lowest and highest are the ends of this gap. They are
    infinite beyond the tried lrs.

    Args:
        x_K: log10 of the lrs, ascending.
        k_K, n_K: Runs that diverged and all runs at each lr; n_K is positive.
        level: P(divergence) at the edge.
        scores: -1.96 and 1.96 give the 95% interval.
    """
    ratio_G = gap_ratios(k_K, n_K, level)
    gaps = []
    for score in scores:
        inside = np.flatnonzero(ratio_G <= LIMIT * score**2 + 1e-9)
        gaps.append(inside[0] if score < 0 else inside[-1])
    ends = np.concatenate([[-np.inf], x_K, [np.inf]])
    return ends[gaps], ends[np.array(gaps) + 1]


def gap_ratios(k_K: np.ndarray, n_K: np.ndarray, level: float) -> np.ndarray:
    """Return twice the log-likelihood ratio of each gap, (K + 1,): the first is below all lrs, the last above."""
    # Reversed, with runs that did not diverge counted, the lrs above a gap are like those below it.
    below_G = _best_up_to(k_K, n_K, level)
    above_G = _best_up_to((n_K - k_K)[::-1], n_K[::-1], 1 - level)[::-1]
    crossing_G = np.add(below_G, above_G)
    return 2 * (crossing_G.max() - crossing_G)


def _best_up_to(k_K: np.ndarray, n_K: np.ndarray, level: float) -> list[float]:
    """Log-likelihood of the first 0 to K lrs under their best rising curve with P <= level.

    This is the best rising curve, cut off at the level. It is a step function: neighbors are pooled while they fall
    (M. Ayer et al., Annals of Mathematical Statistics 26, 1955).
    """

    def best(k: float, n: float) -> float:
        p = min(k / n, level)
        return float(special.xlogy(k, p) + special.xlog1py(n - k, -p))

    steps: list[tuple[float, float, float]] = []  # k, n, and the log-likelihood of this and all earlier steps
    found = [0.0]
    for k, n in zip(k_K.tolist(), n_K.tolist(), strict=True):
        while steps and steps[-1][0] * n >= k * steps[-1][1]:
            k, n = k + steps[-1][0], n + steps.pop()[1]
        found.append((steps[-1][2] if steps else 0.0) + best(k, n))
        steps.append((k, n, found[-1]))
    return found
