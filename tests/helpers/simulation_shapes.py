"""Simulated runs from curves that are not logistic: what the intervals of edges must survive.

A seed's threshold (in log10 lr, relative to LR50) has any distribution, given by its quantiles. A run diverges where
its lr lies above its seed's threshold, unless it lapses or its seed is immune, or else by the floor. `share` is the
part of the threshold's variance (on the scale of a normal score) that a seed keeps over all lrs, as in `simulation`.
"""

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.stats.edges import edge_of
from analysis.stats.intervals import TAIL
from analysis.stats.psychometric import fit

GRIDS: Mapping[str, tuple[float, ...]] = {
    "12 even": tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.01, 1, 12)),
    "5 even": tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.01, 1, 5)),
    "quick": (0.02, 0.1, 0.3, 0.6, 0.85, 1.2, 1.7, 3.2),
    "lr_curve": (0.02, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6, 3.2),
}
"""Two decades of evenly spaced lrs, and the lrs of two search spaces."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A known P(divergence | lr).

    Attributes:
        quantile: Threshold in decades, by its share of seeds; from any zero.
        lr50: Where P is 0.5.
        floor, lapse, immune: As in `analysis.stats.psychometric`.
        share: 1 if a seed keeps its threshold, 0 if it is drawn anew for each run.
    """

    quantile: Callable[[np.ndarray], np.ndarray]
    lr50: float = 0.1
    floor: float = 0.0
    lapse: float = 0.0
    immune: float = 0.0
    share: float = 1.0

    def edge(self, level: float = 0.5) -> float:
        """Return the lr at which P reaches the level: 0 if it is always above, infinity if it never is."""
        return self.lr50 * 10 ** (self._place(level) - self._place(0.5))

    def rate(self, lrs: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return P(divergence) at each lr."""
        x = np.log10(np.asarray(lrs, dtype=float) / self.lr50) + self._place(0.5)
        rise = np.interp(x, _table(self.quantile), UNITS, left=0.0, right=1.0)
        return self.floor + (1 - self.floor) * (1 - self.lapse) * (1 - self.immune) * rise

    def at(self, lr50: float) -> "Shape":
        """Return the same curve with another LR50."""
        return replace(self, lr50=lr50)

    def draw(self, lrs: Sequence[float], seeds: int, rng: np.random.Generator) -> np.ndarray:
        """Return the outcomes of one study, (S, K): 1 is diverged, 0 is not."""
        runs = (seeds, len(lrs))
        z = math.sqrt(self.share) * rng.normal(size=(seeds, 1))
        if self.share < 1:
            z = z + math.sqrt(1 - self.share) * rng.normal(size=runs)
        thresholds = self.quantile(special.ndtr(z).clip(1e-9, 1 - 1e-9)) - self._place(0.5)
        diverged = np.log10(np.asarray(lrs) / self.lr50) >= thresholds
        diverged &= (rng.random(runs) >= self.lapse) & (rng.random((seeds, 1)) >= self.immune)
        return (diverged | (rng.random(runs) < self.floor)).astype(float)

    def _place(self, level: float) -> float:
        need = (level - self.floor) / ((1 - self.floor) * (1 - self.lapse) * (1 - self.immune))
        if need <= 1e-12:
            return -math.inf
        return float(self.quantile(np.array(need))) if need < 1 else math.inf


UNITS = special.expit(np.linspace(-18, 18, 20_001))


@functools.lru_cache(maxsize=64)
def _table(quantile: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return quantile(UNITS)


def _mixture(*parts: tuple[float, float, float]) -> Callable[[np.ndarray], np.ndarray]:
    """Quantiles of a mixture of logistic distributions: (share, place, scale) of each."""
    x = np.linspace(-4, 4, 80_001)
    below = sum(share * special.expit((x - place) / scale) for share, place, scale in parts)
    return lambda u: np.interp(u, below, x)


def _logistic(scale: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: scale * special.logit(u)


FAMILY = {"shallow": Shape(quantile=_logistic(1 / 6)), "steep": Shape(quantile=_logistic(0.05))}
"""Curves of the logistic model itself, for comparison."""

SHAPES = FAMILY | {
    "cliff": Shape(quantile=lambda u: 0.005 * (u - 0.5)),
    "two groups of seeds, 60% and 40%, 0.8 decades apart": Shape(quantile=_mixture((0.6, 0, 0.03), (0.4, 0.8, 0.03))),
    "two groups, 35% and 65%, 0.6 decades apart": Shape(quantile=_mixture((0.35, -0.6, 0.03), (0.65, 0, 0.03))),
    "two groups, 10% and 90%, 0.6 decades apart": Shape(quantile=_mixture((0.1, -0.6, 0.03), (0.9, 0, 0.03))),
    "Cauchy, scale 0.05": Shape(quantile=lambda u: 0.05 * np.tan(np.pi * (u - 0.5))),
    "exponential tail to the right, 0.2": Shape(quantile=lambda u: -0.2 * np.log1p(-u)),
    "exponential tail to the left, 0.2": Shape(quantile=lambda u: 0.2 * np.log(u)),
    "half steep, half shallow": Shape(quantile=_mixture((0.5, 0, 0.02), (0.5, 0, 0.2))),
    "shoulder of 20% before a cliff": Shape(quantile=_mixture((0.2, -0.4, 0.05), (0.8, 0, 0.01))),
    "shoulder of 35% before a cliff": Shape(quantile=_mixture((0.35, -0.4, 0.05), (0.65, 0, 0.01))),
    "probit": Shape(quantile=lambda u: 0.085 * special.ndtri(u)),
    "Gumbel": Shape(quantile=lambda u: -0.08 * np.log(-np.log(u))),
    "uniform": Shape(quantile=lambda u: 0.3 * (u - 0.5)),
    "Student's t, 3 degrees": Shape(quantile=lambda u: 0.07 * stats.t.ppf(u, 3)),
    "plateau 0.6, runs lapse": Shape(quantile=_logistic(0.05), lapse=0.4),
    "plateau 0.6, seeds are immune": Shape(quantile=_logistic(0.05), immune=0.4),
    "floor 0.05": Shape(quantile=_logistic(0.05), floor=0.05),
    "threshold redrawn at each run": Shape(quantile=_logistic(0.1), share=0.0),
    "noise of the threshold at each lr": Shape(quantile=_logistic(0.05), share=0.75),
}

NEAR = "cliff near the end of a gap"
"""A cliff within a tenth of a gap's end: what an interval misses that takes the middle of a gap."""


def places(name: str, lrs: Sequence[float], simulations: int, rng: np.random.Generator) -> np.ndarray:
    """Return LR50 of each simulation: log-uniform over the tried lrs."""
    x = np.log10(lrs)
    if name != NEAR:
        return 10 ** rng.uniform(x[0], x[-1], simulations)
    gap = rng.integers(len(x) - 1, size=simulations)
    share = rng.uniform(0, 0.1, simulations)
    share = np.where(rng.random(simulations) < 0.5, share, 1 - share)
    return 10 ** (x[gap] + share * (x[gap + 1] - x[gap]))


def intervals(name: str, grid: str, seeds: int, simulations: int) -> pd.DataFrame:
    """Return what `analysis.stats.edges` says of simulated records of one cell.

    Returns:
        One row a simulation and level; columns level, true, low, high (as reported, 0 and infinity if open), low_alone,
        high_alone (the same of the logistic model alone), lr_min, lr_max.
    """
    lrs, shape = GRIDS[grid], SHAPES["cliff" if name == NEAR else name]
    rng = np.random.default_rng([list(GRIDS).index(grid), seeds, *name.encode()])
    known: dict[bytes, list[dict[str, float]]] = {}
    rows = []
    for lr50 in places(name, lrs, simulations, rng):
        curve = shape.at(float(lr50))
        outcomes_SK = curve.draw(lrs, seeds, rng)
        outcomes_SK = outcomes_SK[np.lexsort(outcomes_SK.T[::-1])]
        key = outcomes_SK.tobytes()
        if key not in known:
            known[key] = _said(lrs, outcomes_SK)
        rows += [said | {"true": curve.edge(said["level"])} for said in known[key]]
    return pd.DataFrame(rows)


def _said(lrs: Sequence[float], outcomes_SK: np.ndarray) -> list[dict[str, float]]:
    found, rows = fit(lrs, outcomes_SK), []
    for level in LEVELS:
        row = edge_of(list(lrs), outcomes_SK, found, level)
        low, high = (10**end for end in found.edge(level, (TAIL, 1 - TAIL)))
        if not row["monotone"]:
            low, high = row["low"], row["high"]
        rows.append(
            {"level": level, "low": row["low"], "high": row["high"], "lr_min": lrs[0], "lr_max": lrs[-1]}
            | {"low_alone": low if low >= lrs[0] else 0.0, "high_alone": high if high <= lrs[-1] else math.inf}
        )
    return rows


LEVELS = (0.5, 0.05)


def tally(table: pd.DataFrame) -> dict[str, float]:
    """Return shares and widths of one cell at one level.

    covered: share of intervals that contain the edge. both, open_low: share with two ends, without the lower one.
    width: mean in decades, an open end at the last tried lr. The same with _alone for the logistic model alone.
    """
    true = table["true"].to_numpy()
    said: dict[str, float] = {"simulations": len(table)}
    for of in ("", "_alone"):
        low, high = table[f"low{of}"].to_numpy(), table[f"high{of}"].to_numpy()
        slack = 1 + 1e-9  # an end on a tried lr, computed from its logarithm
        said[f"covered{of}"] = float(np.mean((low <= true * slack) & (true <= high * slack)))
        said[f"open_low{of}"] = float(np.mean(low == 0))
        ends = [np.clip(end, table["lr_min"], table["lr_max"]) for end in (low, high)]
        said[f"width{of}"] = float(np.mean(np.log10(ends[1] / ends[0])))
    return said


def simulate(simulations: int, seeds: Sequence[int], grids: Sequence[str], out: Path) -> None:
    """Write one row of `tally` a cell, grid and level, after each cell; cells with as many simulations are kept."""
    kept = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=pd.Index(["shape", "seeds", "grid"]))
    rows: list[Any] = kept.to_dict("records")
    done = {(row["grid"], row["seeds"], row["shape"]) for row in rows if row["simulations"] >= simulations}
    rows = [row for row in rows if (row["grid"], row["seeds"], row["shape"]) in done]
    for grid, n, name in itertools.product(grids, seeds, [*SHAPES, NEAR]):
        if (grid, n, name) in done:
            continue
        table = intervals(name, grid, n, simulations)
        for level in LEVELS:
            of_level = table.loc[(table["level"] == level).to_numpy()]
            rows.append({"shape": name, "seeds": n, "grid": grid, "level": level} | tally(of_level))
        pd.DataFrame(rows).round(4).to_csv(out, index=False)


