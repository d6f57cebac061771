"""Runs the cells of a simulation in all cores and keeps their rows in docs/statistics/, where the page finds them."""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parents[2] / "docs" / "statistics"


def simulate(
    name: str, of_cell: Callable[..., list[dict[str, Any]]], cells: Sequence[Mapping[str, Any]], simulations: int
) -> pd.DataFrame:
    """Write the rows of all cells into FOLDER/NAME.csv, again after each cell; an interrupted run continues.

    Args:
        name: Of the table.
        of_cell: Returns the rows of a cell, from the cell's values and `simulations`.
        cells: All with the same keys. Their rows follow in this order. Rows of other cells stay, before them.
        simulations: Of each cell. A cell that has fewer is simulated anew.
    """
    out, keys = FOLDER / f"{name}.csv", list(cells[0])
    kept = pd.read_csv(out).to_dict("records") if out.exists() else []
    rows: dict[tuple, list[dict[str, Any]]] = {}
    for row in kept:
        rows.setdefault(tuple(row[key] for key in keys), []).append(row)
    ordered = list(dict.fromkeys([*rows, *(tuple(cell.values()) for cell in cells)]))
    todo = [
        cell for cell in cells if not (done := rows.get(tuple(cell.values()))) or done[0]["simulations"] < simulations
    ]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(of_cell, **cell, simulations=simulations): cell for cell in todo}
        for i, done in enumerate(as_completed(running), 1):
            cell = running[done]
            rows[tuple(cell.values())] = [cell | {"simulations": simulations} | row for row in done.result()]
            print(f"{name}: {i} of {len(todo)} cells", end="\r", flush=True)
            table = pd.DataFrame([row for key in ordered for row in rows.get(key, [])])
            table.round(4).to_csv(out, index=False)
    return pd.read_csv(out)


def options(about: str | None, simulations: int, **choices: Sequence[Any] | Mapping[str, Any]) -> argparse.Namespace:
    """Return the options of a simulation: --simulations, and a list of values for each of `choices`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=simulations, help=f"of each cell (default: {simulations})")
    for name, known in choices.items():
        values = list(known)
        parser.add_argument(f"--{name}", nargs="*", choices=values, type=type(values[0]), default=values)
    return parser.parse_args()
