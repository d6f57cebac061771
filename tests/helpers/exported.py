"""A simulated record of 60 runs, and the same runs as a long table of losses."""

from pathlib import Path

import pandas as pd
from simulated_record import TASKS, simulated_definition, write_simulated_study

from study.commands.rescore import rescore
from study.config import Arm
from study.record import tables

LRS = (0.05, 0.1, 0.3, 0.4, 0.6, 0.8)
TASK_NAMES = [task["name"] for task in TASKS]


def judged_record(folder: Path) -> Path:
    """Write a record of 60 runs of two methods, and return a view of it whose outcomes follow from its losses."""
    definition = simulated_definition(
        models=["small"], arms=[Arm("none"), Arm("layer_clip")], lrs=LRS, seeds=range(5), steps=120
    )
    write_simulated_study(folder, definition)
    return rescore(folder, definition.study.rule)


def long_table(folder: Path) -> pd.DataFrame:
    """Return the cells of a record as a table: one row a run and step, the first arm's runs first."""
    runs, losses = tables.read_runs(folder), tables.read_losses(folder)
    cells = runs[runs["role"] == "cell"].sort_values("method", ascending=False)  # none, layer_clip
    parts = []
    for run in cells.itertuples(index=False):
        of_run = losses[losses["run_id"] == run.run_id].set_index("task")
        steps = len(of_run["loss"].iloc[0])
        part = {"method": run.method, "lr": run.lr, "seed": run.seed, "step": range(steps)}
        part |= {name: of_run["loss"][name] for name in TASK_NAMES}
        part |= {f"constant_{name}": of_run["constant"][name][:steps] for name in TASK_NAMES}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)
