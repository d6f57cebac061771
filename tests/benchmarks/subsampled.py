"""Outcomes of recorded runs if fewer of their steps had been logged.

    python tests/benchmarks/subsampled.py DIR [DIR ...]

prints how often the outcome changes where losses are logged every 10th or 50th step, or at the last three steps alone,
as in docs/definition.md. The control is subsampled too, so that the reference gain is that of such a record. The first
loss is always logged.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from study.outcomes.judge import judge
from study.outcomes.recorded import RunLosses, losses_by_run
from study.outcomes.reference import control_reference
from study.record import tables
from study.record.definition import read_definition
from study.record.references import control_ids

AT_END = 3
"""Logged steps of "the end alone", beside the first: the fewest that a trailing median takes."""

LOGGED: dict[str, Callable[[int], np.ndarray]] = {
    "every step": np.arange,
    "every 10th": lambda T: np.arange(0, T, 10),
    "every 50th": lambda T: np.arange(0, T, 50),
    "the end": lambda T: np.unique(np.r_[0, np.arange(max(T - AT_END, 0), T)]),
}
"""Name -> numbers of the logged steps of a run of T steps."""


def outcomes(folder: Path, logged: Callable[[int], np.ndarray], *, with_moved: bool = True) -> dict[str, str]:
    """Return run id -> outcome (`diverged collapsed`, with its reason) of a record whose losses were subsampled.

    Args:
        folder: The study's folder.
        logged: Numbers of the logged steps of a run, by its number of steps.
        with_moved: Whether the distances of networks from their start are known.

    Raises:
        ValueError: If the control learned nothing that shows at the logged steps.
    """
    definition, runs = read_definition(folder), tables.read_runs(folder)
    names = [task["name"] for task in definition.data["tasks"]]
    constant_K = np.array([task["constant_loss"] for task in definition.data["tasks"]])
    losses = {run: subsample(own, logged) for run, own in losses_by_run(tables.read_losses(folder), names).items()}
    rows: dict[str, Any] = runs.set_index("run_id").to_dict("index")
    found = {}
    for model in definition.study.models:
        control = control_ids(definition.study, definition.data["content"], model, rows)
        reference = control_reference(
            [rows[run]["lr"] for run in control],
            [rows[run]["seed"] for run in control],
            [losses[run].loss for run in control],
            [losses[run].constant for run in control],
            constant_K,
            definition.study.rule,
            [rows[run]["moved"] for run in control] if with_moved else None,
            step_RT=[losses[run].step for run in control],
        )
        for run, row in rows.items():
            if row["role"] != "cell" or row["model"] != model:
                continue
            own = losses[run]
            (judged,) = judge(
                own.loss[None],
                own.constant[None],
                constant_K,
                [not (row["reason"] == "nonfinite" and pd.isna(row["kept"]))],
                reference,
                definition.study.rule,
                [row["moved"]] if with_moved else None,
                step_T=own.step,
            )
            found[run] = " ".join(filter(None, [judged.outcome, judged.reason]))
    return found


def subsample(run: RunLosses, logged: Callable[[int], np.ndarray]) -> RunLosses:
    """Return the losses of the logged steps."""
    step = logged(len(run.loss))
    return RunLosses(loss=run.loss[step], constant=run.constant[step], step=step)


def changes(folders: Sequence[Path], *, with_moved: bool = True) -> pd.DataFrame:
    """Return how many runs have another outcome if fewer steps are logged.

    Returns:
        One row for each of `LOGGED` but "every step" and outcome under every step ("all" first). Columns logged, was,
        n (runs), changed (completed, diverged or undertrained became another of these), reason (another reason alone).
    """
    rows = []
    full = {(f, run): word for f in folders for run, word in _judged(f, "every step", with_moved).items()}
    for name in list(LOGGED)[1:]:
        after = {(f, run): word for f in folders for run, word in _judged(f, name, with_moved).items()}
        for was in ["all", *sorted(set(full.values()))]:
            runs = [key for key, word in full.items() if was in ("all", word)]
            changed = sum(after[key].split()[0] != full[key].split()[0] for key in runs)
            other = sum(after[key] != full[key] for key in runs) - changed
            rows.append({"logged": name, "was": was, "n": len(runs), "changed": changed, "reason": other})
    return pd.DataFrame(rows)


def _judged(folder: Path, name: str, with_moved: bool) -> dict[str, str]:
    return outcomes(folder, LOGGED[name], with_moved=with_moved)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Outcomes of records if fewer steps had been logged.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR")
    folders = parser.parse_args().folders
    for known in (True, False):
        print(f"distances from the start {'known' if known else 'unknown'}:")
        print(changes(folders, with_moved=known).to_string(index=False), "\n")
