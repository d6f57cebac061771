"""P(divergence | lr) of one curve without an assumed shape.

Each seed has a threshold in one of the gaps between the tried lrs, or outside them. The distribution G of thresholds
over these gaps is free. Its Dirichlet prior is uniform in log lr and has the weight of one seed. A run at lr_j diverges
if its threshold is lower; with probability NOISE it does the opposite. So P_j = G(lr_j), and after k of n runs at lr_j

    P_j ~ Beta(B_j + k, 1 - B_j + n - k)        B_j: the prior share of thresholds below lr_j

An edge at a level is below lr_j if P_j is above the level. Its place inside a gap is not known. So the lower end of an
interval is the lower end of a gap, and the upper end the upper end of one (A. P. Dempster, Annals of Mathematical
Statistics 38, 1967).

Source: T. S. Ferguson, "A Bayesian analysis of some nonparametric problems", Annals of Statistics 1 (1973). The
evidence of partly observed seeds follows A. Kong, J. S. Liu and W. H. Wong, "Sequential imputations and Bayesian
missing data problems", JASA 89 (1994).
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.stats.posterior_grid import PAD
from analysis.stats.rates import FEW_RUNS

NOISE = 0.005


@dataclass(frozen=True, kw_only=True, eq=False)
class FreeCurve:
    """The posterior of P at each of K lrs.

    Attributes:
        a, b: Parameters of the Beta distribution of P, (K,) each.
        log_evidence: Log probability of the outcomes under this model.
    """

    a: np.ndarray
    b: np.ndarray
    log_evidence: float

    def below(self, level: float) -> np.ndarray:
        """Return the probability that the edge is below each lr, (K,)."""
        return np.maximum.accumulate(special.betaincc(self.a, self.b, level))


def free_curve(x_K: np.ndarray, patterns_PK: np.ndarray, counts_P: np.ndarray) -> FreeCurve | None:
    """Return the free curve, or None if there are too few runs at some lr, as in a search.

    Args:
        x_K: log10 of the lrs, ascending.
        patterns_PK: Distinct outcomes of a seed at the lrs: 1 diverged, 0 did not, -1 is missing.
        counts_P: Number of seeds with each pattern.
    """
    yes_PK, no_PK = (patterns_PK == 1).astype(float), (patterns_PK == 0).astype(float)
    k_K, n_K = counts_P @ yes_PK, counts_P @ (yes_PK + no_PK)
    seen_P = (yes_PK + no_PK).sum(1)
    searched = seen_P.max() < 2 or n_K.mean() < FEW_RUNS
    if searched and n_K.min() < FEW_RUNS:
        return None
    prior_T = np.diff(np.concatenate([[x_K[0] - PAD], x_K, [x_K[-1] + PAD]]))
    prior_T /= prior_T.sum()
    above_KT = (np.arange(len(x_K))[:, None] >= np.arange(len(x_K) + 1)).astype(float)
    wrong_PT = no_PK @ above_KT + yes_PK @ (1 - above_KT)
    likelihood_PT = NOISE**wrong_PT * (1 - NOISE) ** (seen_P[:, None] - wrong_PT)
    seeds_T, log_evidence = prior_T.copy(), 0.0
    for p in np.argsort(-seen_P, kind="stable"):  # complete seeds first: they locate the others
        for _ in range(int(counts_P[p])):
            joint_T = seeds_T * likelihood_PT[p]
            total = float(joint_T.sum())
            log_evidence += math.log(total / seeds_T.sum())
            seeds_T += joint_T / total
    below_K = np.cumsum(prior_T)[:-1]
    return FreeCurve(a=below_K + k_K, b=1 - below_K + n_K - k_K, log_evidence=log_evidence)