TABLE = Path(__file__).parents[2] / "docs" / "statistics_shapes.csv"
"""Where the rows of `simulate` are kept: docs/statistics.md shows them, and a test compares."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--simulations", type=int, default=500, help="of each shape, grid and number of seeds")
    options.add_argument("--seeds", type=int, nargs="*", default=(3, 8, 16, 64))
    options.add_argument("--grids", nargs="*", choices=list(GRIDS), default=list(GRIDS))
    options.add_argument("--out", type=Path, default=TABLE)
    asked = options.parse_args()
    simulate(asked.simulations, asked.seeds, asked.grids, asked.out)
    print(markdown(pd.read_csv(asked.out)))


def markdown(rows: pd.DataFrame) -> str:
    """Return what docs/statistics.md says of these rows: the worst cells, then a table for each level."""
    return "\n\n".join(_of_level(rows.loc[(rows["level"] == level).to_numpy()], level) for level in LEVELS)


def _of_level(rows: pd.DataFrame, level: float) -> str:
    name = f"LR{100 * level:02.0f}"
    rows = rows.sort_values(["covered", "shape"], kind="stable")
    worst = rows.iloc[0]
    few = rows.loc[(rows["covered"] < TARGET).to_numpy()]
    cells = "cells" if len(rows) > 1 else "cell"
    head = (
        f"{name}: the worst of {len(rows)} {cells} covers {worst['covered']:.3f} ({worst['shape']}; {worst['seeds']}"
        f" seeds, {worst['grid']}). {len(few)} of {len(rows)} cover less than {TARGET}."
    )
    columns = ("covered", "covered_alone", "width", "width_alone", "open_low", "open_low_alone")
    lines = [["curve", "lrs", "seeds", "simulations", *(COLUMNS[column] for column in columns)]]
    lines.append(["---"] * len(lines[0]))
    for row in rows.to_dict("records"):
        lines.append([str(row["shape"]), row["grid"], str(row["seeds"]), str(row["simulations"])])
        lines[-1] += [f"{row[column]:.2f}" if "width" in column else f"{row[column]:.3f}" for column in columns]
    return head + "\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


TARGET = 0.93

COLUMNS = {
    "covered": "covered",
    "covered_alone": "logistic alone",
    "width": "width, decades",
    "width_alone": "logistic alone",
    "open_low": "no lower end",
    "open_low_alone": "logistic alone",
}


if __name__ == "__main__":
    main()
