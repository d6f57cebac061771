"""The work queue of a study, driven as Ray Tune drives it, without Ray."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from queues import COUNTS, REFERENCE, Queue, make_stack

from study.config import Rule, to_json
from study.execution import work_queue as work
from study.execution import work_source
from study.execution.planner import Stack
from study.execution.work_queue import FINISHED
from study.storage.stores import StorageError


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


def test_the_control_grows_before_a_cell_is_trained(tmp_path: Path) -> None:
    grown, cell = [make_stack(control=True, seed=seed) for seed in (1, 2)], make_stack()
    left = [grown]
    queue = Queue(
        tmp_path, make_stack(control=True), cell, further_control=lambda model, reference: left.pop() if left else ()
    )
    queue.done(queue.must_take()[0])
    (one, other), stacks = zip(*(queue.must_take() for _ in grown), strict=True)
    assert list(stacks) == grown
    queue.done(one)
    assert queue.take() is None
    queue.fails(other, "out of memory", "memory")
    for _ in range(2):
        trial, half = queue.must_take()
        assert half.is_control
        queue.done(trial)
    assert queue.must_take()[1] == cell


def test_a_recorded_control_grows_first(tmp_path: Path) -> None:
    grown, cell = make_stack(control=True, seed=1), make_stack()
    left = [[grown]]
    queue = Queue(tmp_path, cell, known=("small",), further_control=lambda model, reference: left.pop() if left else ())
    trial, stack = queue.must_take()
    assert (stack, queue.take()) == (grown, None)
    queue.done(trial)
    assert queue.must_take()[1] == cell


@pytest.mark.parametrize("late", ["done", "memory", "error"])
def test_a_control_that_cannot_be_trained_at_a_higher_lr_stays_as_it_was(tmp_path: Path, late: str) -> None:
    grown, cell = [make_stack(control=True, seed=seed) for seed in (1, 2, 3)], make_stack()
    queue = Queue(tmp_path, cell, known=("small",), further_control=lambda model, reference: grown)
    (one, first), (other, _) = queue.must_take(), queue.must_take()
    queue.fails(one, "the model raised", "misuse")
    assert queue.told == [(first, "the model raised"), (grown[2], "the model raised")]
    assert set(queue.failures()) == {run.id for run in first.runs}
    trial, stack = queue.must_take()
    assert stack == cell
    if late == "done":  # a stack of the same lr that trained meanwhile
        queue.done(other)
    else:
        queue.fails(other, "too late", late)
    queue.done(trial)
    assert queue.take() == work.FINISHED
    assert queue.queue.stopped is None
    assert len(queue.told) == 4
    assert any("the control stays at lr" in note for note in queue.noted)


def test_a_worker_rests_while_the_control_trains_and_is_let_go_when_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(work.time, "monotonic", lambda: now)
    queue = Queue(tmp_path, make_stack(control=True), make_stack())
    control, _ = queue.must_take()
    assert queue.queue.suggest("rest 1") == {"rest": work.REST_SECONDS}
    queue.queue.ended("rest 1", {"runs": 0})
    now += 1000
    assert queue.queue.suggest("rest 2") == {"rest": 1000 * work.SHARE_OF_WAIT}, "long waits are cut into few rests"
    queue.dies("rest 2")
    assert (queue.told, queue.failures()) == ([], {})
    queue.done(control)
    cell, _ = queue.must_take()
    assert queue.queue.suggest("last") is None
    queue.done(cell)
    assert queue.take() == FINISHED


def test_stacks_wait_for_machines_to_come_and_a_rest_does_not(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(control=True), *(make_stack(seed=seed) for seed in range(4)))
    control, _ = queue.must_take()
    assert queue.queue.suggest("early", 3, 1) is None, "it would rest once it fits, in the place of a stack"
    queue.done(control)
    assert ["stack" in queue.queue.suggest(trial, 3, 1) for trial in "abc"] == [True] * 3
    assert queue.queue.suggest("d", 3, 1) is None


def test_a_worker_rests_while_a_search_waits_for_a_stack_that_trains(tmp_path: Path) -> None:
    first, second = make_stack(), make_stack(seed=1)
    queue = Queue(tmp_path, make_stack(control=True))
    source = queue.queue.source = Searching(first, second)
    control, _ = queue.must_take()
    assert "rest" in queue.queue.suggest("early"), "the first stack is at hand, and waits for the control"
    queue.queue.ended("early", {"runs": 0})
    queue.done(control)
    assert not source.heard, "a search hears of its own stacks alone"
    trial, taken = queue.must_take()
    assert taken == first
    assert "rest" in queue.queue.suggest("idle")
    queue.queue.ended("idle", {"runs": 0})
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
    queue.fails(queue.must_take()[0], "out of memory", kind="memory")
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
    assert work.stack_to_json(stack, REFERENCE) == Queue(tmp_path, stack, known=("small",)).queue.suggest("1")["stack"]
    assert all(f'"lr":{run.lr}' in work.stack_to_json(stack, REFERENCE) for run in stack.runs)
    assert '"reference":null' in work.stack_to_json(make_stack(control=True), None)


def test_the_text_of_a_stack_has_every_field_of_its_runs_and_the_shared_ones_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = dataclasses.replace(make_stack().runs[0], trainer="own.loop", method="clippy")
    stack = Stack(runs=tuple(dataclasses.replace(first, seed=seed, options={"rel": seed / 3}) for seed in range(5)))
    calls = []
    monkeypatch.setattr(work, "to_json", lambda run: calls.append(run) or to_json(run))
    text = work.stack_to_json(stack, None)
    content = json.loads(text)
    assert [content["shared"] | own for own in content["runs"]] == [to_json(run) for run in stack.runs]
    assert work.stack_from_json(text) == (stack.name, stack.runs, None)
    assert len(calls) == 1


def test_out_of_memory_halves_a_stack_down_to_single_runs(tmp_path: Path) -> None:
    stack = make_stack(runs=5)
    queue = Queue(tmp_path, stack, make_stack(seed=1), known=("small",))
    trial, _ = queue.must_take()
    queue.fails(trial, "out of memory", kind="memory")
    first, left = queue.must_take()
    second, right = queue.must_take()
    assert left.runs + right.runs == stack.runs
    assert {len(left.runs), len(right.runs)} == {2, 3}
    queue.fails(first, "out of memory", kind="memory")
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


def test_a_machine_that_runs_low_on_memory_once_stops_no_study(tmp_path: Path) -> None:
    """Ray ends all of its workers at once, of which one alone may have taken the memory."""
    stacks = [make_stack(seed=seed, runs=1) for seed in range(4)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    for trial, _ in [queue.must_take() for _ in stacks]:
        queue.fails(trial, "out of memory", kind="memory")
    for trial, _ in [queue.must_take() for _ in stacks]:
        queue.done(trial)
    assert queue.take() == FINISHED
    assert not queue.failures()


def test_a_halved_control_is_whole_once_both_halves_are_there(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(control=True), make_stack())
    trial, _ = queue.must_take()
    queue.fails(trial, "out of memory", kind="memory")
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
        queue.fails(trial, "disk is full", kind="memory" if single_out_of_memory else "error")
        assert not queue.failures()
    trial, taken = queue.must_take()
    if taken != stack:
        queue.done(trial)
        trial, taken = queue.must_take()
    queue.fails(trial, "disk is full", kind="memory" if single_out_of_memory else "error")
    assert queue.failures() == {stack.runs[0].id: "disk is full"}
    assert (stack, "disk is full") in queue.told
    assert queue.take() == FINISHED
    assert queue.queue.stopped is None, "the rest of the study goes on"


def test_runs_that_raise_take_no_others_along(tmp_path: Path) -> None:
    """A stack is halved until the run is alone, which is tried once more; the study goes on, whatever their number."""
    stacks = [make_stack(seed=seed, runs=12) for seed in range(3)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    bad = {run.id for stack in stacks for run in stack.runs if run.lr > 0.85}
    alone: list[str] = []
    while isinstance(taken := queue.take(), tuple):
        trial, stack = taken
        raised = queue.configs[trial]["raised"]
        assert raised == (stack.runs[0].id in alone and len(stack.runs) == 1)
        if not bad & {run.id for run in stack.runs}:
            queue.done(trial)
            continue
        alone += [stack.runs[0].id] if len(stack.runs) == 1 else []
        queue.fails(trial, "FloatingPointError: activations are not finite", "run")
    assert queue.queue.stopped is None
    assert set(queue.failures()) == bad
    assert sorted(alone) == sorted([*bad, *bad])
    done = {run.id for stack, result in queue.told if isinstance(result, dict) for run in stack.runs}
    assert done == {run.id for stack in stacks for run in stack.runs} - bad


def test_a_stack_that_failed_once_is_trained_again(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), known=("small",))
    trial, stack = queue.must_take()
    queue.fails(trial, "a moment's trouble")
    trial, again = queue.must_take()
    assert again == stack
    queue.done(trial)
    assert queue.take() == FINISHED
    assert not queue.failures()


@pytest.mark.parametrize("control", [True, False])
def test_a_misuse_is_not_tried_again(tmp_path: Path, control: bool) -> None:
    first = make_stack(control=control, runs=1)
    queue = Queue(tmp_path, first, make_stack(seed=1, runs=1), known=("small",))
    queue.fails(queue.must_take()[0], "no call of watch", "misuse")
    assert queue.failures() == {first.runs[0].id: "no call of watch"}
    stopped = queue.queue.stopped
    assert str(stopped) == "the control of small failed: no call of watch" if control else stopped is None


def test_three_stacks_that_misuse_the_same_way_stop_the_study(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s, runs=1) for s in range(6)), known=("small",))
    for _ in range(3):
        queue.fails(queue.must_take()[0], "no call of watch", "misuse")
    assert str(queue.queue.stopped) == "3 stacks failed the same way: no call of watch"


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


@pytest.mark.parametrize("kind", ["error", "worker", "memory", "hung"])
def test_single_runs_of_an_arm_that_fail_the_same_way_do_not_stop_the_study(tmp_path: Path, kind: str) -> None:
    """A loop may fail at each high lr. The runs of its low lrs show that the arm works."""
    stacks = [make_stack(seed=s, runs=1) for s in range(7)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    failing = {stack.name for stack in stacks[1:5]}
    tries = 0
    while isinstance(taken := queue.take(), tuple):
        trial, stack = taken
        tries += stack.name in failing
        queue.fails(trial, "no convergence", kind) if stack.name in failing else queue.done(trial)
    assert queue.queue.stopped is None
    assert tries == 4 * work.MAX_TRIES
    assert set(queue.failures()) == {stack.runs[0].id for stack in stacks[1:5]}


def test_workers_that_die_together_do_not_stop_the_study(tmp_path: Path) -> None:
    """A machine that is taken away takes all its workers: that says nothing about the stacks."""
    stacks = [make_stack(seed=s) for s in range(4)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    for trial in [queue.must_take()[0] for _ in range(4)]:
        queue.dies(trial)
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
            queue.dies(trial)
    assert str(queue.queue.stopped) == "3 stacks failed the same way: the worker process ended"
    assert set(queue.failures().values()) == {"the worker process ended"}
    assert queue.take() == FINISHED


def test_a_control_from_which_nothing_can_be_learned_stops_the_study(tmp_path: Path) -> None:
    def unlearnable(model: str) -> Any:
        raise ValueError("the training loss is not learnable here")

    queue = Queue(tmp_path, make_stack(control=True), make_stack(), reference=unlearnable)
    queue.done(queue.must_take()[0])
    assert queue.take() == FINISHED
    assert str(queue.queue.stopped).startswith("small: the training loss is not learnable here; a study keeps these")
    assert isinstance(queue.queue.stopped, ValueError)


def test_a_control_that_cannot_be_trained_stops_the_study(tmp_path: Path) -> None:
    control = make_stack(control=True)
    queue = Queue(tmp_path, control, make_stack())
    for _ in range(3):
        queue.fails(queue.must_take()[0], "RuntimeError: odd shape")
    assert str(queue.queue.stopped) == "the control of small failed: RuntimeError: odd shape"
    assert set(queue.failures()) == {run.id for run in control.runs}
    assert queue.take() == FINISHED


def test_a_record_that_cannot_be_written_stops_the_study_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: the reason of a failure finds no room either."""

    def full(*_args: Any) -> None:
        raise StorageError(f"cannot write to {tmp_path} (No space left on device)")

    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(2)), known=("small",))
    monkeypatch.setattr(work, "write_failure", full)
    for _ in range(5):
        queue.fails(queue.must_take()[0], "StorageError: cannot write")
    assert queue.take() == FINISHED
    assert str(queue.queue.stopped) == (
        f"cannot write to {tmp_path} (No space left on device); what was recorded stays, "
        "and `study resume` trains the rest"
    )


