"""From the record of a study to tables, figures and a report. Knows no torch, ray or mlflow.

    runs = analysis.load(folder)                # one row a run
    analysis.divergence_rates(runs)             # one row a cell: k of n, with an interval
    analysis.edges(runs, level=0.5)             # one row a curve: the edge, or that it was not reached
    analysis.quality(runs, definition)          # one row a cell: held-out quality, divergence as the worst result
    analysis.frontier(runs, level=0.5)          # one row a curve: its edge, by the threshold that moves
    analysis.tradeoff(runs, definition)         # one row a cell: quality against P(divergence), the Pareto front

What is claimed is in `analysis.stats.claims`, which method moves the edge in `analysis.stats.contrasts`, thresholds
in `analysis.stats.frontier`, figures in `analysis.figures`, the report in `analysis.report`.
"""

from analysis.loading import load
from analysis.stats.edges import edges
from analysis.stats.frontier import frontier, tradeoff
from analysis.stats.quality import quality
from analysis.stats.rates import divergence_rates, in_bins
from analysis.text.edges import sentence
from analysis.text.rates import rates_table

__all__ = ["divergence_rates", "edges", "frontier", "in_bins", "load", "quality", "rates_table", "sentence", "tradeoff"]
