"""How cost grows: with the size of a stack, runs, steps, features, table rows and rows of data. And memory, and input.

    python tests/benchmarks/growth.py [--quick] [--only stack,memory] [--folder DIR]

Every number is of a process of its own with one torch thread, in seconds of CPU time, the least of the repetitions: a
busy machine adds to wall time, and to the larger repetitions, more than to that. Sizes of a series are measured in
turn, all of them once and then again. The exponent is the slope of log cost over log size, by least squares over the
upper part of the sizes: 1 grows straight, 0 not at all.

`steps` is the CPU time of the steps after the first, `around` all else that `study.training.trainer.train` does: tables
and networks made, the rows judged. Memory is the highest resident size, memory-mapped data that was read included.

Input is what a step reads: batch orders, and gathers of the batches' ids, numbers and labels. It is done here as the
trainer does it, by itself, and divided by a whole step of the trainer.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from study.config import Arm, Recipe, Run, Study
from study.data._dataset import Log, Task
from study.training.rng import batches
from study.training.sizing import bytes_of_run
from study.training.trainer import train

sys.path.insert(0, str(Path(__file__).parent))

import conversion

ROOT = Path(__file__).resolve().parents[2]
BLOCK_ROWS = 1_000_000
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
"""As `study.tune.environment` sets for its workers."""

TASKS = (
    Task(name="click", kind="binary", base=0.3, constant_loss=0.6109),
    Task(name="long_view", kind="binary", base=0.3, constant_loss=0.6109),
    Task(name="like", kind="binary", base=0.3, constant_loss=0.6109),
    Task(name="play_time", kind="regression", base=0.0, scale=1.0, constant_loss=1.0, constant_rmse=1.0),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a child trains, on random data: cost does not depend on what they say.

    runs: trained one stack after the other, of at most `stack` runs. of_seed: runs that share a seed, and its batches.
    vocabulary: codes of the first id feature; each other has 200. rows: for training; heldout: more, to be judged.
    """

    model: str = "small"
    runs: int = 8
    stack: int = 64
    steps: int = 30
    features: int = 30
    vocabulary: int = 20_000
    rows: int = 50_000
    heldout: int = 2_000
    of_seed: int = 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """CPU time: steps_seconds of the steps after the first, around_seconds of all else that `train` does, input_seconds
    of reading as many batches as are in steps_seconds. bytes: highest resident size."""

    steps_seconds: float
    around_seconds: float
    input_seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Series:
    """One size that grows: a field of `Work`. cost: the part of a `Cost` that is looked at. upper: how many of the
    largest sizes tell the exponent. straight: what it should be, at most."""

    name: str
    field: str
    sizes: tuple[int, ...]
    work: Work
    cost: str = "steps_seconds"
    upper: int = 3
    straight: float = 1.0


SERIES = (
    Series(name="runs of a stack", field="runs", sizes=(1, 2, 4, 8, 16, 32, 64), work=Work()),
    Series(name="runs of a study", field="runs", sizes=(32, 64, 128, 256), work=Work(stack=32, steps=10)),
    Series(name="steps", field="steps", sizes=(25, 50, 100, 200, 400), work=Work(rows=250_000)),
    Series(name="id features", field="features", sizes=(8, 16, 32, 64, 128), work=Work(steps=20)),
    Series(
        name="table rows: steps",
        field="vocabulary",
        sizes=(10_000, 100_000, 1_000_000, 10_000_000),
        work=Work(runs=2, steps=50),
        straight=0.0,
    ),
    Series(
        name="table rows: around",
        field="vocabulary",
        sizes=(10_000, 100_000, 1_000_000, 10_000_000),
        work=Work(runs=2, steps=50),
        cost="around_seconds",
        upper=2,
    ),
    Series(
        name="rows of data",
        field="rows",
        sizes=(50_000, 500_000, 5_000_000, 10_000_000),
        work=Work(steps=50),
        straight=0.0,
    ),
    Series(
        name="rows held out: around",
        field="heldout",
        sizes=(2_000, 20_000, 200_000, 1_000_000),
        work=Work(steps=5, rows=1_050_000),
        cost="around_seconds",
        upper=2,
    ),
)

MEMORY = {
    "small": Work(model="small", steps=4),
    "large": Work(model="large", steps=4),
    "small_dcn": Work(model="small_dcn", steps=4),
    "large_mmoe": Work(model="large_mmoe", steps=4),
    "wide table": Work(model="small", steps=4, vocabulary=1_000_000),
}
MEMORY_RUNS = (8, 16, 32)