def test_a_machine_that_cannot_take_part_gives_its_stacks_back_and_is_named_once(tmp_path: Path) -> None:
    stacks = [make_stack(seed=s) for s in range(2)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    for _ in range(9):
        trial, stack = queue.must_take()
        assert stack == stacks[0]
        queue.queue.ended(trial, {"runs": 0, "rejected": "node b does not see the study's folder"})
    assert queue.noted == ["node b does not see the study's folder"]
    for stack in stacks:
        trial, taken = queue.must_take()
        assert taken == stack
        queue.done(trial)
    assert queue.take() == FINISHED
    assert not queue.failures()


# --- machines and devices in trouble -------------------------------------------------------------------------------


def test_machines_that_go_away_cost_no_tries(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), known=("small",))
    for _ in range(work.MAX_RELOCATIONS):
        queue.fails(queue.must_take()[0], "its machine went away", "machine")
        assert not queue.failures()
    for _ in range(3):
        queue.fails(queue.must_take()[0], "its machine went away", "machine")
    assert set(queue.failures().values()) == {"its machine went away"}
    assert queue.take() == FINISHED


def test_one_broken_device_among_others_does_not_stop_the_study(tmp_path: Path) -> None:
    """It fails at once, so it is free most often, and meets every stack again and again."""
    stacks = [make_stack(seed=s) for s in range(12)]
    queue = Queue(tmp_path, *stacks, known=("small",))
    queue.done(queue.must_take()[0], "good")
    for _ in range(30):
        trial, _ = queue.must_take()
        queue.queue.rests(trial, work.Failure(kind="device", reason="CUDA error: launch failure", place="bad"))
        queue.queue.ended(trial, {"runs": 0})
    assert queue.queue.stopped is None
    assert not queue.failures()
    for _ in range(11):
        queue.done(queue.must_take()[0], "good")
    assert queue.take() == FINISHED
    assert not queue.failures()


