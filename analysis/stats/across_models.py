"""How a method moves the edge over several models, as rliable sums up several tasks.

    seed's edge     the lr from which the runs of one seed diverge: of its k diverged runs at K lrs, in log halfway
                    between the k-th and the (k+1)-th highest lr; outside the tried lrs if all or none diverged
    moves           P(the edge of a run with the method > that of one without), over all pairs of seeds of a model, ties
                    half; the mean over models
    ratio           10 ** (mean over models of the mean over seeds of the log ratio of a seed's two edges)

Intervals are percentiles over DRAWS bootstrap samples, stratified: seeds are drawn with replacement within each model.
For `moves` the seeds of both sides are drawn independently, as rliable does. Seeds are paired here, so this interval is
rather too wide. Few seeds vary less in a bootstrap than they should, so the percentiles lie further out (Hesterberg's
expanded percentiles, of as many seeds as the model with the fewest). One or two seeds say nothing of the others.

A grid hides where an edge lies between two lrs: if all seeds switch there, seeds alone would give an interval of no
width. So the interval of `moves` counts a tie as 0 at its low end and as 1 at its high end. Each draw of `ratio` also
shifts the edges of each curve by one random share of a step, within half a step. The interquartile mean that rliable
prefers is not taken: on a grid most log ratios are equal, and it drops the others. Coverage: docs/statistics.md.

Source: R. Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021,
arXiv 2108.13264; github.com/google-research/rliable. T. Hesterberg, "What Teachers Should Know About the Bootstrap",
The American Statistician 69 (2015).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.loading import of_curves, with_curves
from analysis.stats.contrasts import UNDECIDED, status_of
from analysis.stats.intervals import FEWEST, bootstrap_shares

DRAWS = 2_000

COLUMNS = (
    *("curve", "method", "against", "models", "seeds", "moves", "moves_low", "moves_high"),
    *("ratio", "low", "high", "status"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class SeedEdges:
    """The edges of the seeds of a curve.

    Attributes:
        seeds: Ascending.
        low_S, high_S: log10 of the two lrs between which each lies; -inf or inf outside the tried lrs.
        lrs: That were tried, ascending.
    """

    seeds: np.ndarray
    low_S: np.ndarray  # noqa: N815 - carries its shape's letters
    high_S: np.ndarray  # noqa: N815
    lrs: tuple[float, ...]

    @property
    def log_S(self) -> np.ndarray:  # noqa: N802
        """log10 of the edges: halfway."""
        return (self.low_S + self.high_S) / 2


def across_models(runs: pd.DataFrame, contrasts: pd.DataFrame) -> pd.DataFrame:
    """Return how each method moves the edge over the models of a study.

    Args:
        runs: One row a run (`analysis.load`).
        contrasts: `analysis.stats.contrasts.contrasts`; its planned rows name the pairs of curves.

    Returns:
        One row a pair that two or more models have, with the same lrs on both sides and several lrs for each seed;
        columns curve, method, against, models (how many), seeds (of the model with the fewest), moves with its 95%
        interval moves_low and moves_high, ratio (NaN unless known) with its 95% interval low and high, status ("known",
        "at least", "at most", "undecided").
    """
    runs = of_curves(with_curves(runs))
    planned = contrasts.loc[contrasts["planned"].astype(bool), ["model", "curve", "method", "against"]]
    several = planned.groupby(["curve", "against"], sort=False).filter(lambda pair: len(pair) > 1)
    edges_of = seed_edges(runs.loc[runs["model"].isin(list(several["model"]))])
    rows = []
    for (curve, against), pair in several.groupby(["curve", "against"], sort=False):  # pyright: ignore
        sides = [(edges_of.get((m, curve)), edges_of.get((m, against))) for m in pair["model"]]
        sides = [(a, b) for a, b in sides if a and b and a.lrs == b.lrs]
        if len(sides) > 1:
            head = {"curve": curve, "method": pair["method"].iloc[0], "against": against, "models": len(sides)}
            seeds = min(len(side.seeds) for pair_of_model in sides for side in pair_of_model)
            rows.append(head | {"seeds": seeds} | moves(sides) | ratio(sides))
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def seed_edges(runs: pd.DataFrame) -> dict[tuple[str, str], SeedEdges]:
    """Return (model, curve) -> the edges of its seeds, at the lrs that most of its seeds have.

    Only seeds with a run at each of these lrs have an edge. Without several lrs, as in a search, a curve has none.
    """
    found: dict[tuple[str, str], SeedEdges] = {}
    for (model, curve), own in runs.groupby(["model", "curve"], sort=False):  # pyright: ignore
        diverged = own.assign(diverged=(own["outcome"] == "diverged").astype(float))
        did: Any = diverged.pivot_table(index="seed", columns="lr", values="diverged", aggfunc="max")
        tried = did.notna()
        (most, _), *_ = Counter(map(tuple, tried.to_numpy())).most_common(1)
        whole = np.array(most)
        did = did.loc[tried.loc[:, whole].all(axis=1), whole]
        if len(did.columns) < 2:
            continue
        lrs = tuple(did.columns.astype(float))
        ladder = np.concatenate([[-math.inf], np.log10(lrs), [math.inf]])
        at = len(lrs) - did.to_numpy().sum(axis=1).astype(int)
        found[str(model), str(curve)] = SeedEdges(
            seeds=did.index.to_numpy(dtype=np.int64), low_S=ladder[at], high_S=ladder[at + 1], lrs=lrs
        )
    return found


Sides = Sequence[tuple[SeedEdges, SeedEdges]]
"""For each model, the method's edges and those it is compared with."""


