"""All figures of a report, from the tables of a study."""

import io
import numbers
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import curves, frontier, tradeoff
from analysis.figures.axes import REPORT, Page, figure_style, paper
from analysis.figures.gallery import gallery
from analysis.figures.panels import Panel, draw_panels, panels, threshold_lines
from analysis.loading import tasks_of
from analysis.report.html import file_name, settle
from analysis.report.tables import LEVELS, ReportTables
from analysis.stats import frontier as thresholds
from analysis.stats.edges import fitted_curves
from analysis.stats.onsets import LOST_AT, are_known, with_onsets
from analysis.stats.trajectories import diverged_by_step, example_pairs, gain_by_step
from analysis.text import alt
from analysis.text.format import score_text
from study.record.tables import read_losses
from study.storage.atomic import write_atomic

Reference = Mapping[str, Mapping[str, Any]]
"""Model -> the control's "lr", "gain" and more, as in `analysis.report.page.write`."""

KEPT_BOTTOM = -0.25
"""Lower end of the axis of `kept`."""


def report_figures(
    tables: ReportTables,
    losses: pd.DataFrame | None = None,
    reference: Reference | None = None,
    page: Page = REPORT,
) -> dict[str, Figure]:
    """Return name -> figure, in reading order; empty without runs. Call it inside `figure_style()`.

    Args:
        losses: Losses of runs, if they are in memory; None reads those that are shown. Without those of all diverged
            runs, the figure of when runs diverge has the judge's steps in place of onsets.
        reference: Of the control, as in `analysis.report.page.write`; None knows of no onsets.
        page: Sizes of the panels.
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

    drawn = with_onsets(
        drawn_of(runs), tables.every, losses if are_known(runs, losses, reference) else None, reference, definition
    )
    rates, edges, table = drawn_of(rates), drawn_of(edges), drawn_of(table)
    horizon, lines = diverged_by_step(drawn), fitted_curves(drawn, fitted=fitted)

    def of(frame: pd.DataFrame, part: Panel) -> pd.DataFrame:
        return frame.loc[frame["model"] == part.model]

    def on_panels(draw: Callable[[Axes, Panel], None]) -> Figure:
        return draw_panels(parts, draw, page)

    def bands(value: str, label: str) -> Figure:
        figure = on_panels(lambda ax, p: curves.draw_band(ax, of(table, p), value, label, None, p.styles))
        return said(figure, alt.quality(label, table, value))

    def kept(ax: Axes, part: Panel) -> None:
        curves.draw_band(ax, of(table, part), "kept", "kept (share of the reference gain)", KEPT_BOTTOM, part.styles)
        rule = definition.study.rule.kept
        ax.axhline(rule, color="#999999", lw=0.8, ls=(0, (2, 2)))
        ax.set_ylim(bottom=KEPT_BOTTOM)

    divergence = on_panels(lambda ax, p: curves.draw_rates(ax, of(rates, p), of(lines, p), of(edges, p), p.styles))
    figures = {"divergence": said(divergence, alt.divergence(edges))}
    if set(moving["threshold"]) != {""}:
        every_line = [line for _, line in threshold_lines(moving)]
        figures["frontier"] = said(frontier.frontier(moving, page), alt.frontier(every_line))
        counted = thresholds.threshold_map(runs)
        figures["threshold_map"] = said(
            frontier.threshold_map(counted, thresholds.contours(runs, fitted), page), alt.threshold_map(counted)
        )
    costs = thresholds.tradeoff(runs, definition)
    figures["tradeoff"] = said(tradeoff.tradeoff(costs, page), alt.tradeoff(costs))
    figures["kept"] = said(on_panels(kept), alt.quality("Share of the reference gain that runs keep", table, "kept"))
    for task in tasks_of(definition.data):
        name, unit = task["name"], task.get("unit") or ""
        if f"auc_{name}" in table:
            figures[f"auc_{name}"] = bands(f"auc_{name}", f"held-out AUC, {name}")
        if f"rmse_{name}" in table:
            figures[f"rmse_{name}"] = bands(f"rmse_{name}", f"held-out RMSE, {name}" + (f" [{unit}]" if unit else ""))
    metric = str(definition.data.get("quality"))
    if metric in table:
        figures[metric] = bands(metric, score_text(metric))
    micro = on_panels(lambda ax, p: curves.draw_micro(ax, of(rates, p), p.styles))
    figures["micro"] = said(micro, alt.micro(rates))
    if _mostly_known(drawn):
        over_steps = on_panels(lambda ax, p: curves.draw_horizon(ax, of(horizon, p), p.styles))
        figures["horizon"] = said(over_steps, alt.horizon(horizon))
    if examples := _gallery(tables, losses, reference, page):
        figures["gallery"] = examples
    return figures


def said(figure: Figure, words: str) -> Figure:
    """Return the figure with what it shows in words: its label, which pages and files carry."""
    figure.set_label(words)
    return figure


def _mostly_known(runs: pd.DataFrame) -> bool:
    """Whether it is known of half of the diverged runs when they were lost."""
    diverged = runs.loc[runs["outcome"] == "diverged", LOST_AT]
    return bool(2 * diverged.notna().sum() >= len(diverged))


def save_figures(
    tables: ReportTables,
    folder: Path,
    formats: Sequence[str],
    width: float,
    losses: pd.DataFrame | None = None,
    reference: Reference | None = None,
) -> list[Path]:
    """Write all figures of a report for a paper, with letters of 8 points, and return the paths.

    Args:
        folder: Where to.
        formats: Of `FORMATS`; a figure has a file of each.
        width: Of a figure, in inches.
        losses, reference: As in `report_figures`.

    Raises:
        ValueError: If a format is unknown, or the width is no width of a page.
        OSError: If the folder cannot be written.
    """
    check_figures(formats, width)
    paths = []
    with figure_style(page := paper(width)):
        for name, figure in report_figures(tables, losses, reference, page).items():
            settle(figure)
            for kind in formats:
                paths.append(folder / f"{file_name(name)}.{kind}")
                content = io.BytesIO()
                figure.savefig(
                    content, format=kind, dpi=PAPER_DPI, metadata=METADATA[kind] | {SUBJECT[kind]: figure.get_label()}
                )
                write_atomic(paths[-1], content.getvalue(), sync=False)
    return paths


def check_figures(formats: Sequence[str], width: float) -> None:
    """Raise ValueError for a format that is unknown, or a width that is none of a page."""
    several = isinstance(formats, Sequence) and not isinstance(formats, str)
    if not several or not formats or not all(kind in FORMATS for kind in formats):
        raise ValueError(f"formats are some of {', '.join(FORMATS)}, got {formats!r}")
    if isinstance(width, bool) or not isinstance(width, numbers.Real) or not 1 <= width <= 40:
        raise ValueError(f"need a width of 1 to 40 inches, got {width!r}")


FORMATS = ("pdf", "svg", "png")
METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}
"""Without dates, the same figure is the same file."""

SUBJECT = {"pdf": "Subject", "svg": "Description", "png": "Description"}
"""Where a file carries what the figure shows."""

PAPER_DPI = 300


def _gallery(
    tables: ReportTables, losses: pd.DataFrame | None, reference: Reference | None, page: Page
) -> Figure | None:
    """Return the figure of diverged runs beside healthy ones; None without such pairs or their losses."""
    definition, pairs = tables.definition, example_pairs(tables.runs)
    ids = [run["run_id"] for pair in pairs for run in pair]
    if not ids:
        return None
    control = tables.every.loc[tables.every["role"] == "control", "run_id"]
    losses = read_losses(tables.folder, [*ids, *control]) if losses is None else losses
    shown = losses.loc[losses["run_id"].isin(ids)]
    if shown.empty:
        return None
    gains = gain_by_step(shown, tasks_of(definition.data), definition.study.rule.median_steps)
    examples = tables.runs.loc[tables.runs["run_id"].isin(ids)]
    marked = with_onsets(examples, tables.every, losses, reference, definition)
    lost_at = dict(zip(marked["run_id"], marked[LOST_AT], strict=True))
    recorded = set(gains["run_id"])
    pairs = [pair for pair in pairs if all(run["run_id"] in recorded for run in pair)]
    shown_pairs = [(broken | {LOST_AT: lost_at[broken["run_id"]]}, healthy) for broken, healthy in pairs]
    return said(gallery(shown_pairs, gains, page), alt.gallery(shown_pairs, LOST_AT))
