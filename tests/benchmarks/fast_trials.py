"""What a study costs beside its training where many fast devices train it: plan, queue, record, MLflow, resume.

    python tests/benchmarks/fast_trials.py [--runs 20000,80000] [--stack 1000] [--steps 405] [--rate 16000]

Trials are fake: their losses are drawn, and Ray is not started. Each stack goes through the queue as a trial does, and
is judged and recorded. A part has its CPU seconds per 1,000 runs, its exponent (1 grows straight with the runs), and
the cores that keep up with so many results a second. The studies have 5 arms at 20 learning rates, and one task.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from load import LRS, SPACE, arms, command, prepare

CELLS = 100
MOST_DEVICES = 64


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", default="20000,80000", help="sizes of studies (default: 20000,80000)")
    parser.add_argument("--stack", type=int, default=1000, help="runs of a trial (default: 1000)")
    parser.add_argument("--steps", type=int, default=405, help="logged losses of a run (default: 405)")
    parser.add_argument("--rate", type=float, default=16_000, help="results a second (default: 16000)")
    parser.add_argument("--folder", type=Path, help="where the studies are kept (default: a temporary folder)")
    asked = parser.parse_args(arguments)
    found = []
    with tempfile.TemporaryDirectory(prefix="fast-trials-") as scratch:
        for runs in map(int, asked.runs.split(",")):
            folder = (asked.folder or Path(scratch)).resolve() / str(runs)
            prepare(folder, CELLS, max(1, runs // (LRS * len(arms(CELLS)))))
            command(folder, __file__, "--child", str(folder), str(asked.stack), str(asked.steps))
            found.append(json.loads((folder / "told.json").read_text()))
            print(table(found, asked.rate), "\n", flush=True)
    return 0


def table(found: Sequence[dict[str, Any]], rate: float) -> str:
    """A row a part: CPU seconds per 1,000 runs of each study, the exponent, and the cores that the largest needs."""
    rows = [["CPU seconds per 1,000 runs", *(f"{one['runs']:,} runs" for one in found), "exponent", "cores"]]
    for name in found[-1]["seconds"]:
        each = [1e3 * one["seconds"][name] / one["runs"] for one in found]
        rows.append([name, *(f"{x:.3g}" for x in each), exponent(found, name), f"{1e-3 * rate * each[-1]:.2g}"])
    rows.append(["bytes of the record a run", *(f"{one['bytes'] / one['runs']:,.0f}" for one in found), "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def exponent(found: Sequence[dict[str, Any]], name: str) -> str:
    """The slope of log seconds over log runs, from the smallest to the largest study."""
    first, last = found[0], found[-1]
    if first["runs"] == last["runs"] or not first["seconds"][name]:
        return "-"
    return f"{math.log(last['seconds'][name] / first['seconds'][name]) / math.log(last['runs'] / first['runs']):.2f}"


def measure(folder: Path, stack: int, steps: int) -> dict[str, Any]:
    """The parts of a study in this folder, from its plan to a resume that finds every run recorded."""
    from study.commands.request import RunRequest, study_and_trainer
    from study.execution import trial, work_queue
    from study.execution.planner import plan
    from study.execution.work_source import Planned
    from study.outcomes.reference import Reference
    from study.record.definition import Definition, open_study
    from study.record.repair import set_bad_files_aside
    from study.tracking.mirror import mirror

    seconds: Counter[str] = Counter()

    @contextmanager
    def part(name: str) -> Iterator[None]:
        began = time.process_time()
        yield
        seconds[name] += time.process_time() - began

    study, trainer = study_and_trainer(RunRequest(space=SPACE, data_dir=str(folder / "data")))
    out, draws = folder / "study", np.random.default_rng(0)
    open_study(out, Definition(study=study, data=trainer.description(), versions={"torch": "2"}))
    devices = max(1, min(MOST_DEVICES, study.cells * len(study.seeds) // stack))  # so that stacks are full
    with part("plan"):
        planned = plan(study, trainer, workers=devices, stack=stack)
    reference = Reference(lr=0.01, gain=0.5, task_gain=(0.5,))
    job = work_queue.Job(
        study=study.name,
        folder=out,
        rule=study.rule,
        control=planned.control,
        source=Planned(planned.stacks),
        references={},
        reference=lambda _model: reference,
    )
    with part("queue"):
        queue = work_queue.Queue(job)
    for name in map(str, range(len(planned.control) + len(planned.stacks))):
        with part("queue"):
            config = queue.suggest(name)
        with part("worker: stack from its text"):
            files, runs, known = work_queue.stack_from_json(config["stack"])
        trained = fake([run.lr for run in runs], steps, len(trainer.tasks), draws)
        with part("worker: judge and record"):
            own = trial.Trial(study=study.name, runs=runs, rule=study.rule, reference=known)
            rows = trial.record(own, trained, out, trainer, files)
        counts = {"runs": len(rows), "diverged": 0, "undertrained": 0, "seconds": 1.0}
        with part("queue"):
            queue.ended(name, counts)
    assert queue.suggest("last") == work_queue.FINISHED
    with part("MLflow: an update meanwhile"):
        mirror(out, finished=False)
    with part("MLflow: an update, nothing new"):
        mirror(out, finished=False)
    with part("resume: the record is read"):
        recorded = set(set_bad_files_aside(out)["run_id"])
    with part("resume: plan"):
        assert plan(study, trainer, recorded, workers=devices, stack=stack).missing == 0
    size = sum(path.stat().st_size for kind in ("runs", "losses") for path in (out / kind).iterdir())
    return {"runs": planned.runs + planned.control_runs, "seconds": dict(seconds), "bytes": size}


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
        told = measure(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        (Path(sys.argv[2]) / "told.json").write_text(json.dumps(told))
        sys.exit(0)
    sys.exit(main())