INPUT = {
    "small, 32 runs of 8 seeds": Work(model="small", runs=32, steps=30),
    "small, 32 runs of 32": Work(model="small", runs=32, steps=30, of_seed=1),
    "large, 32 runs of 8": Work(model="large", runs=32, steps=8),
    "small, 10 million rows": Work(model="small", runs=32, steps=30, rows=10_000_000),
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="two sizes each, once, and few steps: to see that it works"
    )
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", help="such as growth,input,memory, or names of series")
    parser.add_argument("--folder", type=Path, help="where data are written (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    chosen = asked.only.split(",") if asked.only else ["growth", "input", "memory"]
    repetitions = 1 if asked.quick else asked.repetitions
    with tempfile.TemporaryDirectory(prefix="growth-", dir=asked.folder) as folder:
        series = [one for one in SERIES if "growth" in chosen or one.name in chosen]
        if series:
            print(f"{'cost over':<24}{'exponent':>9}{'straight':>9}  size: CPU seconds, peak MB")
        for one in series:
            one = replace(one, sizes=one.sizes[:2], work=replace(one.work, steps=4)) if asked.quick else one
            print(growth_line(one, measure(one, repetitions, Path(folder))), flush=True)
        if "input" in chosen:
            print(f"\n{'input of a step':<28}{'ms':>9}{'step ms':>9}{'share':>8}")
            for name, work in list(INPUT.items())[: 1 if asked.quick else None]:
                print(input_line(name, work, repetitions, Path(folder)), flush=True)
        if "memory" in chosen:
            print(f"\n{'memory of a run':<24}{'MB':>9}{'estimate':>9}{'ratio':>8}  runs: peak MB")
            for name, work in list(MEMORY.items())[: 1 if asked.quick else None]:
                runs = (2, 16) if asked.quick else MEMORY_RUNS
                print(memory_line(name, work, runs, Path(folder)), flush=True)
    return 0


def measure(series: Series, repetitions: int, folder: Path) -> list[Cost]:
    works = [replace(series.work, **{series.field: size}) for size in series.sizes]
    found: list[list[Cost]] = [[] for _ in works]
    for repetition in range(repetitions):
        for costs, work in zip(found, works, strict=True):
            costs.append(cost_of(work, folder, repetition))
    return [least(costs) for costs in found]


def least(costs: Sequence[Cost]) -> Cost:
    return Cost(**{name: min(getattr(cost, name) for cost in costs) for name in Cost.__dataclass_fields__})


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost over log size, by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def growth_line(series: Series, costs: Sequence[Cost]) -> str:
    seconds = [getattr(cost, series.cost) for cost in costs]
    slope = exponent(series.sizes[-series.upper :], seconds[-series.upper :])
    points = "; ".join(
        f"{size:,}: {second:.3g}, {cost.bytes / 1e6:.0f}"
        for size, second, cost in zip(series.sizes, seconds, costs, strict=True)
    )
    return f"{series.name:<24}{slope:>9.2f}{series.straight:>9.0f}  {points}"


def memory_line(name: str, work: Work, runs: Sequence[int], folder: Path) -> str:
    """The slope of peak memory over the runs of a stack, against the planner's estimate."""
    peaks = [cost_of(replace(work, runs=count), folder).bytes for count in runs]
    of_run = float(np.polyfit(runs, peaks, 1)[0])
    study = Study(name="memory", models=(work.model,), arms=(Arm(method="none"),), lrs=(0.1,), recipe=recipe_of(work))
    estimate = bytes_of_run(work.model, study.recipe, log_of(work, folder))
    points = "; ".join(f"{count}: {peak / 1e6:.0f}" for count, peak in zip(runs, peaks, strict=True))
    return f"{name:<24}{of_run / 1e6:>9.2f}{estimate / 1e6:>9.2f}{estimate / of_run:>8.2f}  {points}"


def input_line(name: str, work: Work, repetitions: int, folder: Path) -> str:
    cost, steps = least([cost_of(work, folder, i) for i in range(repetitions)]), work.steps - 1
    milliseconds = 1e3 * cost.input_seconds / steps, 1e3 * cost.steps_seconds / steps
    share = cost.input_seconds / cost.steps_seconds
    return f"{name:<28}{milliseconds[0]:>9.2f}{milliseconds[1]:>9.2f}{share:>8.1%}"


@functools.cache
def cost_of(work: Work, folder: Path, repetition: int = 0) -> Cost:
    """Train in a child process, once for each repetition. RuntimeError, with what it said, where it fails."""
    log_of(work, folder)
    command = [sys.executable, str(Path(__file__)), "--child", json.dumps(asdict(work)), str(folder)]
    environment = os.environ | MALLOC | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode} of {' '.join(command)}\n{done.stderr}")
    return Cost(**json.loads(done.stdout))


