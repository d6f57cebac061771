"""Studies in child processes, and what of them must be equal: the record, the losses, and what MLflow shows."""

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from paths import TESTS
from processes import SECONDS, kill_tree

from study.record import tables


class Studies:
    """`python -m study` with a home and cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
        self.environment = kept | {
            "HOME": str(folder),
            "STUDY_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS / "helpers")]),
        }

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "study", *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __call__(self, *words: str | Path) -> str:
        """Run to the end; returns what it printed."""
        child = self.start(*words)
        try:
            printed, _ = child.communicate(timeout=SECONDS)
        finally:
            kill_child(child)
        assert child.returncode == 0, printed
        return printed


def kill_child(child: subprocess.Popen[str]) -> None:
    kill_tree(child.pid)
    child.wait(timeout=30)
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()


FIXED = ["--set", "control_lrs=0.005,0.01,0.02,0.04,0.08,0.16"]
"""The lrs of a control that does not grow, and so has `CONTROL` runs."""

CONTROL = 24

SMALL = [
    *FIXED,
    *("--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500", "--set", "models=small"),
    *("--set", "methods=none,clippy", "--set", "lr=0.05,0.4,3.2", "--set", "clippy.abs=0.01,0.001"),
]


def table(folder: Path) -> pd.DataFrame:
    """Return the record without the columns that may differ between equal studies."""
    return tables.read_runs(folder).drop(columns=["seconds", "device", "version"])


def losses(folder: Path) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    """Return the bits of all losses of every run and task, and of the constant predictor's."""
    frame = tables.read_losses(folder)
    return {
        (run, task): (np.asarray(loss).tobytes(), np.asarray(constant).tobytes())
        for run, task, loss, constant in zip(*(frame[c] for c in ("run_id", "task", "loss", "constant")), strict=True)
    }


def recorded(folder: Path) -> list[str]:
    """Return the ids in the files, twice if they were written twice."""
    parts = [pd.read_parquet(path, columns=["run_id"]) for path in (folder / "runs").glob("*.parquet")]
    return [run for part in parts for run in part["run_id"]]


def shown(database: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Return what MLflow shows: runs with their parents, metrics, params and tags.

    Deleted generations are left out, and so are ids, times and seconds, which differ between equal studies.
    """
    live = "runs.lifecycle_stage = 'active'"
    ids = "('study.content', 'mlflow.parentRunId', 'mlflow.user', 'mlflow.source.name', 'mlflow.source.git.commit')"
    queries = {
        "runs": f"select runs.name, up.name, runs.status from runs left join tags on tags.run_uuid = runs.run_uuid and"
        f" tags.key = 'mlflow.parentRunId' left join runs up on up.run_uuid = tags.value where {live}",
        "metrics": f"select runs.name, key, step, value from metrics join runs using (run_uuid) where {live}"
        " and key not like '%seconds%'",
        "params": f"select runs.name, key, value from params join runs using (run_uuid) where {live}",
        "tags": f"select runs.name, key, value from tags join runs using (run_uuid) where {live} and key not in {ids}",
    }
    with contextlib.closing(sqlite3.connect(database)) as connection:
        found = {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in queries.items()}
    names = [run[0] for run in found["runs"]]
    twice = [name for name, times in Counter(names).items() if times > 1]
    assert not twice, f"in MLflow twice: {twice}"
    assert "incomplete" not in {value for _, key, value in found["tags"] if key == "study.state"}
    return found