def test_a_stack_that_breaks_every_device_is_missing_after_three(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), make_stack(seed=1), known=("small",))
    (broken, stack), (other, _) = queue.must_take(), queue.must_take()
    for place in "abc":
        queue.fails(broken, "CUDA error: device-side assert triggered", "device", place)
        if place != "c":
            broken, again = queue.must_take()
            assert again == stack
    for place in "cc":
        broken, again = queue.must_take()
        assert again == stack
        queue.fails(broken, "CUDA error: device-side assert triggered", "device", place)
    assert set(queue.failures()) == {run.id for run in stack.runs}
    assert queue.queue.stopped is None
    queue.done(other)
    assert queue.take() == FINISHED


def test_where_no_device_works_three_stacks_stop_the_study(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(9)), known=("small",))
    for i in range(9):
        if queue.queue.stopped:
            break
        queue.fails(queue.must_take()[0], "CUDA error: no device", "device", "ab"[i % 2])
    assert str(queue.queue.stopped) == "3 stacks failed the same way: CUDA error: no device"


def test_trials_that_hang_are_tried_again_and_then_missing(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), make_stack(seed=1), known=("small",))
    for _ in range(2):
        for trial in [queue.must_take()[0] for _ in range(2)]:
            queue.fails(trial, "no step within 600 s, and its process was ended", "hung")
    first, second = queue.must_take()[0], queue.must_take()[0]
    queue.fails(first, "no step within 600 s, and its process was ended", "hung")
    assert len(queue.failures()) == 4
    queue.done(second)
    assert queue.take() == FINISHED
    assert queue.queue.stopped is None


