"""Divergence rates as a table for a terminal."""

from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.text.format import lr_text


def rates_table(rates: pd.DataFrame, width: int = 120) -> str:
    """Return divergence rates for a terminal: a block per model, a row per lr, a column per curve.

    `3/8 .14-.69` is k of n with the 95% interval; `2u` means that two of the n are undertrained, `~0.42` that
    the lr is the middle of a bin (`analysis.stats.rates.in_bins`).

    Args:
        rates: `analysis.stats.rates.divergence_rates`.
        width: Characters of a line. Further curves make further blocks.
    """
    if rates.empty:
        return "no runs recorded yet"
    blocks = []
    for model, of_model in rates.groupby("model", sort=False):
        curves = list(dict.fromkeys(of_model["curve"]))
        cell = {(row["curve"], row["lr"]): _cell(row) for row in records(of_model)}
        name_of = {row["lr"]: lr_text(row) for row in records(of_model.sort_values(["lr", "binned"]))}
        lrs, names = [*name_of], [*name_of.values()]
        left = max(len("lr"), *map(len, names))
        columns = [[c, *(cell.get((c, lr), "-") for lr in lrs)] for c in curves]
        widths = [max(map(len, column)) for column in columns]
        while columns:
            fit = 1
            while fit < len(columns) and left + sum(w + 2 for w in widths[: fit + 1]) <= width:
                fit += 1
            rows = zip(["lr", *names], *columns[:fit], strict=True)
            lines = ["  ".join([r[0].rjust(left), *map(str.ljust, r[1:], widths)]).rstrip() for r in rows]
            slow = " (2u: 2 are undertrained)" if of_model["undertrained"].to_numpy().any() else ""
            bins = " (~: a bin of trained lrs)" if of_model["binned"].to_numpy().any() else ""
            blocks.append("\n".join([f"{model}: diverged runs of n, 95% interval{slow}{bins}", *lines]))
            columns, widths = columns[fit:], widths[fit:]
    return "\n\n".join(blocks)


def _cell(row: dict[str, Any]) -> str:
    slow = f" {row['undertrained']}u" if row["undertrained"] else ""
    return f"{row['k']}/{row['n']} {_share(row['low'])}-{_share(row['high'])}{slow}"


def _share(p: float) -> str:
    return {"0.00": "0", "1.00": "1"}.get(f"{p:.2f}", f"{p:.2f}"[1:])
