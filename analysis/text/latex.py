"""Tables of edges for a paper."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.loading import records
from analysis.stats.edges import REACHED
from analysis.text.format import span_text

SPECIAL = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"} | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}"}
)


def edges_table(table: pd.DataFrame) -> str:
    """Return edges as a booktabs table: the edge, its 95% interval, seeds, lrs, and n, the runs of a cell, by curve.

    Numbers have three significant digits. An edge outside the tried lrs is `--`: its interval says what is known.

    Args:
        table: `analysis.stats.edges.edges` at one level.
    """
    models = list(dict.fromkeys(table["model"]))
    level = f"LR{100 * float(table['level'].iloc[0]):02.0f}" if len(table) else "LR50"
    head = [*(["model"] if len(models) > 1 else []), "method", level, r"95\% interval", "seeds", "lrs", "n"]
    lines = [rf"\begin{{tabular}}{{{'l' * (len(head) - 5)}rrrrr}}", r"\toprule", _line(head), r"\midrule"]
    for row in records(table):
        edge = three_digits(row["edge"]) if row["status"] == REACHED else "--"
        names = [row["model"], row["curve"]] if len(models) > 1 else [row["curve"]]
        cells = [
            *(str(name).translate(SPECIAL) for name in names),
            edge,
            span_text(row["low"], row["high"], three_digits),
        ]
        lines.append(_line([*cells, str(row["seeds"]), str(row["lrs"]), _runs(row)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def three_digits(value: float) -> str:
    """Return three significant digits: `0.439`, `0.530`, `3.20`, `123`, `1230`."""
    return f"{value:#.3g}".rstrip(".") if abs(value) < 999.5 else f"{float(f'{value:.3g}'):g}"


def _runs(row: Mapping[str, Any]) -> str:
    """The runs of a cell: `16`, or `3--16` where they differ."""
    few, many = row["n_min"], row["n_max"]
    return str(few) if few == many else f"{few}--{many}"


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
