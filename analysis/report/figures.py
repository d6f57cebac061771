"""All figures of a report, from the tables of a study."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import curves, frontier, tradeoff
from analysis.figures.gallery import gallery
from analysis.figures.panels import Panel, draw_panels, panels
from analysis.loading import tasks_of
from analysis.report.tables import LEVELS, ReportTables
from analysis.stats import frontier as thresholds
from analysis.stats.edges import fitted_curves
from analysis.stats.trajectories import diverged_by_step, example_pairs, gain_by_step
from analysis.text.format import score_text
from study.record.definition import Definition
from study.record.tables import read_losses

KEPT_BOTTOM = -0.25
"""Lower end of the axis of `kept`."""


def report_figures(tables: ReportTables, losses: pd.DataFrame | None = None) -> dict[str, Figure]:
    """Return name -> figure, in reading order; empty without runs. Call it inside `figure_style()`.

    Args:
        losses: Losses of all runs, if they are in memory; None reads those that are shown.
    """
    runs, definition, rates, fitted = tables.runs, tables.definition, tables.rates, tables.fitted
    edges, table = tables.edges[LEVELS[0]], tables.scored
    if runs.empty:
        return {}
    models = tables.models(rates)
    moving = thresholds.frontier(runs, LEVELS[0], fitted)
    parts = panels(rates, models, moving)
    curves_drawn = list({curve for part in parts for curve in part.styles})
    models_drawn = [part.model for part in parts]

    def drawn_of(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.loc[frame["curve"].isin(curves_drawn) & frame["model"].isin(models_drawn)]

    drawn = drawn_of(runs)
    rates, edges, table = drawn_of(rates), drawn_of(edges), drawn_of(table)
    horizon, lines = diverged_by_step(drawn), fitted_curves(drawn, fitted=fitted)

    def of(frame: pd.DataFrame, part: Panel) -> pd.DataFrame:
        return frame.loc[frame["model"] == part.model]

    def bands(value: str, label: str) -> Figure:
        return draw_panels(parts, lambda ax, p: curves.draw_band(ax, of(table, p), value, label, None, p.styles))

    def kept(ax: Axes, part: Panel) -> None:
        curves.draw_band(ax, of(table, part), "kept", "kept (share of the reference gain)", KEPT_BOTTOM, part.styles)
        rule = definition.study.rule.kept
        ax.axhline(rule, color="#999999", lw=0.8, ls=(0, (2, 2)))
        ax.set_ylim(bottom=KEPT_BOTTOM)

    figures = {
        "divergence": draw_panels(
            parts, lambda ax, p: curves.draw_rates(ax, of(rates, p), of(lines, p), of(edges, p), p.styles)
        ),
    }
    if set(moving["threshold"]) != {""}:
        figures["frontier"] = frontier.frontier(moving)
        figures["threshold_map"] = frontier.threshold_map(
            thresholds.threshold_map(runs), thresholds.contours(runs, fitted)
        )
    figures["tradeoff"] = tradeoff.tradeoff(thresholds.tradeoff(runs, definition))
    figures["kept"] = draw_panels(parts, kept)
    for task in tasks_of(definition.data):
        name, unit = task["name"], task.get("unit") or ""
        if f"auc_{name}" in table:
            figures[f"auc_{name}"] = bands(f"auc_{name}", f"held-out AUC, {name}")
        if f"rmse_{name}" in table:
            figures[f"rmse_{name}"] = bands(f"rmse_{name}", f"held-out RMSE, {name}" + (f" [{unit}]" if unit else ""))
    metric = str(definition.data.get("quality"))
    if metric in table:
        figures[metric] = bands(metric, score_text(metric))
    figures["micro"] = draw_panels(parts, lambda ax, p: curves.draw_micro(ax, of(rates, p), p.styles))
    figures["horizon"] = draw_panels(parts, lambda ax, p: curves.draw_horizon(ax, of(horizon, p), p.styles))
    if examples := _gallery(tables.folder, runs, definition, losses):
        figures["gallery"] = examples
    return figures


def _gallery(folder: Path, runs: pd.DataFrame, definition: Definition, losses: pd.DataFrame | None) -> Figure | None:
    """Return the figure of diverged runs beside healthy ones; None without such pairs or their losses."""
    pairs = example_pairs(runs)
    ids = [run["run_id"] for pair in pairs for run in pair]
    if not ids:
        return None
    losses = read_losses(folder, ids) if losses is None else losses.loc[losses["run_id"].isin(ids)]
    if losses.empty:
        return None
    gains = gain_by_step(losses, tasks_of(definition.data), definition.study.rule.median_steps)
    recorded = set(gains["run_id"])
    pairs = [pair for pair in pairs if all(run["run_id"] in recorded for run in pair)]
    return gallery(pairs, gains)
