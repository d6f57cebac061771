"""Figures of the signals that foretell divergence: around the onset, ROC AUC, and alarms against false alarms."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.axes import REPORT, log_axis
from analysis.stats.signals import AROUND_ONSET, GROUP, SIGNALS, START, alarms, groups, largest_values, summary
from analysis.text.signals import LABELS

COLOURS = dict(
    zip(
        SIGNALS,
        ("#000000", "#009E73", "#56B4E9", "#E69F00", "#CC79A7", "#0072B2", "#D55E00", "#999999"),
        strict=True,
    )
)


def draw_before(ax: Axes, table: pd.DataFrame) -> None:
    """Draw median and quartiles of the sharpness by step from the onset; in grey, completed runs at the same steps.

    Args:
        table: Signals of one model (`analysis.stats.signals.judged`).
    """
    value = "sharpness_share"
    relative = (table["step"] - table["onset"]).astype(float)
    part = table.loc[relative.between(*AROUND_ONSET)].assign(relative=relative)
    healthy = table.loc[table["outcome"] == "completed"].groupby("step")[value]
    bands = {}
    for at, group in groups(part, "relative"):
        same = pd.concat([healthy.get_group(s) for s in group["step"] if s in healthy.groups])
        bands[at] = (*group[value].quantile([0.25, 0.5, 0.75]), *same.quantile([0.25, 0.5, 0.75]))
    x, y = np.array(list(bands)), np.array(list(bands.values())).T
    for low, mid, high, colour, label in (
        (*y[3:], "#888888", "runs that complete, at the same steps"),
        (*y[:3], "#D55E00", "runs that diverge"),
    ):
        ax.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
        ax.plot(x, mid, color=colour, lw=1.8, label=label)
    ax.axhline(1, color="#666666", lw=1, ls=(0, (2, 2)))
    ax.axvline(0, color="#E69F00", lw=1.2, zorder=0)
    log_axis(ax)
    ax.set_xlim(*AROUND_ONSET)
    ax.set_xlabel("steps from the onset")
    ax.set_ylabel(LABELS[value])


def draw_discrimination(ax: Axes, table: pd.DataFrame, value: str = "auc") -> None:
    """Draw ROC AUC against the steps before the onset, one line a signal, with intervals.

    Args:
        table: `analysis.stats.signals.discrimination` of one model and method.
        value: "auc", or "same_lr" for pairs of runs with the same lr.
    """
    ends = ("low", "high") if value == "auc" else ("same_lr_low", "same_lr_high")
    signals = [s for s in SIGNALS if s in set(table["signal"]) and not (value == "same_lr" and s == "lr")]
    for i, signal in enumerate(signals):
        of_signal = table.loc[table["signal"] == signal].sort_values(by="lag")
        x = of_signal["lag"].to_numpy(float) + 0.07 * (i - len(signals) / 2)
        bars = np.maximum([of_signal[value] - of_signal[ends[0]], of_signal[ends[1]] - of_signal[value]], 0)
        ax.errorbar(x, of_signal[value], bars, fmt="none", ecolor=COLOURS[signal], elinewidth=0.9, alpha=0.6)
        ax.plot(x, of_signal[value], "o-", color=COLOURS[signal], ms=4, lw=1.4, label=LABELS[signal])
    ax.axhline(0.5, color="#666666", lw=1, ls=(0, (2, 2)))
    ax.set_xlim(max(table["lag"]) + 0.6, 0.4)
    ax.set_ylim(0, 1.02)
    ax.set_xticks(sorted(set(table["lag"])))
    ax.set_xlabel("steps before the onset")
    ax.set_ylabel("ROC AUC")


def alarm_summaries(table: pd.DataFrame) -> dict[str, list[dict[str, float]]]:
    """Return signal -> `analysis.stats.signals.summary` at 30 thresholds, from the lowest of the largest values up."""
    thresholds = {s: np.quantile(largest_values(table, s), np.linspace(0, 1, 30)) for s in SIGNALS if s != "lr"}
    return {s: [summary(alarms(table, s, t)) for t in of_signal] for s, of_signal in thresholds.items()}


def draw_rules(ax: Axes, summaries: Mapping[str, Sequence[Mapping[str, float]]], value: str) -> None:
    """Draw the share of diverged runs that raise an alarm in time against false alarms, as the threshold moves.

    Args:
        summaries: `alarm_summaries` of one model and method.
        value: "warned" (before the onset) or "early" (before the gain is gone).
    """
    for signal, points in summaries.items():
        shares = [(1.0, points[0][value]), *((p["false"], p[value]) for p in points)]
        ax.plot(*zip(*shares, strict=True), color=COLOURS[signal], lw=1.4, label=LABELS[signal])
    ax.plot([0, 1], [0, 1], color="#666666", lw=1, ls=(0, (2, 2)))
    ax.set_xlabel("false alarms: share of completed runs")
    when = {"warned": "before the loss moved", "early": "before they were gone"}[value]
    ax.set_ylabel(f"diverged runs rung for\n{when}")
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)


def figure_before(table: pd.DataFrame) -> Figure | None:
    """Return the figure of sharpness by step from the onset, a panel a model and method; None if no run diverged."""
    if not (shown := _diverged(table)):
        return None
    drawn = Figure(figsize=(REPORT.panel * len(shown), REPORT.height), layout="constrained")
    for i, ((model, method), own) in enumerate(shown.items()):
        ax = drawn.add_subplot(1, len(shown), i + 1)
        draw_before(ax, own)
        ax.set_title(f"{model}, {method}")
        if not i:
            ax.legend(loc="upper left", fontsize=9)
    return drawn


def figure_alarms(table: pd.DataFrame) -> Figure | None:
    """Return the figure of alarms against false alarms, a row a model and method; None if no run diverged."""
    if not (shown := _diverged(table)):
        return None
    drawn = Figure(figsize=(2 * REPORT.panel, 0.9 + 2.9 * len(shown)), layout="constrained")
    panels = drawn.subplots(len(shown), 2, squeeze=False, sharex=True)
    for row, ((model, method), own) in zip(panels, shown.items(), strict=True):
        summaries = alarm_summaries(own)
        for ax, value in zip(row, ("warned", "early"), strict=True):
            draw_rules(ax, summaries, value)
            ax.set_title(f"{model}, {method}")
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return drawn


def figure_auc(table: pd.DataFrame, auc: pd.DataFrame) -> Figure | None:
    """Return the figure of ROC AUC before the onset, a row a model and method; None if no run diverged.

    Args:
        table: Signals (`analysis.stats.signals.judged`).
        auc: `analysis.stats.signals.discrimination(table)`.
    """
    if not (shown := _diverged(table)):
        return None
    drawn = Figure(figsize=(2 * REPORT.panel, 0.9 + 3.9 * len(shown)), layout="constrained")
    panels = drawn.subplots(len(shown), 2, squeeze=False, sharey=True)
    against = (("auc", "against all healthy runs"), ("same_lr", "against those with the same lr"))
    for row, (model, method) in zip(panels, shown, strict=True):
        of_group = auc.loc[(auc["model"] == model) & (auc["method"] == method)]
        for ax, (value, words) in zip(row, against, strict=True):
            draw_discrimination(ax, of_group, value)
            ax.set_title(f"{model}, {method}: {words}")
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return drawn


def _diverged(table: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Model and method -> its rows, if a run of it diverged from `START` on."""
    return {
        key: part
        for key, part in groups(table, GROUP)
        if (part["onset"].to_numpy(dtype=float, na_value=np.nan) >= START).any()
    }


def figures(table: pd.DataFrame, auc: pd.DataFrame) -> dict[str, Figure]:
    """Return name -> figure, without those that have nothing to draw."""
    drawn = {"before": figure_before(table), "auc": figure_auc(table, auc), "alarms": figure_alarms(table)}
    return {name: figure for name, figure in drawn.items() if figure is not None}
