"""Signals that predict divergence, as text."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.signals import ENOUGH, GROUP, START, groups

LABELS = {
    "sharpness_share": "sharpness × lr / 2",
    "largest_over_bound": "largest |update| / (0.5 |w| + 0.01)",
    "largest_share": "largest |update| / |w|",
    "gradient_jump": "gradient norm over its last 10 steps' median",
    "activation_norm": "norm of the last activations",
    "dead_share": "share of dead units",
    "loss_share": "loss over the best constant's",
    "lr": "lr alone",
}
"""Column of `analysis.stats.signals.SIGNALS` -> its name for readers."""


def skipped_text(row: Mapping[str, Any]) -> str:
    """Return why a model and method are left out.

    Args:
        row: A row that `analysis.stats.signals.judged` leaves out.
    """
    return (
        f"{row['model']}, {row['method']}: {row['diverged']} runs diverged from step {START} on and {row['healthy']} "
        f"did not; at least {ENOUGH} of each are needed"
    )


def sentences(table: pd.DataFrame, found: pd.DataFrame, ruled: pd.DataFrame, crossed: pd.DataFrame) -> list[str]:
    """Return the lines that a terminal shows.

    Args:
        table: `analysis.stats.signals.watched`.
        found: `analysis.stats.signals.discrimination`.
        ruled: `analysis.stats.signals.rules`.
        crossed: `analysis.stats.signals.crossings`.
    """
    runs = table.drop_duplicates("run_id")
    diverged = sum(outcome == "diverged" for outcome in runs["outcome"])
    lines = [f"{len(runs)} runs watched, {len(set(runs['seed']))} seeds, {diverged} diverged"]
    if not diverged:
        return [*lines, "none diverged: there is nothing to predict"]
    for row in records(crossed):
        if row["level"] in (1, 4):
            lead = (
                f", first {row['lead']:.0f} steps ahead (median)" if row["outcome"] == "diverged" and row["k"] else ""
            )
            when = "before the onset" if row["outcome"] == "diverged" else "at some time"
            lines.append(
                f"  {row['model']}, {row['method']}: sharpness × lr / 2 above {row['level']:g} {when} in {row['k']} of "
                f"{row['n']} {row['outcome']} runs{lead}"
            )
    for (model, method), own in groups(found.loc[found["lag"] == 1], GROUP) if len(found) else ():
        lines.append(f"  {model}, {method}: ROC AUC one step before the onset (same lr):")
        for row in sorted(records(own), key=lambda row: -row["auc"]):
            same = f" ({row['same_lr']:.2f}, {row['same_lr_low']:.2f} to {row['same_lr_high']:.2f})"
            lines.append(
                f"    {LABELS[row['signal']]}: {row['auc']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
                f"{'' if row['signal'] == 'lr' else same}"
            )
    for (model, method), part in groups(ruled, GROUP) if len(ruled) else ():
        best = max(records(part), key=lambda row: (row["chosen_early"], row["chosen_gain"]))
        ahead = f", {best['gain']:.0f} steps ahead (median)" if math.isfinite(best["gain"]) else ""
        lines += [
            f"  {model}, {method}: alarm if {LABELS[best['signal']]} > {best['threshold']:.3g} (chosen on other seeds)",
            f"    comes before the onset in {_share(best, 'warned', 'diverged')} diverged runs;",
            f"    comes before the gain is lost in {_share(best, 'early', 'diverged')} of them{ahead};",
            f"    is false in {_share(best, 'false', 'completed')} completed runs",
        ]
    return lines


def _share(row: Mapping[str, Any], name: str, of: str) -> str:
    if not row[of]:
        return "0 of 0"  # the judging seeds have no such run
    return f"{row[name]:.0%} ({row[f'{name}_low']:.0%} to {row[f'{name}_high']:.0%}) of {row[of]}"