# --- limits, checkpoints, stops, and a cluster that changes ---------------------------------------------------------


def test_the_limit_goes_by_what_the_stack_is_expected_to_take(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), make_stack("large"), make_stack(seed=1), known=("small", "large"))
    small, large = make_stack(), make_stack("large")
    assert queue.queue.limit_seconds(small) == work.FIRST_LIMIT_SECONDS
    queue.queue.ended(queue.must_take()[0], {"runs": 4} | COUNTS | {"seconds": 4 * 3600.0})
    assert queue.queue.limit_seconds(small) == 3600.0
    assert queue.queue.limit_seconds(large) == work.FIRST_LIMIT_SECONDS
    queue.queue.ended(queue.must_take()[0], {"runs": 4} | COUNTS)
    assert queue.queue.limit_seconds(large) == work.MIN_LIMIT_SECONDS
    assert queue.queue.suggest("3")["limit"] == 3600.0
    queue.queue.job.trial_seconds = 42.0
    assert queue.queue.limit_seconds(small) == 42.0


def test_what_was_begun_is_trained_first_and_as_it_was(tmp_path: Path) -> None:
    """Another number of workers cuts the runs anew; their checkpoints are of the stacks that there were."""
    runs = [run for seed in range(4) for run in make_stack(seed=seed).runs]
    stacks = [Stack(runs=tuple(runs[i : i + 8])) for i in (0, 8)]
    checkpointed = [[run.id for run in runs[6:11]], [run.id for run in runs[10:12]], ["x" * 64], []]
    cut = work.with_checkpointed_first(stacks, checkpointed)
    assert [run.id for run in cut[0].runs] == checkpointed[0]
    assert [stack.runs for stack in cut[1:]] == [tuple(runs[:6]), tuple(runs[11:])]
    assert work.with_checkpointed_first(stacks, []) == stacks

    (tmp_path / "failures").mkdir()
    controls = [make_stack(control=True, seed=s, runs=2) for s in (0, 1)]
    job = work.Job(
        study="quick",
        folder=tmp_path,
        rule=Rule(),
        control=tuple(controls),
        source=work_source.Planned(stacks),
        references={},
        reference=lambda model: REFERENCE,
        checkpointed=[*checkpointed, [controls[0].runs[0].id, controls[1].runs[1].id]],
    )
    queue = work.Queue(job)
    first = [queue.suggest(str(i)) for i in range(3)]
    assert [len(queue.training[str(i)].runs) for i in range(3)] == [2, 1, 1]
    assert all("stack" in one for one in first)
    assert "rest" in queue.suggest("3"), "the control is whole once its three stacks are"
    queue.ended("3", {"runs": 0})
    for i in range(3):
        queue.ended(str(i), {"runs": 1} | COUNTS)
    queue.suggest("4")
    assert [run.id for run in queue.training["4"].runs] == checkpointed[0]
    queue.ended("4", {"runs": 5} | COUNTS)
    assert queue.source.left == {"small": 11}