def recipe_of(work: Work) -> Recipe:
    return Recipe(steps=work.steps)


def log_of(work: Work, folder: Path) -> Log:
    """Random rows, memory-mapped from `folder`, where they are made once."""
    rows, vocabulary = work.rows + work.heldout, (work.vocabulary, *[200] * (work.features - 1))
    name = f"{rows}-{work.features}-{work.vocabulary}"
    arrays = {part: folder / f"{name}-{part}.npy" for part in ("ids", "numbers", "labels")}
    if not arrays["labels"].exists():
        random = np.random.default_rng(0)

        def ids(count: int) -> np.ndarray:
            codes = random.integers(0, 200, (count, work.features), dtype=np.int32)
            codes[:, 0] = random.integers(0, work.vocabulary, count)
            return codes

        def labels(count: int) -> np.ndarray:
            drawn = random.standard_normal((count, len(TASKS)), dtype=np.float32)
            drawn[:, :3] = drawn[:, :3] > 0.5
            return drawn

        _write(arrays["ids"], rows, work.features, np.int32, ids)
        _write(arrays["numbers"], rows, 5, np.float32, lambda n: random.standard_normal((n, 5), dtype=np.float32))
        _write(arrays["labels"], rows, len(TASKS), np.float32, labels)
    return Log(
        **{part: np.load(path, mmap_mode="r").view(np.ndarray) for part, path in arrays.items()},
        train_rows=work.rows,
        vocabulary=vocabulary,
        id_names=tuple(f"id{f}" for f in range(work.features)),
        number_names=tuple(f"number{d}" for d in range(5)),
        tasks=TASKS,
        content=name,
        facts={},
    )


def _write(path: Path, rows: int, columns: int, dtype: type, make: Callable[[int], np.ndarray]) -> None:
    with path.open("wb") as file:
        header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, columns)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, BLOCK_ROWS):
            make(min(BLOCK_ROWS, rows - start)).astype(dtype, copy=False).tofile(file)


def _child(said: str, folder: str) -> None:
    torch.set_num_threads(1)
    work = Work(**json.loads(said))
    # Imports and the model's trial for stacking happen once a process, and are no part of what grows.
    warm = replace(work, rows=4_000, heldout=100, vocabulary=200, runs=2, steps=2)
    _train(warm, log_of(warm, Path(folder)))
    log = log_of(work, Path(folder))
    steps_seconds, around_seconds = _train(work, log)
    peak = conversion.peak_bytes()
    input_seconds = _read(work, log)
    print(
        json.dumps(
            asdict(
                Cost(
                    steps_seconds=steps_seconds, around_seconds=around_seconds, input_seconds=input_seconds, bytes=peak
                )
            )
        )
    )


def _train(work: Work, log: Log) -> tuple[float, float]:
    started, in_steps = time.process_time(), 0.0
    for runs in _stacks(work, log):
        at: list[float] = []
        train(runs, log, on_step=lambda _step, at=at: at.append(time.process_time()))
        in_steps += at[-1] - at[0]
    return in_steps, time.process_time() - started - in_steps


def _stacks(work: Work, log: Log) -> list[list[Run]]:
    runs = [
        Run(
            data=log.content,
            model=work.model,
            method="none",
            lr=0.01 * (1 + i % work.of_seed),
            seed=i // work.of_seed,
            recipe=recipe_of(work),
        )
        for i in range(work.runs)
    ]
    return [runs[i : i + work.stack] for i in range(0, len(runs), work.stack)]


def _read(work: Work, log: Log) -> float:
    """CPU seconds of reading the batches of the steps after the first, of every stack."""
    recipe, seconds = recipe_of(work), 0.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        arrays = [torch.from_numpy(array) for array in (log.ids, log.numbers, log.labels)]
    for runs in _stacks(work, log):
        orders = [
            batches(seed, rows=log.train_rows, batch=recipe.batch, window=recipe.window, steps=work.steps)
            for seed in dict.fromkeys(run.seed for run in runs)
        ]
        started = 0.0
        for step, rows_of_seed in enumerate(zip(*orders, strict=True)):
            if step == 1:
                started = time.process_time()
            rows = torch.from_numpy(np.stack(rows_of_seed)).flatten()
            for array in arrays:
                array.index_select(0, rows)
        seconds += time.process_time() - started
    return seconds


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*sys.argv[2:])
    else:
        sys.exit(main())
