"""The figures of the pages of findings, each from published studies (`analysis.findings.published`)."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import signals as signal_figures
from analysis.figures.curves import draw_band, draw_rates
from analysis.figures.forest import forest_plot
from analysis.figures.frontier import frontier as draw_frontier
from analysis.figures.palette import curve_styles
from analysis.figures.panels import Panel, draw_panels
from analysis.figures.tradeoff import tradeoff as draw_tradeoff
from analysis.findings import published
from analysis.stats import signals
from analysis.stats.edges import edges, fits, fitted_curves
from analysis.stats.forest import curves as forest_of_curves
from analysis.stats.forest import forest
from analysis.stats.frontier import frontier as edge_by_threshold
from analysis.stats.frontier import tradeoff as quality_by_rate
from analysis.stats.quality import quality
from analysis.stats.rates import divergence_rates, in_bins


def divergence(folders: Sequence[Path]) -> Figure:
    """Return the figure of P(divergence) by lr, a panel a study and model."""
    parts, drawn = [], []
    for i, folder in enumerate(folders):
        entry = published.read(folder)
        fitted = fits(entry.runs)
        rates, edge = divergence_rates(in_bins(entry.runs)), edges(entry.runs, 0.5, fitted)
        curves = fitted_curves(entry.runs, fitted=fitted)
        styles = curve_styles(rates)
        for model in entry.definition.study.models:
            title = _title(model, entry.definition.study.data, folders)
            # Studies may share a model, so the number of the study is part of the panel's key.
            parts.append(Panel(title=title, model=f"{i}/{model}", styles=styles))
            drawn.append(tuple(table.loc[table["model"] == model] for table in (rates, curves, edge)))
    of = {part.model: tables for part, tables in zip(parts, drawn, strict=True)}

    def panel(ax: Axes, part: Panel) -> None:
        rates, curves, edge = of[part.model]
        draw_rates(ax, rates, curves, edge, part.styles)

    return draw_panels(parts, panel)


def _title(model: str, data: str, folders: Sequence[Path]) -> str:
    several = len({published.read(folder).definition.study.data for folder in folders}) > 1
    return f"{model}, {data}" if several else model


def auc(folders: Sequence[Path]) -> Figure:
    """Return the figure of held-out AUC of the first task by lr, a panel a study and model."""
    parts, drawn = [], []
    for i, folder in enumerate(folders):
        entry = published.read(folder)
        table = quality(entry.runs, entry.definition)
        for model in entry.definition.study.models:
            title = _title(model, entry.definition.study.data, folders)
            parts.append(Panel(title=title, model=f"{i}/{model}", styles=curve_styles(table)))
            drawn.append((table.loc[table["model"] == model], entry.definition.data["tasks"][0]["name"]))
    of = {part.model: own for part, own in zip(parts, drawn, strict=True)}

    def band(ax: Axes, part: Panel) -> None:
        table, task = of[part.model]
        draw_band(ax, table, f"auc_{task}", f"held-out AUC, {task}", None, part.styles)

    return draw_panels(parts, band)


def tradeoff(folders: Sequence[Path]) -> Figure:
    """Return the figure of held-out quality against P(divergence), a panel a model."""
    tables = []
    for folder in folders:
        entry = published.read(folder)
        tables.append(quality_by_rate(entry.runs, entry.definition))
    return draw_tradeoff(pd.concat(tables, ignore_index=True))


def frontier(folders: Sequence[Path]) -> Figure:
    """Return the figure of each edge as its threshold moves, of one study."""
    (folder,) = folders
    return draw_frontier(edge_by_threshold(published.read(folder).runs))


def edges_of_family(folders: Sequence[Path]) -> Figure:
    """Return the forest plot of a family."""
    (folder,) = folders
    return forest_plot(forest(published.family_members(folder), lambda path: published.read(path).runs))


def curves_as_forest(folders: Sequence[Path]) -> Figure:
    """Return the forest plot of the curves of one study."""
    (folder,) = folders
    entry = published.read(folder)
    return forest_plot(forest_of_curves(entry.runs, entry.definition))


def signals_before(folders: Sequence[Path]) -> Figure:
    """Return the figure of sharpness by step from the onset."""
    return _drawn(signal_figures.figure_before(_judged(folders)))


def signals_auc(folders: Sequence[Path]) -> Figure:
    """Return the figure of ROC AUC of each signal by steps before the onset."""
    table = _judged(folders)
    return _drawn(signal_figures.figure_auc(table, signals.discrimination(table)))


def signals_alarms(folders: Sequence[Path]) -> Figure:
    """Return the figure of alarms against false alarms."""
    return _drawn(signal_figures.figure_alarms(_judged(folders)))


def _judged(folders: Sequence[Path]) -> pd.DataFrame:
    (folder,) = folders
    return signals.judged(published.read_signals(folder))[0]


def _drawn(figure: Figure | None) -> Figure:
    if figure is None:
        raise ValueError("no run diverged, so there is nothing to draw")
    return figure


FIGURES: dict[str, Callable[[Sequence[Path]], Figure]] = {
    "divergence": divergence,
    "auc": auc,
    "tradeoff": tradeoff,
    "frontier": frontier,
    "family": edges_of_family,
    "forest": curves_as_forest,
    "signals_before": signals_before,
    "signals_auc": signals_auc,
    "signals_alarms": signals_alarms,
}
