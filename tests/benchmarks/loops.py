"""What a loop pays beside its own time: milliseconds of a run on workers that stay, and microseconds of a `watch`.

    python tests/benchmarks/loops.py [--runs 400] [--workers 2] [--calls 50000] [--folder DIR]

A run is 25 steps of arithmetic. Each notes when its function began and ended, so the start of Ray and of the workers,
the report and MLflow do not count. Overhead of a run: (seconds from the first beginning to the last end, times workers,
less the time inside the function) / runs. It holds the scheduler, files of the run, judging and recording.

A `watch` is measured with the heartbeat and the checkpointer of a trial: the best of nine repetitions.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 10
SPACE = """
import os
import random
import time

from study import Arm, Loop, Study, log_grid

FILE = {file!r}


def train(run, watch):
    began = time.time()
    w = 1 + 0.01 * random.random()
    for _ in range(25):
        watch(w * w)
        w -= run.lr * w
    with open(FILE, "a") as file:
        file.write(f"{{os.getpid()}} {{began}} {{time.time()}}\\n")


study = Study(
    name="trivial",
    trainer=Loop(train, baseline=1.0),
    arms=(Arm("plain"),),
    lrs=log_grid(0.01, 1, {lrs}),  # a run whose loss overflows would end before it notes its time
    seeds=range({seeds}),
)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=400, help="the control not counted (default: 400)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--calls", type=int, default=50_000, help="of watch (default: 50000)")
    parser.add_argument("--folder", type=Path, help="where the study is kept (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="loops-") as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for what, seconds in watches(folder, asked.calls).items():
            print(f"watch, {what}: {1e6 * seconds:.2f} microseconds", flush=True)
        times = run_study(folder, asked.runs, asked.workers)
        for what, number in overhead(times, asked.workers).items():
            print(f"{what}: {number:.1f}" if isinstance(number, float) else f"{what}: {number}")
    return 0


def watches(folder: Path, calls: int) -> dict[str, float]:
    """Return the seconds of a call of `watch`, by what it is given."""
    import torch

    from study.execution.checkpoint import Checkpoint
    from study.execution.heartbeat import Heartbeat
    from study.loops.watch import Watch

    given: Mapping[str, Any] = {
        "a float": 0.5,
        "a tensor on the CPU": torch.tensor(0.5),
        "two tasks, floats": {"a": 0.5, "b": 0.5},
    }
    found = {}
    for number, (what, loss) in enumerate(given.items()):
        own = folder / f"watch_{number}"
        own.mkdir()
        with Heartbeat(folder, "trial", {}, limit_seconds=600) as heartbeat:
            checkpoint = Checkpoint(
                folder,
                "trial",
                ["run"],
                steps=None,
                made_by={},
                every_seconds=60,
                stopping=lambda h=heartbeat: h.stopping,
            )
            tasks = tuple(loss) if isinstance(loss, dict) else ("loss",)
            watch = Watch(own, tasks, heartbeat.watch, lambda done, c=checkpoint: c.after(done, None))
            watch(loss)
            timer = timeit.Timer("watch(loss)", globals={"watch": watch, "loss": loss})
            found[what] = min(timer.repeat(9, calls)) / calls
            watch.file.close()
    return found


def run_study(folder: Path, runs: int, workers: int) -> np.ndarray:
    """Train a study of trivial loops; return process, beginning and end of each run, in rows."""
    times = folder / "times.txt"
    lrs = max(2, round(runs / SEEDS))
    (folder / "trivial.py").write_text(SPACE.format(file=str(times), lrs=lrs, seeds=SEEDS))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(ROOT), "STUDY_CACHE": str(folder / "cache"), "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["run", "trivial", "--out", "out", "--workers", str(workers)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "study", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of study {' '.join(words)}\n{done.stderr[-4000:]}")
    return np.loadtxt(times, ndmin=2)


def overhead(times: np.ndarray, workers: int) -> dict[str, int | float]:
    """Return what the runs took beside their own time.

    Args:
        times: process, beginning and end of each run (runs, 3), in seconds.
        workers: runs at a time.
    """
    own = times[:, 2] - times[:, 1]
    span = times[:, 2].max() - times[:, 1].min()
    gaps = []
    for process in np.unique(times[:, 0]):
        began, ended = times[times[:, 0] == process, 1:].T
        order = np.argsort(began)
        gaps.append(began[order][1:] - ended[order][:-1])
    return {
        "runs, the control included": len(times),
        "worker processes": len(gaps),
        "a run's own time, ms": 1e3 * float(own.mean()),
        "overhead of a run, ms": 1e3 * float(span * workers - own.sum()) / len(times),
        "between two runs of a worker, median ms": 1e3 * float(np.median(np.concatenate(gaps))),
    }


if __name__ == "__main__":
    sys.exit(main())
