"""The tables of docs/causes.md about predictive signals, from published signals (`analysis.stats.signals`)."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.findings import published
from analysis.findings.tables import markdown
from analysis.loading import records
from analysis.stats import signals
from analysis.text.signals import LABELS
from study.monitor.gradient_alarm import GradientAlarm

LAGS = (1, 2, 5)


def _watched(folders: Sequence[Path]) -> pd.DataFrame:
    (folder,) = folders
    return published.read_signals(folder)


def judged(folders: Sequence[Path]) -> pd.DataFrame:
    """Return the signals of the models and methods that can be judged."""
    return signals.judged(_watched(folders))[0]


def watched(folders: Sequence[Path]) -> str:
    """Return the number of runs and seeds."""
    runs = _watched(folders).drop_duplicates("run_id")
    diverged, seeds = len(runs.dropna(subset=["onset"])), sorted(set(runs["seed"]))
    return f"*{len(runs)} runs watched, {diverged} of them diverged; {len(seeds)} seeds, {seeds[0]} to {seeds[-1]}.*"


def onsets(folders: Sequence[Path]) -> str:
    """Return when runs began to diverge, and the steps until their gain was gone."""
    rows = []
    for row in records(signals.onsets(_watched(folders))):
        after = f"{row['after']:.3g} ({row['after_q25']:.3g} to {row['after_q75']:.3g})"
        onset = f"{row['onset']:.3g} ({row['onset_q25']:.3g} to {row['onset_q75']:.3g})"
        rows.append([row["model"], row["method"], f"{row['n']}", f"{row['first']:g}", onset, f"{row['last']:g}", after])
    head = ["model", "method", "diverged", "first onset, step", "median (quartiles)", "last"]
    return markdown([*head, "steps from there to `gone` (quartiles)"], rows)


def levels(folders: Sequence[Path]) -> str:
    """Return sharpness x lr / 2 in the second half of completed runs."""
    rows = []
    for row in records(signals.levels(_watched(folders))):
        share = f"{row['middle']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        rows.append([row["model"], row["method"], f"{row['lr']:g}", f"{row['n']}", share, f"{row['sharpness']:.2g}"])
    head = ["model", "method", "lr", "completed runs", "sharpness × lr / 2, median (10% to 90%)"]
    return markdown([*head, "sharpness, median"], rows)


def crossings(folders: Sequence[Path]) -> str:
    """Return in how many runs sharpness x lr / 2 exceeded a level: before the onset, or ever in a healthy run."""
    table = signals.crossings(_watched(folders))
    levels = sorted(set(table["level"]))
    rows = []
    for key, own in signals.groups(table, [*signals.GROUP, "outcome"]):
        at = {row["level"]: row for row in records(own)}
        first = at[levels[0]]
        ends = [first[name] for name in ("lead", "lead_q25", "lead_q75")]
        lead = f"{ends[0]:.3g} ({ends[1]:.3g} to {ends[2]:.3g})" if math.isfinite(ends[0]) else ""
        rows.append([*key, f"{first['n']}", *(f"{at[level]['k']}" for level in levels), lead])
    over = [f"above {level:g}" for level in levels]
    return markdown(["model", "method", "outcome", "n", *over, "steps from 1 to the onset (quartiles)"], rows)


def auc(folders: Sequence[Path]) -> str:
    """Return ROC AUC of each signal before the onset; in brackets, against runs of the same lr alone."""
    table = signals.discrimination(judged(folders), LAGS)
    rows = []
    for (model, method), own in signals.groups(table, signals.GROUP):
        at = {(row["signal"], row["lag"]): row for row in records(own)}
        names = sorted(signals.SIGNALS, key=lambda name: -at[name, LAGS[0]]["auc"])
        for name in names:
            cells = [_of_pairs(at[name, lag], plain=name == "lr") for lag in LAGS]
            rows.append([model, method, _in_table(LABELS[name]), *cells])
    steps = [f"{lag} step{'s' * (lag > 1)} before" for lag in LAGS]
    return markdown(["model", "method", "signal", *steps], rows)


def _of_pairs(row: Mapping[str, Any], *, plain: bool) -> str:
    whole = f"{row['auc']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
    return whole if plain else f"{whole} ({row['same_lr']:.2f}, {row['same_lr_low']:.2f} to {row['same_lr_high']:.2f})"


def rules(folders: Sequence[Path]) -> str:
    """Return how the rule of each signal, chosen on half of the seeds, does on the other half."""
    return _of_rules(signals.rules(judged(folders)))


def gradient_alarm(folders: Sequence[Path]) -> str:
    """Return how `study.monitor.gradient_alarm.GradientAlarm` does on these runs with its defaults."""
    table = signals.alarm_rule(judged(folders), GradientAlarm().times)
    return _of_rules(table.assign(signal="gradient_jump"))


def _of_rules(table: pd.DataFrame) -> str:
    rows = []
    for row in records(table):
        n, m = int(row["diverged"]), int(row["completed"])
        shares = [_of(row, "warned", n), _of(row, "early", n)]
        gain = f"{row['gain']:.3g}" if math.isfinite(row["gain"]) else ""
        rule = f"{_in_table(LABELS[row['signal']])} > {row['threshold']:.3g}"
        rows.append([row["model"], row["method"], rule, *shares, gain, _of(row, "false", m)])
    head = ["model", "method", "rings where", "before the onset", "before `gone`", "steps to `gone`, median"]
    return markdown([*head, "false alarms"], rows)


def _of(row: Mapping[str, Any], name: str, n: int) -> str:
    if not n:
        return "none"
    return f"{round(row[name] * n)} of {n} ({row[f'{name}_low']:.0%} to {row[f'{name}_high']:.0%})"


def _in_table(words: str) -> str:
    """Replace bars, which would end a Markdown cell."""
    return words.replace("|update|", "abs(update)").replace("|w|", "abs(w)")


TABLES: dict[str, Callable[[Sequence[Path]], str]] = {
    "signals_watched": watched,
    "signals_onsets": onsets,
    "signals_crossings": crossings,
    "signals_levels": levels,
    "signals_auc": auc,
    "signals_rules": rules,
    "signals_alarm": gradient_alarm,
}
