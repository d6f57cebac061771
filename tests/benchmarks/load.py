"""What a study of many cells costs beside training: thousands of trivial cells through plan, Tune, record, MLflow and
report.

    python tests/benchmarks/load.py [--cells 1000,5000,20000] [--seeds 1] [--folder DIR]
    python tests/benchmarks/load.py --recorded --cells 200000                 10,001 arms of 20 cells
    python tests/benchmarks/load.py --recorded --cells 100 --seeds 2000       5 arms, 200,000 runs

A cell is a linear regression on a table of its own, 5 steps of a batch of 32: methods x thresholds x 20 learning rates.
Each command is a process of its own. The parts of `study run` are timed inside it; CPU seconds are those of the process
that is named, its workers apart. Overhead of a cell is all wall time of `study run` in which its workers do not train,
over the cells: wall time less the recorded seconds of training, shared by the workers. Peak memory is the highest
resident size (Linux). The exponent is the slope of log cost over log cells, from the smallest to the largest study, of
wall time or bytes: 1 grows straight, 0 not at all. With --recorded nothing is trained: `tests/helpers/fake_record.py`
writes every run, and `plan`, `status`, `report` and `recommend` read them.
"""

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
SPACE = "own_spaces.load"
LRS = 20
THRESHOLDS = {"layer_clip": "max_norm", "agc": "max_ratio", "lamb": "mu", "clippy": "rel"}

DECLARED = """files = ["log.parquet"]
time = "time"
time_unit = "s"
numbers = ["a", "b", "c"]
heldout = 0.1

[tasks]
y = "regression"
"""


@dataclass
class Cost:
    """seconds: wall time. cpu: of the process alone. peak: bytes."""

    seconds: float
    cpu: float
    peak: int | None = None


@dataclass
class Load:
    """What a study of so many cells took: the cost of each part, and figures of the whole."""

    cells: int
    parts: dict[str, Cost] = field(default_factory=dict)
    stacks: int = 0
    overhead_ms: float = 0.0
    """Of a cell."""
    idle_ms: float = 0.0
    """Of a stack and worker: between the end of one trial and the start of the next."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cells", default="1000,5000,20000")
    parser.add_argument("--seeds", type=int, default=1, help="of a cell (default: 1)")
    parser.add_argument("--workers", type=int, help="trials at a time (default: one a core)")
    parser.add_argument("--recorded", action="store_true", help="of runs that are written and not trained")
    parser.add_argument("--folder", type=Path, help="where the studies are kept (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="load-") as scratch:
        folder = (asked.folder or Path(scratch)).resolve()
        loads = []
        for cells in map(int, asked.cells.split(",")):
            of_cells = folder / str(cells)
            if asked.recorded:
                loads.append(measure_recorded(of_cells, cells, asked.seeds))
            else:
                loads.append(measure(of_cells, cells, asked.seeds, asked.workers))
            print(table(loads), "\n", flush=True)
    return 0


def measure(folder: Path, cells: int, seeds: int, workers: int | None = None) -> Load:
    """Every command on a study of so many cells, which is written into the folder anew."""
    asked, out, load = prepare(folder, cells, seeds), folder / "study", Load(cells=cells)
    load.parts["plan"] = command(folder, "-m", "study", "plan", *asked)
    told = folder / "told.json"
    words = ["--workers", str(workers)] if workers else []
    load.parts["run"] = command(folder, str(Path(__file__)), "--child", str(told), "run", *asked, *words)
    said = json.loads(told.read_text())
    load.parts |= {f"run: {name}": Cost(**cost) for name, cost in said["parts"].items()}
    load.stacks = said["stacks"]
    trained = pd.read_parquet(out / "runs.parquet")["seconds"].sum()
    load.overhead_ms = 1e3 * (load.parts["run"].seconds - trained / said["workers"]) / cells
    load.parts["run: training, a worker"] = Cost(trained / said["workers"], trained / said["workers"])
    recording = (said["executed"] - trained) / said["workers"]
    load.parts["run: judging and recording, a worker"] = Cost(recording, recording)
    load.idle_ms = 1e3 * (said["parts"]["Tune"]["seconds"] * said["workers"] - said["executed"]) / load.stacks
    for name in ("status", "report", "recommend"):
        load.parts[name] = command(folder, "-m", "study", name, str(out))
    load.parts["mlflow, nothing new"] = command(folder, "-m", "study", "mlflow", str(out))
    (out / "mlflow.db").unlink()
    shutil.rmtree(out / "mlflow-artifacts", ignore_errors=True)
    load.parts["mlflow, rebuilt"] = command(folder, "-m", "study", "mlflow", str(out))
    return load


def measure_recorded(folder: Path, cells: int, seeds: int) -> Load:
    """The reading commands on a study of so many cells, all of whose runs are recorded."""
    asked, out, load = prepare(folder, cells, seeds), str(folder / "study"), Load(cells=cells)
    command(folder, str(Path(__file__)), "--fake", *asked)
    load.parts["plan"] = command(folder, "-m", "study", "plan", *asked)
    for name in ("status", "report", "recommend"):
        load.parts[name] = command(folder, "-m", "study", name, out)
    return load


def prepare(folder: Path, cells: int, seeds: int) -> list[str]:
    """Write the search space, its model and data into the folder anew, and return the words that name the study."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_space(folder, cells, seeds)
    shutil.copytree(ROOT / "tests" / "helpers" / "own_models", folder / "own_models")
    write_data(folder / "data")
    return [SPACE, "--data-dir", str(folder / "data"), "--out", str(folder / "study")]


