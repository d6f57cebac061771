"""A simulated study, what MLflow shows of it, and servers that show it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulated_record import simulated_definition, write_simulated_study

import analysis
from study.config import Arm
from study.record import tables
from study.record.definition import read_definition
from study.tracking.client import default_uri, open_client
from study.tracking.mirror import MirrorResult, mirror
from study.tracking.view import _answers
from study.tracking.writing import KIND, PARENT, STATE

ARMS = (Arm(method="none"), Arm(method="clippy"))
LRS = (0.1, 0.4, 1.6)
READS = {"search_runs", "get_experiment_by_name"}


def write(
    folder: Path, *, seeds: int = 4, lrs: tuple[float, ...] = LRS, arms: tuple[Arm, ...] = ARMS, **how: Any
) -> None:
    definition = simulated_definition(models=["small"], arms=arms, lrs=lrs, seeds=range(seeds))
    write_simulated_study(folder, definition, with_losses=False, **how)


def mirror_curves(*args: Any, **options: Any) -> MirrorResult:
    """`mirror` without training runs: MLflow takes a while for each, and their tests are elsewhere."""
    return mirror(*args, **{"runs": "none"} | options)


class View:
    """All that MLflow shows of an experiment, read with a client of its own."""

    def __init__(self, folder: Path, uri: str | None = None, experiment: str = "1") -> None:
        self.client = open_client(uri or default_uri(folder))
        self.runs = list(self.client.search_runs([experiment], max_results=5000))
        self.tops = [run for run in self.runs if PARENT not in run.data.tags]
        self.cells = [run for run in self.runs if PARENT in run.data.tags]
        self.curves = [run for run in self.tops if run.data.tags.get(KIND) == "curve"]

    def curve(self, name: str) -> Any:
        (run,) = [run for run in self.curves if run.info.run_name == name]
        return run

    def history(self, run: Any, metric: str) -> dict[int, float]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        assert len({point.step for point in points}) == len(points)
        return {point.step: point.value for point in points}

    def content(self) -> list[Any]:
        """Everything but the ids, which MLflow draws at random."""
        names = {run.info.run_id: run.info.run_name for run in self.runs}
        return sorted(
            (
                run.info.run_name,
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                sorted(run.data.metrics.items()),
                sorted(run.data.params.items()),
                sorted((k, names.get(v, v)) for k, v in run.data.tags.items()),
                [sorted(self.history(run, metric).items()) for metric in sorted(run.data.metrics)],
            )
            for run in self.runs
        )


def assert_exactly_once(folder: Path, view: View) -> None:
    """One run per curve, cell and study of the record, whole, each cell under its own curve, and nothing else."""
    runs = tables.read_runs(folder)
    runs = runs[runs["role"] == "cell"]
    cells = set(zip(runs["method"], [f"{lr:.12g}" for lr in runs["lr"]], strict=True))
    assert Counter(run.data.tags["method"] for run in view.curves) == Counter(set(runs["method"]))
    assert Counter((run.data.tags["method"], run.data.tags["lr"]) for run in view.cells) == Counter(cells)
    assert len(view.tops) == len(view.curves) + 1
    method_of = {run.info.run_id: run.data.tags["method"] for run in view.curves}
    for cell in view.cells:
        assert method_of[cell.data.tags[PARENT]] == cell.data.tags["method"]
        of_cell = runs[(runs["method"] == cell.data.tags["method"]) & (runs["lr"] == float(cell.data.tags["lr"]))]
        assert cell.data.metrics["divergence/runs"] == len(of_cell)
    assert {run.data.tags[STATE] for run in view.tops} == {"complete"}
    assert {run.info.status for run in view.runs} == {"FINISHED"}


@contextlib.contextmanager
def study_ui(folder: Path) -> Iterator[str]:
    """`study ui`, as a user runs and ends it. Yields the address that it prints."""
    command = [sys.executable, "-m", "study", "ui", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        try:
            yield user.stdout.readline().strip()
        finally:
            user.send_signal(signal.SIGTERM)
            assert user.wait(timeout=30) == 0


@contextlib.contextmanager
def shared_server(folder: Path) -> Iterator[str]:
    """An MLflow server for several studies, with the database in `folder`. Yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    settings = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # job runners take 2 GB
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(words, stdout=log, stderr=log, env=settings) as server,
    ):
        try:
            for _ in range(300):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
                time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def study_run(folder: Path) -> Any:
    (run,) = [run for run in View(folder).tops if run.data.tags[KIND] == "study"]
    return run


def answers_of(folder: Path) -> dict[str, dict[str, float]]:
    """What a study found, by the name of the curve."""
    found = _answers(folder, read_definition(folder), analysis.load(folder))
    return {f"{model} · {curve}": values for (model, curve), values in found.items()}


def shown_answers(folder: Path) -> dict[str, dict[str, float]]:
    """What MLflow shows of it."""
    found = {
        run.info.run_name: {name: value for name, value in run.data.metrics.items() if name.startswith("edges/")}
        for run in View(folder).curves
    }
    return {name: values for name, values in found.items() if values}


class Killed(BaseException):
    """What a kill looks like from inside: nothing handles it."""


class Watched:
    """An MLflow client that counts its writes, and dies after as many as it is given."""

    def __init__(self, client: Any, writes: list[str], last: float) -> None:
        self.client, self.writes, self.last = client, writes, last

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = getattr(self.client, name)
        if name in READS:
            return call

        def write(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            self.writes.append(name)
            if len(self.writes) >= self.last:
                raise Killed
            return answer

        return write
