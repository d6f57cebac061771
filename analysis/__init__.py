"""From the record of a study to tables, figures and a report. Knows no torch, ray or mlflow.

    runs = analysis.load(folder)                # one row a run
    analysis.divergence_rates(runs)             # one row a cell: k of n, with an interval
    analysis.edges(runs, level=0.5)             # one row a curve: the edge, or that it was not reached
    analysis.quality(runs, definition)          # one row a cell: held-out quality, divergence as the worst result
    analysis.frontier(runs, level=0.5)          # one row a curve: its edge, by the threshold that moves
    analysis.tradeoff(runs, definition)         # one row a cell: quality against P(divergence), the Pareto front

What is claimed is in `analysis.recommend`, which method moves the edge in `analysis.contrasts`, thresholds in
`analysis.frontier`, figures in `analysis.figures`, the report in `analysis.report`.
"""

from analysis.edges import edges, sentence
from analysis.frontier import frontier, tradeoff
from analysis.quality import quality
from analysis.rates import divergence_rates, in_bins, rates_table
from analysis.runs import load

__all__ = ["divergence_rates", "edges", "frontier", "in_bins", "load", "quality", "rates_table", "sentence", "tradeoff"]
