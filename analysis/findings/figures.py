"""The figures of the pages of findings, each from published studies (`analysis.findings.published`)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import signals as signal_figures
from analysis.figures.curves import draw_band, draw_rates
from analysis.figures.forest import forest_plot
from analysis.figures.frontier import frontier as draw_frontier
from analysis.figures.palette import LineStyle, curve_styles
from analysis.figures.panels import Panel, draw_panels
from analysis.figures.scale import scale as draw_scale
from analysis.figures.tradeoff import tradeoff as draw_tradeoff
from analysis.findings import published, range_tests
from analysis.findings import signals as signal_tables
from analysis.findings.published import Published
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

    def tables(entry: Published) -> tuple[pd.DataFrame, ...]:
        fitted = fits(entry.runs)
        rates, edge = divergence_rates(in_bins(entry.runs)), edges(entry.runs, 0.5, fitted)
        return rates, fitted_curves(entry.runs, fitted=fitted), edge

    return _panels(
        folders, tables, lambda ax, entry, tables, styles: draw_rates(ax, tables[0], tables[1], tables[2], styles)
    )


def auc(folders: Sequence[Path]) -> Figure:
    """Return the figure of held-out AUC of the first task by lr, a panel a study and model."""

    def band(ax: Axes, entry: Published, tables: Sequence[pd.DataFrame], styles: Mapping[str, LineStyle]) -> None:
        task = entry.definition.data["tasks"][0]["name"]
        draw_band(ax, tables[0], f"auc_{task}", f"held-out AUC, {task}", None, styles)

    return _panels(folders, lambda entry: (quality(entry.runs, entry.definition),), band)


def _panels(
    folders: Sequence[Path],
    tables_of: Callable[[Published], tuple[pd.DataFrame, ...]],
    draw: Callable[[Axes, Published, Sequence[pd.DataFrame], Mapping[str, LineStyle]], None],
) -> Figure:
    """A panel a study and model, drawn from the model's rows of the study's tables."""
    entries = [published.read(folder) for folder in folders]
    several = len({entry.definition.study.data for entry in entries}) > 1
    parts, drawn = [], {}
    for i, entry in enumerate(entries):
        tables = tables_of(entry)
        for model in entry.definition.study.models:
            title = f"{model}, {entry.definition.study.data}" if several else model
            # Studies may share a model, so the number of the study is part of the panel's key.
            parts.append(Panel(title=title, model=f"{i}/{model}", styles=curve_styles(tables[0])))
            drawn[f"{i}/{model}"] = (entry, [table.loc[table["model"] == model] for table in tables])

    def panel(ax: Axes, part: Panel) -> None:
        entry, tables = drawn[part.model]
        draw(ax, entry, tables, part.styles)

    return draw_panels(parts, panel)


def tradeoff(folders: Sequence[Path]) -> Figure:
    """Return the figure of held-out quality against P(divergence), a panel a model."""
    entries = map(published.read, folders)
    return draw_tradeoff(pd.concat([quality_by_rate(e.runs, e.definition) for e in entries], ignore_index=True))


def frontier(folders: Sequence[Path]) -> Figure:
    """Return the figure of each edge as its threshold moves, of one study."""
    (folder,) = folders
    return draw_frontier(edge_by_threshold(published.read(folder).runs))


def edges_of_family(folders: Sequence[Path]) -> Figure:
    """Return the forest plot of a family."""
    (folder,) = folders
    return forest_plot(forest(published.family_members(folder), lambda path: published.read(path).runs))


def edges_by_size(folders: Sequence[Path]) -> Figure:
    """Return the figure of edges against a size, with their predictions."""
    (folder,) = folders
    return draw_scale(published.read_scale(folder))


def curves_as_forest(folders: Sequence[Path]) -> Figure:
    """Return the forest plot of the curves of one study."""
    (folder,) = folders
    entry = published.read(folder)
    return forest_plot(forest_of_curves(entry.runs, entry.definition))


def signals_before(folders: Sequence[Path]) -> Figure:
    """Return the figure of sharpness by step from the onset."""
    return _drawn(signal_figures.figure_before(signal_tables.judged(folders)))


def signals_auc(folders: Sequence[Path]) -> Figure:
    """Return the figure of ROC AUC of each signal by steps before the onset."""
    table = signal_tables.judged(folders)
    return _drawn(signal_figures.figure_auc(table, signals.discrimination(table)))


def signals_alarms(folders: Sequence[Path]) -> Figure:
    """Return the figure of alarms against false alarms."""
    return _drawn(signal_figures.figure_alarms(signal_tables.judged(folders)))


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
    "scale": edges_by_size,
    "forest": curves_as_forest,
    "range_tests": range_tests.figure,
    "signals_before": signals_before,
    "signals_auc": signals_auc,
    "signals_alarms": signals_alarms,
}