def test_a_stop_hands_out_nothing_more_and_counts_what_was_kept(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(4)), known=("small",))
    trials = [queue.must_take()[0] for _ in range(3)]
    queue.queue.interrupted = True
    assert queue.take() == FINISHED
    queue.queue.ended(trials[0], {"runs": 0, "stopped": "kept"})
    queue.queue.ended(trials[1], {"runs": 0, "stopped": "dropped"})
    queue.done(trials[2])
    assert (queue.queue.kept, queue.queue.dropped, len(queue.told)) == (1, 1, 1)
    assert not queue.failures()


def test_as_many_trials_are_out_as_the_cluster_takes_now(tmp_path: Path) -> None:
    queue = Queue(tmp_path, *(make_stack(seed=s) for s in range(9)), known=("small",)).queue
    assert "stack" in queue.suggest("1", 1)
    assert queue.suggest("2", 1) is None
    assert all("stack" in queue.suggest(str(i), 3) for i in (3, 4)), "two machines joined"
    assert queue.suggest("5", 3) is None
    queue.ended("1", work.Failure(kind="machine", reason="its machine went away"))
    assert queue.suggest("6", 1) is None, "two machines left"


def test_notes_reach_the_user(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), known=("small",)).queue
    notes: list[str] = []
    queue.job.on_message = notes.append
    queue.suggest("1")
    queue.ended("1", {"runs": 4, "notes": ["the checkpoint cannot be used"]} | COUNTS)
    assert notes == ["warning: the checkpoint cannot be used"]