def command(folder: Path, *words: str) -> Cost:
    """Run Python with these words, from the folder. RuntimeError, with what it said, where it fails."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "STUDY_CACHE": str(folder / "cache")}
    with (folder / "said.txt").open("w+") as said:
        started = time.perf_counter()
        child = subprocess.Popen([sys.executable, *words], cwd=folder, env=environment, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"exit code {child.returncode} of {' '.join(words)}\n{said.read()[-4000:]}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def table(loads: Sequence[Load]) -> str:
    """A row a part: seconds (CPU seconds, peak MB) of each study, and the exponent."""
    names = list(dict.fromkeys(name for load in loads for name in load.parts))
    rows = [["seconds (CPU seconds; peak MB)", *(f"{load.cells:,} cells" for load in loads), "exponent"]]
    for name in names:
        costs = [load.parts[name] for load in loads]
        shown = [f"{c.seconds:.2f} ({c.cpu:.2f}" + (")" if c.peak is None else f"; {c.peak / 1e6:.0f})") for c in costs]
        rows.append([name, *shown, growth(loads, [c.seconds for c in costs])])
    for name, values in (
        ("stacks", [load.stacks for load in loads]),
        ("overhead of a cell, ms", [load.overhead_ms for load in loads]),
        ("between two trials of a worker, ms", [load.idle_ms for load in loads]),
    ):
        if any(load.stacks for load in loads):  # else nothing was trained
            rows.append([name, *(f"{v:.{int(name != 'stacks')}f}" for v in values), growth(loads, values)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def growth(loads: Sequence[Load], costs: Sequence[float]) -> str:
    """The exponent between the smallest and the largest study."""
    if len(loads) < 2 or min(costs) <= 0:
        return "-"
    return f"{np.log(costs[-1] / costs[0]) / np.log(loads[-1].cells / loads[0].cells):.2f}"


# The study


def arms(cells: int) -> list[tuple[str, dict[str, float]]]:
    """`none`, and so many thresholds of four methods that there are about `cells` cells of LRS learning rates."""
    each = max(1, round((cells / LRS - 1) / len(THRESHOLDS)))
    values = [float(f"{v:.6g}") for v in np.geomspace(1e-3, 1.0, each)]
    return [("none", {}), *((method, {name: v}) for method, name in THRESHOLDS.items() for v in values)]


def write_space(folder: Path, cells: int, seeds: int) -> None:
    lrs = [float(f"{lr:.3g}") for lr in np.geomspace(0.01, 30, LRS)]
    made = ",\n        ".join(f"Arm(method={m!r}, options={o!r})" for m, o in arms(cells))
    path = folder / f"{SPACE.replace('.', '/')}.py"
    path.parent.mkdir()
    path.write_text(
        f'"""Trivial cells."""\n\nfrom study.config import Arm, Recipe, Rule, Study\n\nstudy = Study(\n'
        f'    name="load",\n    data="table",\n    models=("own_models.linear",),\n'
        f"    arms=(\n        {made},\n    ),\n    lrs={tuple(lrs)},\n    seeds=tuple(range({seeds})),\n"
        f"    recipe=Recipe(batch=32, steps=5, warmup=0),\n    rule=Rule(median_steps=3),\n)\n"
    )


def write_data(folder: Path) -> None:
    """A line that a few steps find: y is the sum of three numbers."""
    folder.mkdir()
    random = np.random.default_rng(0)
    numbers = random.standard_normal((1_000, 3))
    y = numbers.sum(1) + 0.1 * random.standard_normal(len(numbers))
    columns = {name: numbers[:, i] for i, name in enumerate("abc")} | {
        "time": 1_700_000_000 + np.arange(len(y)),
        "y": y,
    }
    pd.DataFrame(columns).to_parquet(folder / "log.parquet")
    (folder / "table.toml").write_text(DECLARED)


def _fake(words: Sequence[str]) -> int:
    """Write every run of the study that the words name."""
    sys.path.append(str(ROOT / "tests" / "helpers"))
    from fake_record import write_fake_record

    from study.commands.request import RunRequest, study_and_trainer

    space, _, data, _, out = words
    _, trainer = study_and_trainer(RunRequest(space=space, data_dir=data))
    write_fake_record(Path(out), trainer)
    return 0


# Inside `study run`


def _child(told: Path, words: Sequence[str]) -> int:
    """`study WORDS`, with its parts timed."""
    from study.cli import main as cli
    from study.commands import run as driver
    from study.tracking.follower import Follower
    from study.tune import cluster, runner

    parts: dict[str, dict[str, Any]] = {}
    counted = {"stacks": 0, "executed": 0.0, "workers": 0}

    def timed(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            started, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*args, **options)
            finally:
                cost = parts.setdefault(name, {"seconds": 0.0, "cpu": 0.0})
                cost["seconds"] += time.perf_counter() - started
                cost["cpu"] += time.process_time() - cpu

        return call

    train = runner.run

    def run(job: runner.Job, log: Any, on: cluster.Cluster, *more: Any) -> None:
        tell = job.on_trial_end

        def counts(stack: Any, result: Any) -> None:
            counted["stacks"] += 1
            counted["executed"] += result["seconds"]
            tell(stack, result)

        job.on_trial_end = counts
        counted["workers"] = on.workers
        train(job, log, on, *more)

    mirror = driver._mirror

    def mirrored(folder: Path, follower: Follower, uri: str | None) -> str:
        said = mirror(folder, follower, uri)
        process = Path(f"/proc/{follower.process.pid}")
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lines = (process / "status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
        parts["the follower, in all"] = {"seconds": time.perf_counter() - began, "cpu": cpu, "peak": peak}
        return said

    began = time.perf_counter()
    driver.plan = timed("plan", driver.plan)
    runner.run = timed("Tune", run)
    driver.report = timed("report", driver.report)
    driver._mirror = timed("MLflow, after the report", mirrored)
    code = cli.main(words)
    told.write_text(json.dumps(counted | {"parts": parts}))
    return code


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fake"]:
        sys.exit(_fake(sys.argv[2:]))
    if sys.argv[1:2] == ["--child"]:
        sys.exit(_child(Path(sys.argv[2]), sys.argv[3:]))
    sys.exit(main())
