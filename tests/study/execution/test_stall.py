"""A study that no machine can serve warns, and stops after a while; one that waits for its turn goes on."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import Nodes, Room
from processes import wait_until
from queues import Queue, make_stack

from study.execution import stall
from study.execution.planner import Stack
from study.execution.stall import StallWatch
from study.execution.work_queue import FINISHED, StudyStoppedError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def watched(folder: Path, *stacks: Stack) -> tuple[Queue, StallWatch, Clock]:
    clock = Clock()
    queue = Queue(folder, *(stacks or (make_stack(),)), known=("small",))
    return queue, StallWatch(queue.queue, clock), clock


REJECTED = {"runs": 0, "rejected": "node 10.0.0.9 does not see the folder"}


def test_a_stalled_study_warns_each_minute_and_stops_after_half_an_hour(tmp_path: Path) -> None:
    queue, one, clock = watched(tmp_path)
    one.check([], "no CPU")
    while clock.now < 1000 + stall.STOP_SECONDS - 2:
        clock.now += 2
        one.check([], "no CPU")
    assert len(queue.noted) == 29
    assert queue.noted[0] == "no node can serve this study, for 60 s: no CPU; it stops in 29 minutes"
    assert queue.noted[-1] == "no node can serve this study, for 29 minutes: no CPU; it stops in 60 s"
    clock.now += 2
    with pytest.raises(StudyStoppedError, match=r"^no node could serve this study for 30 minutes: no CPU; what"):
        one.check([], "no CPU")


def test_a_machine_that_serves_restarts_the_wait(tmp_path: Path) -> None:
    queue, one, clock = watched(tmp_path)
    for lacks in ("no CPU", "no CPU", None, "no GPU", "no GPU", None):
        one.check([], lacks)
        clock.now += stall.STOP_SECONDS - 1
        assert len(queue.noted) <= 2
    assert [text.partition(": ")[2].partition(";")[0] for text in queue.noted] == ["no CPU", "no GPU"]


def test_stall_reason(tmp_path: Path) -> None:
    queue, one, _ = watched(tmp_path, make_stack(), make_stack(seed=1))
    why = one._stall_reason
    assert why([], "no CPU") == "no CPU"
    assert why([1.0], "no CPU") is None, "a trial still runs"
    assert why([], None) is None, "others use the cluster"
    trial, _ = queue.must_take()
    queue.queue.ended(trial, REJECTED)
    assert why([], None) == why([3.0], None) == REJECTED["rejected"]
    assert why([3.0, stall.GIVE_BACK_SECONDS + 1], None) is None, "another machine takes part"
    queue.done(queue.must_take()[0])
    assert why([], None) is None
    queue.done(queue.must_take()[0])
    assert queue.take() == FINISHED


@pytest.mark.parametrize("seconds", [20.0, 29.0, 31.0, 55.0, 300.0])
@pytest.mark.parametrize("rejecting", [1, 16])
def test_a_study_that_one_node_serves_is_not_stalled(tmp_path: Path, rejecting: int, seconds: float) -> None:
    ends_at = 1000.0 + 2 * stall.STOP_SECONDS
    queue, one, clock = watched(tmp_path, *(make_stack(seed=seed, runs=1) for seed in range(300)))
    end = {queue.must_take()[0]: (1000.0, seconds)}
    end |= {queue.must_take()[0]: (1000.0 - 9.0 * i / rejecting, 10.5) for i in range(rejecting)}
    while clock.now < ends_at:
        clock.now += 2.0
        for trial, (began, takes) in list(end.items()):
            if clock.now < began + takes:
                continue
            del end[trial]
            queue.done(trial) if takes == seconds else queue.queue.ended(trial, REJECTED)
            end[queue.must_take()[0]] = clock.now, takes
        one.check([clock.now - began for began, _ in end.values() if began < clock.now])
    assert queue.noted == [REJECTED["rejected"]]
    assert queue.queue.served > 5


def test_a_study_that_waits_for_its_turn_is_not_stalled(tmp_path: Path) -> None:
    queue, one, clock = watched(tmp_path)
    queue.queue.ended(queue.must_take()[0], REJECTED)
    for _ in range(int(2 * stall.STOP_SECONDS)):
        clock.now += 2.0
        one.check([])
    queue.queue.ended(queue.must_take()[0], REJECTED)  # the node is back
    one.check([9.0])
    clock.now += stall.STOP_SECONDS
    with pytest.raises(StudyStoppedError, match=r"10\.0\.0\.9"):
        one.check([9.0])


@contextlib.contextmanager
def without_a_core(folder: Path, script: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """Run a study, by a script, on a cluster without CPUs; return its process and its log."""
    room = Room(folder)
    nodes = Nodes(room, count=0)
    log = folder / "log"
    words = ["run", "quick", "--set", "data.rows=2000", "--set", "batch=64", "--out", folder / "out", *nodes.words]
    try:
        yield room.popen([sys.executable, "-c", script, *words], log), log
    finally:
        nodes.close()
        room.end()


PATIENT = """
import sys
from study.cli import main
from study.execution import interrupts
interrupts.STOP_SECONDS = 3600.0
sys.exit(main.main())
"""
RESUME = "`study resume out`"


@pytest.mark.slow
def test_sigterm_stops_a_waiting_study_at_once(tmp_path: Path) -> None:
    """No trial runs that could checkpoint, so none is waited for."""
    with without_a_core(tmp_path, PATIENT) as (child, log):
        wait_until(lambda: "quick:" in log.read_text(), "the study waits for a machine")
        time.sleep(5)  # for Tune to have a trial that waits
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 130, text
        assert "stopped" in text.splitlines()[-1]
        assert RESUME in text.splitlines()[-1]


IMPATIENT = """
import sys
from study.cli import main
from study.execution import stall
stall.WARN_SECONDS, stall.STOP_SECONDS = 4.0, 12.0
sys.exit(main.main())
"""


@pytest.mark.slow
def test_a_study_on_a_cluster_without_cpus_stops_with_one_line(tmp_path: Path) -> None:
    with without_a_core(tmp_path, IMPATIENT) as (child, log):
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 2, text
        lines = text.splitlines()
        assert any(line.startswith("no node can serve this study, for ") for line in lines), text
        assert "the cluster has no CPU for a trial" in lines[-1]
        assert RESUME in lines[-1]
