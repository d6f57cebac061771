"""The main job from end to end: plan, Ray Tune, stacks, record, report and MLflow, as child processes that may die."""

import contextlib
import gc
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from study import data, divergence, record, sources, tune
from study.config import CONTROL_SEEDS, Recipe, Rule, Run
from study.planning import Stack

TESTS = Path(__file__).resolve().parent
SECONDS = 400  # far beyond what any of these takes


class Studies:
    """`python -m study` with a home and cache of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "STUDY_", "MLFLOW_"))}
        self.environment = kept | {
            "HOME": str(folder),
            "STUDY_CACHE": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
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


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"))


# --- theory -------------------------------------------------------------------------------------------------------


def write_table(folder: Path, block_rows: int, blocks: int) -> None:
    """A log in which every batch of `block_rows` holds the same rows: gradient descent on it is exact."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    x = rng.standard_normal((block_rows, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    y = x @ np.array([0.5, -0.8, 1.1]) + 0.1 * rng.standard_normal(block_rows)
    frame = pd.DataFrame(np.tile(np.column_stack([x, y]), (blocks, 1)), columns=["a", "b", "c", "y"])
    frame.insert(0, "second", np.arange(len(frame)))
    frame.to_csv(folder / "rows.csv", index=False)
    (folder / "table.toml").write_text(
        'files = ["rows.csv"]\ntime = "second"\ntime_unit = "s"\nnumbers = ["a", "b", "c"]\n'
        f'heldout = {1 / blocks}\n\n[tasks]\ny = "regression"\n'
    )


