"""What a study costs beside its training where many fast devices train it: plan, queue, record, MLflow, resume.

    python tests/benchmarks/fast_trials.py [--runs 20000,80000] [--stack 1000] [--rate 16000] [--pace 1000]

Trials are fake: their losses are drawn, and Ray is not started. Each stack goes through the queue as a trial does, and
is judged and recorded. A part has its CPU seconds per 1,000 runs, its exponent (1 grows straight with the runs), and
the cores that keep up with so many results a second. The studies have 5 arms at 20 learning rates, and one task.

Then the study runs again at a pace: the queue in one process, two others that judge and record, all at once.
"""

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from load import LRS, SPACE, arms, command, prepare

RECORDING = 2
"""Processes that judge and record at a pace."""
CELLS = 100
MOST_DEVICES = 64


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", default="20000,80000", help="sizes of studies (default: 20000,80000)")
    parser.add_argument("--stack", type=int, default=1000, help="runs of a trial (default: 1000)")
    parser.add_argument("--steps", type=int, default=405, help="logged losses of a run (default: 405)")
    parser.add_argument("--rate", type=float, default=16_000, help="results a second (default: 16000)")
    parser.add_argument("--pace", type=float, default=1000, help="results a second, all at once (default: 1000)")
    parser.add_argument("--folder", type=Path, help="where the studies are kept (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory(prefix="fast-trials-") as scratch:
        for runs in map(int, asked.runs.split(",")):
            folder = (asked.folder or Path(scratch)).resolve() / str(runs)
            prepare(folder, CELLS, max(1, runs // (LRS * len(arms(CELLS)))))
            command(folder, __file__, "--child", str(folder), str(asked.stack), str(asked.steps), str(asked.pace))
            found.append(json.loads((folder / "told.json").read_text()))
            print(table(found, asked.rate), "\n", flush=True)
    return 0


def table(found: Sequence[dict[str, Any]], rate: float) -> str:
    """A row a part: CPU seconds per 1,000 runs of each study, the exponent, and the cores that the largest needs."""
    rows = [["CPU seconds per 1,000 runs", *(f"{one['runs']:,} runs" for one in found), "exponent", "cores"]]
    for name in found[-1]["seconds"]:
        each = [1e3 * one["seconds"][name] / one["runs"] for one in found]
        rows.append([name, *(f"{x:.3g}" for x in each), exponent(found, name), f"{1e-3 * rate * each[-1]:.2g}"])
    rows.append(["results a second, paced", *(f"{one['reached']:,.0f} of {one['pace']:,.0f}" for one in found), "", ""])
    rows.append(["bytes of the record a run", *(f"{one['bytes'] / one['runs']:,.0f}" for one in found), "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def exponent(found: Sequence[dict[str, Any]], name: str) -> str:
    """The slope of log seconds over log runs, from the smallest to the largest study."""
    first, last = found[0], found[-1]
    if first["runs"] == last["runs"] or not first["seconds"][name]:
        return "-"
    return f"{math.log(last['seconds'][name] / first['seconds'][name]) / math.log(last['runs'] / first['runs']):.2f}"


def measure(folder: Path, stack: int, steps: int, pace: float) -> dict[str, Any]:
    """The parts of a study in this folder, from its plan to a resume that finds every run recorded."""
    from study.execution import work_queue
    from study.execution.planner import plan
    from study.execution.work_source import Planned
    from study.outcomes.reference import Reference
    from study.record.definition import Definition, open_study
    from study.record.repair import set_bad_files_aside
    from study.tracking.mirror import mirror

    seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def part(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        seconds[name] += time.process_time() - began

    study, trainer = asked_in(folder)
    out, draws = folder / "study", np.random.default_rng(0)
    open_study(out, Definition(study=study, data=trainer.description(), versions={"torch": "2"}))
    devices = max(1, min(MOST_DEVICES, study.cells * len(study.seeds) // stack))  # so that stacks are full
    with part("plan"):
        planned = plan(study, trainer, workers=devices, stack=stack)

    def job() -> work_queue.Job:
        return work_queue.Job(
            study=study.name,
            folder=out,
            rule=study.rule,
            control=planned.control,
            source=Planned(planned.stacks),
            references={},
            reference=lambda _model: Reference(lr=0.01, gain=0.5, task_gain=(0.5,)),
        )

    with part("queue"):
        queue = work_queue.Queue(job())
    for name in map(str, range(len(planned.control) + len(planned.stacks))):
        with part("queue"):
            config = queue.suggest(name)
        with part("worker: stack from its text"):
            files, runs, known = work_queue.stack_from_json(config["stack"])
        trained = fake([run.lr for run in runs], steps, len(trainer.tasks), draws)
        with part("worker: judge and record"):
            counts = recorded(folder, files, runs, known, trained)
        with part("queue"):
            queue.ended(name, counts)
    assert queue.suggest("last") == work_queue.FINISHED
    with part("MLflow: an update meanwhile"):
        mirror(out, finished=False)
    with part("MLflow: an update, nothing new"):
        mirror(out, finished=False)
    with part("resume: the record is read"):
        known_ids = set(set_bad_files_aside(out)["run_id"])
    with part("resume: plan"):
        assert plan(study, trainer, known_ids, workers=devices, stack=stack).missing == 0
    size = sum(path.stat().st_size for kind in ("runs", "losses") for path in (out / kind).iterdir())
    with part("queue, paced"):
        took = paced(work_queue.Queue(job()), folder, steps, stack / pace)
    runs = planned.runs + planned.control_runs
    return {"runs": runs, "seconds": dict(seconds), "bytes": size, "pace": pace, "reached": runs / took}


def paced(queue: Any, folder: Path, steps: int, seconds: float) -> float:
    """Hand out a stack each so many seconds, to processes that judge and record. Returns the seconds of all."""
    from study.execution.work_queue import FINISHED

    with ProcessPoolExecutor(RECORDING, mp_context=multiprocessing.get_context("spawn")) as pool:
        trials: dict[Future[dict[str, Any]], str] = {}
        wait([pool.submit(start, folder) for _ in range(4 * RECORDING)])
        began = due = time.perf_counter()
        for name in map(str, itertools.count()):
            config = queue.suggest(name, 2 * RECORDING)
            while config is None or "rest" in config:
                if config:  # the rest ends with the next result
                    queue.ended(name, {})
                for future in wait(trials, return_when=FIRST_COMPLETED).done:
                    queue.ended(trials.pop(future), future.result())
                config = queue.suggest(name, 2 * RECORDING)
            if config == FINISHED:
                break
            time.sleep(max(0.0, due - time.perf_counter()))
            due += seconds
            trials[pool.submit(recorded_of, config["stack"], folder, steps)] = name
        return time.perf_counter() - began


def start(folder: Path) -> None:
    """Import what a worker needs, before the clock runs."""
    from study.execution import trial, work_queue

    assert trial, work_queue
    asked_in(folder)


def recorded_of(text: str, folder: Path, steps: int) -> dict[str, Any]:
    """What a worker does with the text of a stack: draw its losses, judge and record them."""
    from study.execution.work_queue import stack_from_json

    files, runs, reference = stack_from_json(text)
    tasks = len(asked_in(folder)[1].tasks)
    trained = fake([run.lr for run in runs], steps, tasks, np.random.default_rng(0))
    return recorded(folder, files, runs, reference, trained)


def recorded(folder: Path, files: str, runs: tuple[Any, ...], reference: Any, trained: Any) -> dict[str, Any]:
    """Judge and record a stack; its counts."""
    from study.execution import trial

    study, trainer = asked_in(folder)
    own = trial.Trial(study=study.name, runs=runs, rule=study.rule, reference=reference)
    rows = trial.record(own, trained, folder / "study", trainer, files)
    return {"runs": len(rows), "diverged": 0, "undertrained": 0, "seconds": 1.0}


@functools.cache
def asked_in(folder: Path) -> tuple[Any, Any]:
    """The study in a folder, and its trainer."""
    from study.commands.request import RunRequest, study_and_trainer

    return study_and_trainer(RunRequest(space=SPACE, data_dir=str(folder / "data")))


def fake(lrs: Sequence[float], steps: int, tasks: int, draws: np.random.Generator) -> Any:
    """Noisy losses that fall by half; those above lr 1 come back in the second half."""
    from study.trainers.protocol import TrainedRuns

    lost = (np.array(lrs) > 1)[:, None, None] & (np.arange(steps)[:, None] > steps // 2)
    fallen = np.where(lost, 1.0, 1 - 0.5 * np.minimum(1, 10 * np.arange(steps)[:, None] / steps))
    loss = fallen + 0.05 * draws.standard_normal((len(lrs), steps, tasks))
    return TrainedRuns(
        loss=loss.astype(np.float32),
        baseline=np.ones((len(lrs), steps, tasks), np.float32),
        finite=np.ones(len(lrs), bool),
        moved=np.full(len(lrs), 3.0),
        seconds=0.06,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        told = measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
        (Path(sys.argv[2]) / "told.json").write_text(json.dumps(told))
        sys.exit(0)
    sys.exit(main())
