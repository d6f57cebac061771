"""A study which no machine can serve says so, and stops in the end; one that waits its turn goes on."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Nodes, Room, wait_until
from queues import Queue, make_stack

from study.execution import stall
from study.execution.planner import Stack
from study.execution.stall import Waiting
from study.execution.work_queue import FINISHED, StudyStoppedError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def looking(folder: Path, *stacks: Stack) -> tuple[Queue, Waiting, Clock]:
    clock = Clock()
    queue = Queue(folder, *(stacks or (make_stack(),)), known=("small",))
    return queue, Waiting(queue.queue, clock), clock


UNFIT = {"runs": 0, "unfit": "node 10.0.0.9 does not see the folder"}


def test_it_says_so_each_minute_and_stops_after_half_an_hour(tmp_path: Path) -> None:
    queue, one, clock = looking(tmp_path)
    one.look([], "no CPU")
    while clock.now < 1000 + stall.STOP_SECONDS - 2:
        clock.now += 2
        one.look([], "no CPU")
    assert len(queue.noted) == 29
    assert queue.noted[0] == "no node can serve this study, for 60 s now: no CPU; it stops in 29 minutes"
    assert queue.noted[-1] == "no node can serve this study, for 29 minutes now: no CPU; it stops in 60 s"
    clock.now += 2
    with pytest.raises(StudyStoppedError, match=r"^no node could serve this study for 30 minutes: no CPU; what"):
        one.look([], "no CPU")


def test_a_machine_that_serves_meanwhile_begins_the_wait_anew(tmp_path: Path) -> None:
    queue, one, clock = looking(tmp_path)
    for lacks in ("no CPU", "no CPU", None, "no GPU", "no GPU", None):
        one.look([], lacks)
        clock.now += stall.STOP_SECONDS - 1
        assert len(queue.noted) <= 2
    assert [text.partition(": ")[2].partition(";")[0] for text in queue.noted] == ["no CPU", "no GPU"]


def test_what_keeps_all_machines_from_serving(tmp_path: Path) -> None:
    queue, one, _ = looking(tmp_path, make_stack(), make_stack(seed=1))
    why = one._why_none_serves
    assert why([], "no CPU") == "no CPU"
    assert why([1.0], "no CPU") is None, "what trains is on its way out, and says so itself"
    assert why([], None) is None, "others are in the way"
    trial, _ = queue.must_take()
    queue.queue.ended(trial, UNFIT)
    assert why([], None) == why([3.0], None) == UNFIT["unfit"]
    assert why([3.0, stall.GIVES_BACK_SECONDS + 1], None) is None, "another one takes part"
    queue.done(queue.must_take()[0])
    assert why([], None) is None
    queue.done(queue.must_take()[0])
    assert queue.take() == FINISHED


@pytest.mark.parametrize("seconds", [20.0, 29.0, 31.0, 55.0, 300.0])
@pytest.mark.parametrize("unfit", [1, 16])
def test_a_node_that_cannot_take_part_says_nothing_of_one_that_does(tmp_path: Path, unfit: int, seconds: float) -> None:
    """However short the stacks of the one that serves, and however many processes of the other give theirs back."""
    ends_at = 1000.0 + 2 * stall.STOP_SECONDS
    queue, one, clock = looking(tmp_path, *(make_stack(seed=seed, runs=1) for seed in range(300)))
    end = {queue.must_take()[0]: (1000.0, seconds)}
    end |= {queue.must_take()[0]: (1000.0 - 9.0 * i / unfit, 10.5) for i in range(unfit)}
    while clock.now < ends_at:
        clock.now += 2.0
        for trial, (began, takes) in list(end.items()):
            if clock.now < began + takes:
                continue
            del end[trial]
            queue.done(trial) if takes == seconds else queue.queue.ended(trial, UNFIT)
            end[queue.must_take()[0]] = clock.now, takes
        one.look([clock.now - began for began, _ in end.values() if began < clock.now])
    assert queue.noted == [UNFIT["unfit"]]
    assert queue.queue.served > 5


def test_a_node_that_gave_a_stack_back_and_left_does_not_stop_a_study_that_waits_its_turn(tmp_path: Path) -> None:
    queue, one, clock = looking(tmp_path)
    queue.queue.ended(queue.must_take()[0], UNFIT)
    for _ in range(int(2 * stall.STOP_SECONDS)):
        clock.now += 2.0
        one.look([])
    queue.queue.ended(queue.must_take()[0], UNFIT)  # it is back
    one.look([9.0])
    clock.now += stall.STOP_SECONDS
    with pytest.raises(StudyStoppedError, match=r"10\.0\.0\.9"):
        one.look([9.0])


@contextlib.contextmanager
def without_a_core(folder: Path, script: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A study, by a script that runs our command, on a cluster that has nothing for it: its process and its log."""
    room = Room(folder)
    nodes = Nodes(room, count=0)
    log = folder / "study.data._dataset"
    words = ["run", "quick", "--set", "data.rows=2000", "--set", "batch=64", "--out", folder / "out", *nodes.words]
    try:
        yield room.popen([sys.executable, "-c", script, *words], log), log
    finally:
        nodes.close()
        room.end()


PATIENT = "import sys; from study import cli, stopping; stopping.STOP_SECONDS = 3600.0; sys.exit(cli.main())"
WAY_ON = "what was recorded stays, and `python -m study resume out` trains the rest"


@pytest.mark.slow
def test_a_study_that_only_waits_is_stopped_at_once(tmp_path: Path) -> None:
    """Nothing trains that would have to be kept: the time that trials have for it is not waited for."""
    with without_a_core(tmp_path, PATIENT) as (child, log):
        wait_until(lambda: "quick:" in log.read_text(), "the study waits for a machine")
        time.sleep(5)  # for Tune to have a trial that waits
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 130, text
        assert text.splitlines()[-1] == f"study: stopped; {WAY_ON}"


IMPATIENT = (
    "import sys; from study import waiting; waiting.SAY_SECONDS, waiting.STOP_SECONDS = 4.0, 12.0; "
    "from study import cli; sys.exit(cli.main())"
)


@pytest.mark.slow
def test_a_study_on_a_cluster_without_a_core_stops_with_one_line(tmp_path: Path) -> None:
    with without_a_core(tmp_path, IMPATIENT) as (child, log):
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 2, text
        lines = text.splitlines()
        assert any(line.startswith("no node can serve this study, for ") for line in lines), text
        assert lines[-1].startswith("study: no node could serve this study for 1")
        assert lines[-1].endswith(f"the cluster has no CPU for a trial; {WAY_ON}")
