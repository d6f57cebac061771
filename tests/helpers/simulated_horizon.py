"""Runs that are judged at half of their steps and at all of them, where each threshold moves by the same factor."""

import numpy as np
from shapes import GRIDS, SHAPES

from analysis.stats.horizon import SETTLED, doubling_interval, doubling_status

RATIOS = (0.5, 0.8, 1.0, 1.2)


def doublings(shape: str, grid: str, seeds: int, paired: float, simulations: int) -> list[dict[str, float]]:
    """Return how often the interval of the last doubling holds the true ratio: a row for each of RATIOS.

    LR50 lies anywhere between the second and the last but one of the lrs.

    Args:
        shape, grid: Keys of SHAPES and GRIDS.
        seeds: Of each study.
        paired: 1 if a run has the same threshold at both horizons but for the ratio, 0 if it is drawn anew.
        simulations: Studies for each ratio.
    """
    lrs, rng = list(GRIDS[grid]), np.random.default_rng([seeds, list(GRIDS).index(grid), *shape.encode()])
    rows = []
    for ratio in RATIOS:
        covered = settled = 0
        for place, draw in zip(
            rng.uniform(*np.log10([lrs[1], lrs[-2]]), simulations), rng.integers(1 << 32, size=simulations), strict=True
        ):
            half, full = (
                SHAPES[shape].at(10**place * moved).draw(lrs, seeds, np.random.default_rng([draw, anew]))
                for moved, anew in ((1.0, 0), (ratio, int(not paired)))
            )
            low, high = doubling_interval((lrs, half), (lrs, full), 0.5)
            covered += low <= ratio * (1 + 1e-9) and ratio <= high * (1 + 1e-9)  # an end may be a tried lr
            settled += doubling_status(low, high) == SETTLED
        rows.append({"ratio": ratio, "covered": covered / simulations, "settled": settled / simulations})
    return rows