def moves(sides: Sides, draws: int = DRAWS) -> dict[str, float]:
    """Return P(the method moves the edge upward), with its 95% interval: moves, moves_low, moves_high."""
    rng = np.random.default_rng(0)
    share, drawn = [], np.zeros((2, draws))
    for a, b in sides:
        x, y = a.log_S[:, None], b.log_S[None, :]
        wins = (x > y) + 0.5 * (x == y)
        share.append(wins.mean())
        # Which edge is higher is unknown between the same two lrs, outside the tried ones, and where seeds are too few.
        unknown = (x == y) | (min(wins.shape) < FEWEST)
        times_a, times_b = (rng.multinomial(n, np.full(n, 1 / n), draws) for n in wins.shape)
        for i in (0, 1):
            drawn[i] += ((times_a @ np.where(unknown, float(i), wins)) * times_b).sum(1) / wins.size
    shares = bootstrap_shares(min(min(len(a.seeds), len(b.seeds)) for a, b in sides))
    low, high = (float(np.quantile(of / len(sides), at)) for of, at in zip(drawn, shares, strict=True))
    return {"moves": float(np.mean(share)), "moves_low": low, "moves_high": high}


def ratio(sides: Sides, draws: int = DRAWS) -> dict[str, Any]:
    """Return the mean ratio of the edges, in log, with its 95% interval: ratio, low, high, status."""
    rng = np.random.default_rng(1)
    middle, drawn, seeds = np.zeros(2), np.zeros((2, draws)), []
    for a, b in sides:
        _, at_a, at_b = np.intersect1d(a.seeds, b.seeds, return_indices=True)
        seeds.append(len(at_a))
        if len(at_a) < FEWEST:
            return {"ratio": math.nan, "low": 0.0, "high": math.inf, "status": UNDECIDED}
        # An edge outside the tried lrs is only known to be outside: each end takes its worst value.
        low_a, high_a, step_a = _ends(a, at_a)
        low_b, high_b, step_b = _ends(b, at_b)
        ends = np.stack([low_a - high_b, high_a - low_b])
        middle += ends.mean(axis=1)
        chosen = rng.integers(0, len(at_a), (draws, len(at_a)))
        shift_a, shift_b = rng.uniform(-0.5, 0.5, (2, draws))
        drawn += ends[:, chosen].mean(axis=2)
        drawn += shift_a * step_a[chosen].mean(axis=1) - shift_b * step_b[chosen].mean(axis=1)
    least, most = middle / len(sides)
    low, high = (
        10 ** (float(np.quantile(values, share, method="inverted_cdf")) / len(sides))
        for values, share in zip(drawn, bootstrap_shares(min(seeds)), strict=True)
    )
    known = float(least) if least == most else math.nan
    return {"ratio": 10**known, "low": low, "high": high, "status": status_of(low, high)}


def _ends(edges: SeedEdges, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The lowest and the highest value of each seed's edge, and the step of the grid there."""
    log_S, lowest, highest = edges.log_S[at], math.log10(edges.lrs[0]), math.log10(edges.lrs[-1])
    step = np.where(np.isfinite(log_S), edges.high_S[at] - edges.low_S[at], 0.0)
    return np.where(log_S == math.inf, highest, log_S), np.where(log_S == -math.inf, lowest, log_S), step
