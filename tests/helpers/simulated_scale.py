"""How often prediction intervals of `study scale` hold the true edge, which follows a known law of the size.

Either the runs of each size are drawn, and their edges are estimated as in every report; or edges are drawn, with their
errors, which is faster.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from scale_record import points
from shapes import draw, logistic

from analysis.stats.edges import edge_of
from analysis.stats.psychometric import fit_many
from analysis.stats.scale import PREDICTED, predictions

LRS = tuple(float(f"{lr:.3g}") for lr in np.geomspace(0.02, 6, 18))

DEPTHS, DEEPER = (1, 2, 3, 4, 6), (12, 24)
WIDTHS, WIDER = (16, 32, 64, 128, 256, 512, 1024), (2048, 4096)


def _broken(u: np.ndarray) -> np.ndarray:
    return np.where(u < 0, -0.3 * u, -0.6 * u)


LAWS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "no effect": lambda u: 0 * u,
    "exponent -0.5": lambda u: -0.5 * u,
    "exponent +0.4": lambda u: 0.4 * u,
    "bend down": lambda u: -0.4 * u - 0.08 * u**2,
    "bend up": lambda u: -0.4 * u + 0.08 * u**2,
    "broken": _broken,
    "levels off": lambda u: -0.5 * np.tanh(u),
}
"""Log edge by u, the log of a size over the geometric mean of the trained ones (bends are halved for seven sizes, which
span more)."""


def simulated_predictions(
    law: str,
    trained: Sequence[float],
    targets: Sequence[float],
    *,
    seeds: int,
    share: float,
    simulations: int,
    scatter: float = 0.0,
    slope: float = 15.0,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return `analysis.stats.scale.predictions` of simulated records, with the true edge.

    Args:
        law: A name of LAWS.
        trained: Sizes with runs.
        targets: Sizes to predict.
        seeds: Of each record; all are at every lr.
        share: Part of the variance of a threshold that its seed keeps, over lrs and sizes.
        simulations: Number of records.
        scatter: Standard deviation of the true log edges about the law.
        slope: Of each curve, per decade.
        rng: Random numbers.
    """
    true_NM = true_edges(law, trained, targets, simulations, scatter, rng)
    diverged = np.stack(
        [
            draw([logistic(lr50=math.exp(y), slope=slope) for y in row], LRS, seeds, rng=rng, share=share)[0]
            for row in true_NM[:, : len(trained)]
        ]
    )
    fits = fit_many(LRS, diverged.reshape(-1, seeds, len(LRS)))
    lines = []
    for n, m in itertools.product(range(simulations), range(len(trained))):
        edge = edge_of(list(LRS), diverged[n, m], fits[n * len(trained) + m], 0.5)
        lines.append({"model": str(n), "curve": law, "level": 0.5, "method": law, "size": float(trained[m])} | edge)
    return with_truth(predictions(pd.DataFrame(lines), targets), true_NM, [*trained, *targets])


def measured_predictions(
    law: str,
    trained: Sequence[float],
    targets: Sequence[float],
    *,
    error: float,
    correlation: float,
    simulations: int,
    scatter: float = 0.0,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Return predictions from simulated edges, with the true edge: faster than from simulated runs.

    Args:
        law, trained, targets, simulations, scatter, rng: As for `simulated_predictions`.
        error: Standard deviation of a measured log edge.
        correlation: Between the errors of two sizes.
    """
    true_NM = true_edges(law, trained, targets, simulations, scatter, rng)
    count = len(trained)
    shared = math.sqrt(correlation) * rng.normal(size=(simulations, 1))
    own = math.sqrt(1 - correlation) * rng.normal(size=(simulations, count))
    edges_NM = np.exp(true_NM[:, :count] + error * (shared + own))
    lines = [points(trained, edges, error).assign(model=str(n)) for n, edges in enumerate(edges_NM)]
    return with_truth(predictions(pd.concat(lines, ignore_index=True), targets), true_NM, [*trained, *targets])


def true_edges(
    law: str,
    trained: Sequence[float],
    targets: Sequence[float],
    simulations: int,
    scatter: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the true log edges of each simulation at the trained sizes and the targets, (N, M)."""
    stretch = math.log(DEPTHS[-1]) / math.log(trained[-1] / trained[0])
    u = np.log([*trained, *targets]) - np.log(trained).mean()
    return math.log(0.35) + LAWS[law](stretch * u) / stretch + scatter * rng.normal(size=(simulations, len(u)))


def with_truth(table: pd.DataFrame, true_NM: np.ndarray, sizes: Sequence[float]) -> pd.DataFrame:
    """Return predictions with the column `true`; the model of a row is the number of its simulation."""
    at = {float(size): i for i, size in enumerate(sizes)}
    rows = zip(table["model"], table["size"], strict=True)
    return table.assign(true=[math.exp(true_NM[int(n), at[size]]) for n, size in rows])


def coverage(table: pd.DataFrame) -> dict[str, float]:
    """Return the share that is predicted, the share of these that holds the true edge, and their median width."""
    said = table.loc[table["status"] == PREDICTED]
    inside = (said["low"] <= said["true"]) & (said["true"] <= said["high"])
    width = (said["high"] / said["low"]).median()
    return {"predicted": len(said) / len(table), "covered": float(inside.mean()), "width": float(width)}


SETTINGS = ((0.03, 0.0, 0.0), (0.03, 0.7, 0.03), (0.06, 0.0, 0.05), (0.06, 0.7, 0.0))
"""Error of a log edge, correlation between sizes, and scatter, of a quarter of the simulations each."""

SIZES: Mapping[str, tuple[Sequence[float], Sequence[float]]] = {"five": (DEPTHS, DEEPER), "seven": (WIDTHS, WIDER)}
"""Trained sizes, and those that are predicted from them."""


def extrapolations(law: str, sizes: str, drawn: str, simulations: int) -> list[dict[str, float]]:
    """Return how often the prediction intervals hold: a row for each size that is predicted.

    Args:
        law, sizes: Keys of LAWS and SIZES.
        drawn: "edges", by SETTINGS, or "runs" of 16 seeds that keep their thresholds, with a scatter of 3%.
        simulations: Records.
    """
    (trained, targets), seed = SIZES[sizes], [2026, *law.encode(), len(sizes)]
    if drawn == "runs":
        options = {"seeds": 16, "share": 1.0, "scatter": 0.03, "rng": np.random.default_rng(seed)}
        table = simulated_predictions(law, trained, targets, simulations=simulations, **options)
    else:
        parts = []
        for k, (error, correlation, scatter) in enumerate(SETTINGS):
            options = {"error": error, "correlation": correlation, "scatter": scatter}
            n, rng = -(-simulations // len(SETTINGS)), np.random.default_rng([*seed, k])
            parts.append(measured_predictions(law, trained, targets, simulations=n, rng=rng, **options))
        table = pd.concat(parts)
    return [{"times": size / trained[-1]} | coverage(table.loc[(table["size"] == size).to_numpy()]) for size in targets]