def test_plain_gradient_descent_diverges_beyond_two_over_the_curvature(studies: Studies, tmp_path: Path) -> None:
    write_table(tmp_path / "data", block_rows=64, blocks=11)
    log = data.load("table", {"dir": str(tmp_path / "data")}, tmp_path / "cache")
    x = log.numbers[:64].astype(np.float64)
    np.testing.assert_array_equal(log.numbers, np.tile(log.numbers[:64], (11, 1)))
    edge = 2 / np.linalg.eigvalsh(2 / 64 * x.T @ x)[-1]

    shares = {0.5: "completed", 0.97: "completed", 1.03: "diverged", 1.5: "diverged"}
    lrs = {share: float(f"{share * edge:.6g}") for share in shares}
    settings = [
        "models=own_models.linear",
        "methods=none",
        "none.base=sgd",
        f"lr={','.join(str(lr) for lr in lrs.values())}",
        "batch=64",
        "window=64",
        "steps=400",
        "warmup=0",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    printed = studies(
        "run",
        "quick",
        "--data",
        "table",
        "--data-dir",
        tmp_path / "data",
        "--seeds",
        "0-1",
        "--out",
        tmp_path / "out",
        *words,
    )

    runs = record.read_runs(tmp_path / "out")
    control = runs[runs["role"] == "control"]
    assert len(control) == 24
    assert set(control["options"]) == {"{}"}, "the control is Adagrad"
    cells = runs[runs["role"] == "cell"].set_index("lr")
    for share, outcome in shares.items():
        cell = cells.loc[[lrs[share]]]
        assert list(cell["outcome"]) == [outcome] * 2, f"lr = {share} * 2/h"
        assert cell["kept"].isna().all() if share == 1.5 else cell["kept"].notna().all()
    assert (cells.loc[lrs[0.97], "kept"] > 0.95).all()
    assert set(cells.loc[lrs[1.03], "reason"]) == {"never_learned"}, "its error grows from the first step"
    assert list(cells.loc[lrs[1.5], "reason"]) == ["nonfinite"] * 2
    # No draw of the seed reaches this loss: the same rows in another order.
    assert cells.loc[lrs[0.97], "rmse_y"].nunique() == 1 or np.ptp(cells.loc[lrs[0.97], "rmse_y"]) < 1e-4
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert "none: half of the runs diverge" in printed


# --- growing, resuming and dying ----------------------------------------------------------------------------------

SMALL = [
    *("--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500", "--set", "models=small"),
    *("--set", "methods=none,clippy", "--set", "lr=0.05,0.4,3.2", "--set", "clippy.abs=0.01,0.001"),
]
RUNS = 3 * 3 * 4
CONTROL = 24


def table(folder: Path) -> pd.DataFrame:
    """The record without what is promised to no one."""
    return record.read_runs(folder).drop(columns=["seconds", "device", "version"])


def losses(folder: Path) -> dict[tuple[str, str], tuple[bytes, bytes]]:
    frame = record.read_losses(folder)
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


@pytest.fixture(scope="module")
def grown(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of seeds 0-1, then grown to 0-3 and finished undisturbed."""
    folder = tmp_path_factory.mktemp("grown") / "out"
    studies("run", "quick", *SMALL, "--seeds", "0-1", "--out", folder)
    files = {path: path.read_bytes() for path in (folder / "runs").iterdir()}
    assert len(recorded(folder)) == CONTROL + RUNS // 2
    printed = studies("run", "quick", *SMALL, "--seeds", "0-3", "--out", folder)
    assert f"{RUNS} runs in 9 cells, {RUNS // 2} recorded; {RUNS // 2} to train (control included)" in printed
    assert all(path.read_bytes() == content for path, content in files.items()), "recorded runs were written again"
    return folder


@pytest.mark.slow
def test_a_study_grows_by_its_new_seeds_and_resumes_with_nothing_to_do(grown: Path, studies: Studies) -> None:
    ids = recorded(grown)
    assert len(ids) == len(set(ids)) == CONTROL + RUNS
    assert sorted(record.read_runs(grown).query("role == 'cell'")["seed"].unique()) == [0, 1, 2, 3]
    before, view = {path: path.stat().st_mtime_ns for path in (grown / "runs").iterdir()}, shown(grown)
    printed = studies("resume", grown)
    assert f"{RUNS} runs in 9 cells, {RUNS} recorded; 0 to train (control included) as 0 stacks" in printed
    assert {path: path.stat().st_mtime_ns for path in (grown / "runs").iterdir()} == before
    assert shown(grown) == view


@pytest.mark.slow
def test_a_study_that_was_killed_ends_where_an_undisturbed_one_does(
    grown: Path, studies: Studies, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    words = ["run", "quick", *SMALL, "--seeds", "0-3", "--out", folder, "--stack", "4", "--workers", "2"]
    child = studies.start(*words)
    try:
        give_up = time.monotonic() + SECONDS
        while len(recorded(folder)) < CONTROL + 6:
            assert child.poll() is None, child.communicate()[0]
            assert time.monotonic() < give_up
            time.sleep(0.02)
    finally:
        kill_tree(child)
    survived = recorded(folder)
    assert CONTROL < len(survived) < CONTROL + RUNS
    assert not (folder / "report.html").exists()

    printed = studies("resume", folder)
    assert f"{len(survived) - CONTROL} recorded; {CONTROL + RUNS - len(survived)} to train" in printed
    ids = recorded(folder)
    assert sorted(ids) == sorted(recorded(grown))
    assert len(ids) == len(set(ids))
    pd.testing.assert_frame_equal(table(folder), table(grown), check_exact=True)
    assert losses(folder) == losses(grown)
    assert shown(folder) == shown(grown)
    assert not record.read_failures(folder)
    assert not (folder / "set_aside").exists()


SEARCH = [
    *("--data", "synthetic", "--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500"),
    *("--set", "models=small", "--set", "methods=none,layer_clip", "--set", "lr=0.1,0.4,1.6,6.4"),
    *("--precision", "1.6", "--budget", "36"),
]


@pytest.mark.slow
def test_a_search_that_was_killed_ends_where_an_undisturbed_one_does(studies: Studies, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "out"
    printed = studies("run", "edges", *SEARCH, "--out", whole)
    assert "search    of 2 curves, the lr at which half of the runs diverge, to within a factor of 1.6" in printed
    assert "edges: none " in printed
    assert "none: half of the runs diverge" in printed
    child = studies.start("run", "edges", *SEARCH, "--out", folder, "--workers", "3", "--stack", "3")
    try:
        give_up = time.monotonic() + SECONDS
        while len(recorded(folder)) < CONTROL + 14:
            assert child.poll() is None, child.communicate()[0]
            assert time.monotonic() < give_up
            time.sleep(0.02)
    finally:
        kill_tree(child)
    survived = recorded(folder)
    assert len(survived) < len(recorded(whole))

    studies("resume", folder)
    ids = recorded(folder)
    assert sorted(ids) == sorted(recorded(whole))
    assert len(ids) == len(set(ids))
    pd.testing.assert_frame_equal(table(folder), table(whole), check_exact=True)
    cells = record.read_runs(folder).query("role == 'cell'")
    status = studies("status", folder)
    for method, runs in cells.groupby("method"):
        assert sorted(runs["seed"]) == list(range(len(runs)))
        assert f"  {method}: {len(runs)} runs, {(runs['outcome'] == 'diverged').sum()} diverged; edge " in status


# --- the queue, without Ray ---------------------------------------------------------------------------------------

COUNTS = {"diverged": 0, "undertrained": 0, "seconds": 1.0}
REFERENCE = divergence.Reference(lr=0.02, gain=0.5, task_gain=(0.5,))


def make_stack(model: str = "small", *, control: bool = False, seed: int = 0, runs: int = 4) -> Stack:
    seed += CONTROL_SEEDS[0] if control else 0
    return Stack(
        runs=tuple(
            Run(data="d", model=model, method="none", lr=0.1 * (1 + i), seed=seed, recipe=Recipe()) for i in range(runs)
        )
    )


class Queue:
    """The queue as Ray Tune drives it, with what it told."""

    def __init__(
        self, folder: Path, *stacks: Stack, known: tuple[str, ...] = (), reference: Callable[[str], Any] | None = None
    ) -> None:
        (folder / "failures").mkdir()
        self.folder, self.trials = folder, 0
        self.told: list[tuple[Stack, Any]] = []
        self.queue = tune.Queue(
            tune.Job(
                study="quick",
                folder=folder,
                rule=Rule(),
                control=tuple(stack for stack in stacks if stack.is_control),
                source=sources.Planned(stack for stack in stacks if not stack.is_control),
                references=dict.fromkeys(known, REFERENCE),
                reference=reference or (lambda model: REFERENCE),
                told=lambda stack, result: self.told.append((stack, result)),
            )
        )

    def take(self) -> tuple[str, Stack] | str | None:
        """The next trial and its stack; None is wait, at rest or not."""
        self.trials += 1
        config = self.queue.suggest(str(self.trials))
        if isinstance(config, dict) and "rest" in config:
            self.queue.on_trial_complete(str(self.trials), {"runs": 0})
            return None
        if isinstance(config, dict):
            return str(self.trials), self.queue.training[str(self.trials)]
        return config

    def must_take(self) -> tuple[str, Stack]:
        taken = self.take()
        assert isinstance(taken, tuple), taken
        return taken

    def done(self, trial: str) -> None:
        self.queue.on_trial_complete(trial, {"runs": len(self.queue.training[trial].runs)} | COUNTS)

    def fails(self, trial: str, reason: str, *, out_of_memory: bool = False) -> None:
        self.queue.on_trial_complete(trial, {"runs": 0, "failure": reason, "out_of_memory": out_of_memory})

    def failures(self) -> dict[str, str]:
        found = {}
        for path in (self.folder / "failures").iterdir():
            content = pd.read_json(path, typ="series")
            found |= dict.fromkeys(content["run_ids"], content["reason"])
        return found


def test_nothing_is_freed_while_ray_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray ends the process, with exit code 1 and in the middle of its report, where one of its objects is."""
    went, seen = threading.Event(), []

    def shutdown() -> None:
        seen.append(gc.isenabled())
        went.wait(30)

    monkeypatch.setattr(tune.ray, "shutdown", shutdown)
    tune._shut_down_beside()
    assert not gc.isenabled()
    went.set()
    for thread in threading.enumerate():
        if thread.name != threading.current_thread().name and not thread.daemon:
            thread.join(30)
    assert gc.isenabled()
    assert seen == [False]


FINISHED = tune.FINISHED


class Searching:
    """A source whose second stack comes once the first has ended."""

    def __init__(self, *stacks: Stack) -> None:
        self.stacks = list(stacks)
        self.training = False
        self.heard: list[tuple[Stack, str | None]] = []

    def next(self) -> Stack | None:
        if self.training or not self.stacks:
            return None
        self.training = True
        return self.stacks.pop(0)

    @property
    def ended(self) -> bool:
        return not self.stacks and not self.training

    @property
    def left(self) -> dict[str, int]:
        return {"small": sum(len(stack.runs) for stack in self.stacks)}

    @property
    def state(self) -> str:
        return "searching"

    def outline(self) -> list[str]:
        return []

    def recorded(self, stack: Stack) -> None:
        self.heard.append((stack, None))
        self.training = False

    def given_up(self, stack: Stack, reason: str) -> None:
        self.heard.append((stack, reason))
        self.training = False


def test_cells_wait_for_the_control_of_their_model(tmp_path: Path) -> None:
    asked: list[str] = []
    controls = [make_stack(control=True), make_stack(control=True, seed=1), make_stack("large", control=True)]
    cells = [make_stack(), make_stack("large")]
    queue = Queue(tmp_path, *controls, *cells, reference=lambda model: asked.append(model) or REFERENCE)
    taken = [queue.must_take() for _ in range(3)]
    assert [stack for _, stack in taken] == controls
    assert queue.take() is None
    queue.done(taken[0][0])
    assert queue.take() is None, "half of the control is no reference"
    queue.done(taken[2][0])
    trial, stack = queue.must_take()
    assert (stack, asked) == (cells[1], ["large"])
    queue.done(taken[1][0])
    other, stack = queue.must_take()
    assert (stack, asked) == (cells[0], ["large", "small"])
    assert queue.take() is None, "two are still training"
    queue.done(trial)
    queue.done(other)
    assert queue.take() == FINISHED
    assert len(queue.told) == 5
    assert queue.queue.stopped is None


def test_a_worker_rests_while_the_control_trains_and_is_let_go_when_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(tune.time, "monotonic", lambda: now)
    queue = Queue(tmp_path, make_stack(control=True), make_stack())
    control, _ = queue.must_take()
    assert queue.queue.suggest("rest 1") == {"rest": tune.REST_SECONDS}
    queue.queue.on_trial_complete("rest 1", {"runs": 0})
    now += 1000
    assert queue.queue.suggest("rest 2") == {"rest": 1000 * tune.SHARE_OF_WAIT}, "long waits are cut into few rests"
    queue.queue.on_trial_complete("rest 2", None, error=True)
    assert (queue.told, queue.failures()) == ([], {})
    queue.done(control)
    cell, _ = queue.must_take()
    assert queue.queue.suggest("last") is None
    queue.done(cell)
    assert queue.take() == FINISHED


def test_a_worker_rests_while_a_search_waits_for_a_stack_that_trains(tmp_path: Path) -> None:
    first, second = make_stack(), make_stack(seed=1)
    queue = Queue(tmp_path, make_stack(control=True))
    source = queue.queue.source = Searching(first, second)
    control, _ = queue.must_take()
    assert "rest" in queue.queue.suggest("early"), "the first stack is at hand, and waits for the control"
    queue.queue.on_trial_complete("early", {"runs": 0})
    queue.done(control)
    assert not source.heard, "a search hears of its own stacks alone"
    trial, taken = queue.must_take()
    assert taken == first
    assert "rest" in queue.queue.suggest("idle")
    queue.queue.on_trial_complete("idle", {"runs": 0})
    queue.fails(trial, "a moment's trouble")
    assert not source.heard, "a retry is the queue's"
    trial, taken = queue.must_take()
    assert taken == first
    queue.done(trial)
    for _ in range(3):
        trial, taken = queue.must_take()
        assert taken == second
        queue.fails(trial, "disk is full")
    assert source.heard == [(first, None), (second, "disk is full")]
    assert queue.take() == FINISHED


def test_a_search_hears_of_a_halved_stack_in_its_parts(tmp_path: Path) -> None:
    stack = make_stack(runs=4)
    queue = Queue(tmp_path, known=("small",))
    source = queue.queue.source = Searching(stack)
    queue.fails(queue.must_take()[0], "out of memory", out_of_memory=True)
    halves = [queue.must_take() for _ in range(2)]
    for trial, _ in halves:
        queue.done(trial)
    assert [part.runs for part, _ in source.heard] == [stack.runs[:2], stack.runs[2:]]
    assert queue.take() == FINISHED


def test_a_known_reference_needs_no_control(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), known=("small",))
    trial, _ = queue.must_take()
    queue.done(trial)
    assert queue.take() == FINISHED


def test_the_config_of_a_trial_is_the_stack_and_its_reference(tmp_path: Path) -> None:
    stack = make_stack()
    assert tune._packed(stack, REFERENCE) == Queue(tmp_path, stack, known=("small",)).queue.suggest("1")["stack"]
    assert all(f'"lr":{run.lr}' in tune._packed(stack, REFERENCE) for run in stack.runs)
    assert '"reference":null' in tune._packed(make_stack(control=True), None)


def test_out_of_memory_halves_a_stack_down_to_single_runs(tmp_path: Path) -> None:
    stack = make_stack(runs=5)
    queue = Queue(tmp_path, stack, make_stack(seed=1), known=("small",))
    trial, _ = queue.must_take()
    queue.fails(trial, "out of memory", out_of_memory=True)
    first, left = queue.must_take()
    second, right = queue.must_take()
    assert left.runs + right.runs == stack.runs
    assert {len(left.runs), len(right.runs)} == {2, 3}
    queue.fails(first, "out of memory", out_of_memory=True)
    assert not queue.failures()
    queue.done(second)
    singles = [queue.must_take() for _ in range(2)]
    assert [len(stack.runs) for _, stack in singles] == [1, 1]
    assert tuple(run for _, stack in singles for run in stack.runs) == left.runs
    for trial, _ in singles:
        queue.done(trial)
    trial, _ = queue.must_take()
    queue.done(trial)
    assert queue.take() == FINISHED


def test_a_halved_control_is_whole_once_both_halves_are_there(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(control=True), make_stack())
    trial, _ = queue.must_take()
    queue.fails(trial, "out of memory", out_of_memory=True)
    halves = [queue.must_take()[0] for _ in range(2)]
    queue.done(halves[0])
    assert queue.take() is None
    queue.done(halves[1])
    assert not queue.must_take()[1].is_control


@pytest.mark.parametrize("single_out_of_memory", [False, True])
def test_a_stack_that_fails_three_times_is_missing_with_its_reason(tmp_path: Path, single_out_of_memory: bool) -> None:
    stack = make_stack(runs=1)
    queue = Queue(tmp_path, stack, make_stack(seed=1), known=("small",))
    for _ in range(2):
        trial, taken = queue.must_take()
        while taken != stack:
            queue.done(trial)
            trial, taken = queue.must_take()
        queue.fails(trial, "disk is full", out_of_memory=single_out_of_memory)
        assert not queue.failures()
    trial, taken = queue.must_take()
    if taken != stack:
        queue.done(trial)
        trial, taken = queue.must_take()
    queue.fails(trial, "disk is full", out_of_memory=single_out_of_memory)
    assert queue.failures() == {stack.runs[0].id: "disk is full"}
    assert (stack, "disk is full") in queue.told
    assert queue.take() == FINISHED
    assert queue.queue.stopped is None, "the rest of the study goes on"


def test_a_stack_that_failed_once_is_trained_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), known=("small",))
    trial, stack = queue.must_take()
    queue.fails(trial, "a moment's trouble")
    trial, again = queue.must_take()
    assert again == stack
    queue.done(trial)
    assert queue.take() == FINISHED
    assert not queue.failures()


