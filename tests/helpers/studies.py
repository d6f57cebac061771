"""What the tests of several folders share: studies."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from paths import TESTS

from study.record import tables

SECONDS = 400  # far beyond what any of these takes


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
            kill_tree(child)
        assert child.returncode == 0, printed
        return printed


def tree(root: int) -> set[int]:
    """The process and all that descend from it, as they are now."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {root} if root in parents else set()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def kill_tree(child: subprocess.Popen[str]) -> None:
    """kill -9 of the process and its descendants; none can start another one before it is its turn."""
    stopped: set[int] = set()
    while more := tree(child.pid) - stopped:
        for pid in more:
            send(pid, signal.SIGSTOP)
        stopped |= more
    for pid in stopped:
        send(pid, signal.SIGKILL)
    child.wait(timeout=30)
    for stream in (child.stdout, child.stderr):
        if stream:
            stream.close()


def send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


SMALL = [
    *("--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500", "--set", "models=small"),
    *("--set", "methods=none,clippy", "--set", "lr=0.05,0.4,3.2", "--set", "clippy.abs=0.01,0.001"),
]

CONTROL = 24


def table(folder: Path) -> pd.DataFrame:
    """The record without what is promised to no one."""
    return tables.read_runs(folder).drop(columns=["seconds", "device", "version"])


def losses(folder: Path) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    frame = tables.read_losses(folder)
    return {
        (run, task): (loss.tobytes(), constant.tobytes())
        for run, task, loss, constant in zip(*(frame[c] for c in ("run_id", "task", "loss", "constant")), strict=True)
    }


def recorded(folder: Path) -> list[str]:
    """Ids as they stand in the files, twice where they were written twice."""
    parts = [pd.read_parquet(path, columns=["run_id"]) for path in (folder / "runs").glob("*.parquet")]
    return [run for part in parts for run in part["run_id"]]


def shown(folder: Path) -> list[tuple[Any, ...]]:
    """What MLflow holds: each run's name and metrics, deleted generations left out."""
    with sqlite3.connect(folder / "mlflow.db") as database:
        rows = database.execute(
            "select runs.name, metrics.key, metrics.step, metrics.value from runs left join metrics using (run_uuid)"
            " where runs.lifecycle_stage = 'active' and coalesce(metrics.key, '') not like '%seconds%'"
            " order by 1, 2, 3, 4"
        ).fetchall()
        names = database.execute("select name from runs where lifecycle_stage = 'active'").fetchall()
    database.close()
    assert len(names) == len(set(names)), "a run stands in MLflow twice"
    return rows
