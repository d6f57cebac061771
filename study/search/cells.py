"""Cells of a search for quality: an lr with thresholds, and what is known of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.stats.best import within_risk

DIGITS = 2
"""Significant digits of a proposed lr or threshold: finer than the search can tell apart."""

Cell = tuple[tuple[str, float], ...]
"""The tuned values by name, sorted: (("lr", 0.3), ("rel", 0.5))."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The results of a cell: runs, diverged runs and their mean gain."""

    cell: Cell
    n: int
    k: int
    gain: float


def spread(ranges: Mapping[str, tuple[float, float]], count: int, seed: int) -> list[Cell]:
    """Return `count` cells spread evenly over the ranges on a logarithmic scale.

    The points are a Kronecker sequence with a random start: multiples, modulo 1, of the powers of 1 / phi, where
    phi ** (D + 1) = phi + 1 for D ranges. For D = 1, phi is the golden ratio.

    Args:
        ranges: name -> (low, high).
        count: Cells. Fewer are returned if rounding makes two of them equal.
        seed: Of the random start.
    """
    phi = 2.0
    for _ in range(64):
        phi = (1 + phi) ** (1 / (len(ranges) + 1))
    start = np.random.default_rng(seed).random(len(ranges))
    points = (start + np.outer(np.arange(count), phi ** -np.arange(1.0, len(ranges) + 1))) % 1
    ends = list(ranges.items())
    cells = [
        rounded_cell(
            {name: low * (high / low) ** float(u) for (name, (low, high)), u in zip(ends, point, strict=True)}, ranges
        )
        for point in points
    ]
    return list(dict.fromkeys(cells))


def leaders(scored: Sequence[Scored], risk: float, count: int) -> list[Cell]:
    """Return the cells within risk that have the highest mean gains, best first; ties by the cells' own order."""
    within = [one for one in scored if within_risk(np.array(one.k), np.array(one.n), risk)]
    return [one.cell for one in sorted(within, key=lambda one: (-one.gain, one.cell))[:count]]


def rounded_cell(values: Mapping[str, float], ranges: Mapping[str, tuple[float, float]]) -> Cell:
    """Return the cell of these values, rounded to `DIGITS` and clipped to the ranges."""
    return tuple(
        (name, min(max(float(f"{values[name]:.{DIGITS}g}"), low), high)) for name, (low, high) in sorted(ranges.items())
    )


def scored_cell(cell: Cell, results: Sequence[tuple[bool, float]]) -> Scored:
    """Return the summary of a cell's results, a pair (diverged, gain) for each run."""
    gain = math.fsum(gain for _, gain in results) / len(results)
    return Scored(cell=cell, n=len(results), k=sum(diverged for diverged, _ in results), gain=gain)