def test_three_stacks_that_fail_the_same_way_stop_the_study(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(6)), known=("small",))
    trials = [queue.must_take()[0] for _ in range(4)]
    for trial in trials[:2]:
        queue.fails(trial, "TypeError: build() takes no rel")
    assert queue.queue.stopped is None
    queue.fails(trials[2], "TypeError: build() takes no rel")
    assert str(queue.queue.stopped) == "3 stacks failed the same way: TypeError: build() takes no rel"
    assert isinstance(queue.queue.stopped, ValueError)
    assert queue.take() == FINISHED
    queue.done(trials[3])  # what was training may still end well


def test_workers_that_die_together_do_not_stop_the_study(tmp_path: Path) -> None:
    """A machine that is taken away takes all its workers: that says nothing about the stacks."""
    stacks = [make_stack(seed=s) for s in range(4)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    for trial in [queue.must_take()[0] for _ in range(4)]:
        queue.queue.on_trial_complete(trial, None, error=True)
    again = [queue.must_take() for _ in range(4)]
    assert [stack for _, stack in again] == stacks
    for trial, _ in again:
        queue.done(trial)
    assert queue.take() == FINISHED
    assert not queue.failures()


def test_workers_that_die_again_and_again_stop_the_study(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(3)), known=("small",))
    for _ in range(3):
        for trial in [queue.must_take()[0] for _ in range(3)]:
            queue.queue.on_trial_complete(trial, None, error=True)
    assert str(queue.queue.stopped) == "3 stacks failed the same way: the worker process ended"
    assert set(queue.failures().values()) == {"the worker process ended"}
    assert queue.take() == FINISHED


def test_a_control_from_which_nothing_can_be_learned_stops_the_study(tmp_path: Path) -> None:
    def unlearnable(model: str) -> Any:
        raise ValueError("the training loss is not learnable here")

    queue = Queue(tmp_path, make_stack(control=True), make_stack(), reference=unlearnable)
    queue.done(queue.must_take()[0])
    assert queue.take() == FINISHED
    assert str(queue.queue.stopped) == "small: the training loss is not learnable here"
    assert isinstance(queue.queue.stopped, ValueError)


def test_a_control_that_cannot_be_trained_stops_the_study(tmp_path: Path) -> None:
    control = make_stack(control=True)
    queue = Queue(tmp_path, control, make_stack())
    for _ in range(3):
        queue.fails(queue.must_take()[0], "RuntimeError: odd shape")
    assert str(queue.queue.stopped) == "the control of small failed: RuntimeError: odd shape"
    assert set(queue.failures()) == {run.id for run in control.runs}
    assert queue.take() == FINISHED
