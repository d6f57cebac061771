"""A simulated record of 60 runs, and the same runs as a long table of losses."""

from pathlib import Path

import pandas as pd
from simulated_record import TASKS, simulated_definition, write_simulated_study

import analysis
from analysis.stats.recommend import recommend
from study.commands.rescore import rescore
from study.config import Arm
from study.record import tables
from study.record.definition import read_definition

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


def assert_same_answers(record: Path, imported: Path) -> None:
    """Assert that two records of these runs have the same outcomes, rates, edges and recommendation."""
    keys = ["method", "lr", "seed"]
    frames = [analysis.load(folder).sort_values(keys, ignore_index=True) for folder in (record, imported)]
    assert len(frames[0]) == 60
    same = [*keys, "outcome", "reason", "diverged_at_step"]
    pd.testing.assert_frame_equal(frames[0][same], frames[1][same])
    assert set(frames[0]["outcome"]) >= {"completed", "diverged"}
    rates = [analysis.divergence_rates(frame)[["method", "lr", "n", "k", "rate", "low", "high"]] for frame in frames]
    pd.testing.assert_frame_equal(*rates)
    edges = [analysis.edges(frame)[["method", "edge", "low", "high", "status"]] for frame in frames]
    pd.testing.assert_frame_equal(*edges)
    claims = [
        recommend(frame, read_definition(folder))[["method", "status", "k", "n", "nominated", "more_if_clean"]]
        for frame, folder in zip(frames, (record, imported), strict=True)
    ]
    pd.testing.assert_frame_equal(*claims)
