"""How often the intervals over several models hold, where a method moves the edge of each model by a known factor."""

import math
from typing import Any

import numpy as np
import pandas as pd
from shapes import GRIDS, SHAPES, Shape

from analysis.stats.across_models import SeedEdges, moves, ratio

SHIFTS = (0.0, 0.1, 0.2, 0.3)
"""Decades by which the method moves LR50 of each model."""


def across(shape: str, grid: str, seeds: int, most: int, paired: float, simulations: int) -> list[dict[str, Any]]:
    """How often the intervals of `moves` and `ratio` contain their true values.

    LR50 without the method is log-uniform over the lrs whose neighbors are tried too.

    Args:
        seeds, most: Of the first model, and of the others.
        paired: 1 if a seed has the same place among the thresholds of both curves, 0 if its places are independent.
    """
    lrs, curve = GRIDS[grid], SHAPES[shape]
    rng = np.random.default_rng([seeds, most, list(GRIDS).index(grid), int(paired), *shape.encode()])
    found = []
    for _ in range(simulations):
        sides, true_moves = [], []
        for shift in SHIFTS:
            place = rng.uniform(math.log10(lrs[1]), math.log10(lrs[-2]) - shift)
            without, with_method = curve.at(10**place), curve.at(10 ** (place + shift))
            z = rng.normal(size=most if sides else seeds)
            z_of = z if paired else rng.normal(size=len(z))
            sides.append((_edges(with_method, lrs, z_of), _edges(without, lrs, z)))
            true_moves.append(_moves(curve, shift))
        of_moves, of_ratio = moves(sides), ratio(sides)
        ends = math.log10(of_ratio["low"] or 1e-9), math.log10(of_ratio["high"])
        found.append(
            {
                "moves_covered": of_moves["moves_low"] <= np.mean(true_moves) <= of_moves["moves_high"],
                "ratio_covered": ends[0] <= np.mean(SHIFTS) <= ends[1],
                "moves_width": of_moves["moves_high"] - of_moves["moves_low"],
                "ratio_width": ends[1] - ends[0],
            }
        )
    table = pd.DataFrame(found)
    covered, widths = table.filter(like="covered").mean(), table.filter(like="width").median()
    return [{**covered.to_dict(), **widths.to_dict()}]


def _edges(curve: Shape, lrs: tuple[float, ...], z: np.ndarray) -> SeedEdges:
    ladder = np.concatenate([[-math.inf], np.log10(lrs), [math.inf]])
    at = np.searchsorted(np.log10(lrs), curve.thresholds(z))
    return SeedEdges(seeds=np.arange(len(z)), low_S=ladder[at], high_S=ladder[at + 1], lrs=lrs)


def _moves(curve: Shape, shift: float) -> float:
    """P(a threshold that is moved by so many decades > another one), ties half."""
    u = (np.arange(2000) + 0.5) / 2000
    at = curve.quantile(u)
    return float(np.searchsorted(at, at + shift).mean() / 2000) if shift else 0.5
