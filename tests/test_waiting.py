"""A study which no machine can serve says so, and stops in the end; one that waits its turn goes on."""

import signal
import sys
import time
from pathlib import Path

import pytest
from faults import Nodes, Room, wait_until
from test_queue import Queue, make_stack

from study import tune, waiting
from study.queue import FINISHED, StudyStoppedError
from study.waiting import Waiting


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_says_so_each_minute_and_stops_after_half_an_hour() -> None:
    said: list[str] = []
    clock = Clock()
    one = Waiting(said.append, clock)
    one.look("no CPU")
    while clock.now < 1000 + waiting.STOP_SECONDS - 2:
        clock.now += 2
        one.look("no CPU")
    assert len(said) == 29
    assert said[0] == "no node can serve this study, for 60 s now: no CPU; it stops in 29 minutes"
    assert said[-1] == "no node can serve this study, for 29 minutes now: no CPU; it stops in 60 s"
    clock.now += 2
    with pytest.raises(StudyStoppedError, match=r"^no node could serve this study for 30 minutes: no CPU; what"):
        one.look("no CPU")


def test_a_machine_that_serves_meanwhile_begins_the_wait_anew() -> None:
    said: list[str] = []
    clock = Clock()
    one = Waiting(said.append, clock)
    for why in ("no CPU", "no CPU", None, "no folder", "no folder", None):
        one.look(why)
        clock.now += waiting.STOP_SECONDS - 1
        assert len(said) <= 2
    assert [text.partition(": ")[2].partition(";")[0] for text in said] == ["no CPU", "no folder"]


class Room0(tune.Cluster):
    """A cluster with room, or without."""

    def has_room(self) -> bool:
        return self.workers > 0


def test_what_keeps_all_machines_from_serving(tmp_path: Path) -> None:
    queue = Queue(tmp_path, make_stack(), make_stack(seed=1), known=("small",))
    room, none, no_gpu = Room0(workers=1), Room0(workers=0), Room0(workers=0, gpu=0.25)
    why = tune._why_none_serves
    assert why(queue.queue, none, []) == "the cluster has no CPU for a trial"
    assert why(queue.queue, no_gpu, []) == "the cluster has no 0.25 of a GPU for a trial"
    assert why(queue.queue, none, [1.0]) is None, "what trains is on its way out, and says so itself"
    assert why(queue.queue, room, []) is None, "others are in the way"
    trial, _ = queue.must_take()
    queue.queue.ended(trial, {"runs": 0, "unfit": "node 10.0.0.9 does not see the folder"})
    assert why(queue.queue, room, []) == why(queue.queue, room, [3.0]) == "node 10.0.0.9 does not see the folder"
    assert why(queue.queue, room, [3.0, tune.GIVES_BACK_SECONDS + 1]) is None, "another one takes part"
    queue.done(queue.must_take()[0])
    assert why(queue.queue, room, []) is None
    queue.done(queue.must_take()[0])
    assert queue.take() == FINISHED


PATIENT = "import sys; from study import cli, tune; tune.STOP_SECONDS = 3600.0; sys.exit(cli.main())"


@pytest.mark.slow
def test_a_study_that_only_waits_is_stopped_at_once(tmp_path: Path) -> None:
    """Nothing trains that would have to be kept: the time that trials have for it is not waited for."""
    room = Room(tmp_path)
    nodes = Nodes(room, count=0)
    log = tmp_path / "study.log"
    words = ["run", "quick", "--set", "data.rows=2000", "--set", "batch=64", "--out", tmp_path / "out", *nodes.words]
    try:
        child = room.popen([sys.executable, "-c", PATIENT, *words], log)
        wait_until(lambda: "quick:" in log.read_text(), "the study waits for a machine")
        time.sleep(5)  # for Tune to have a trial that waits
        child.send_signal(signal.SIGTERM)
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 130, text
        assert text.splitlines()[-1] == f"study: stopped; what was recorded stays: study resume {tmp_path / 'out'}"
    finally:
        nodes.close()
        room.end()


IMPATIENT = (
    "import sys; from study import waiting; waiting.SAY_SECONDS, waiting.STOP_SECONDS = 4.0, 12.0; "
    "from study import cli; sys.exit(cli.main())"
)


@pytest.mark.slow
def test_a_study_on_a_cluster_without_a_core_stops_with_one_line(tmp_path: Path) -> None:
    room = Room(tmp_path)
    nodes = Nodes(room, count=0)
    log = tmp_path / "study.log"
    words = ["run", "quick", "--set", "data.rows=2000", "--set", "batch=64", "--out", tmp_path / "out", *nodes.words]
    try:
        child = room.popen([sys.executable, "-c", IMPATIENT, *words], log)
        wait_until(lambda: child.poll() is not None, "the study stops")
        text = log.read_text()
        assert child.returncode == 2, text
        lines = text.splitlines()
        assert any(line.startswith("no node can serve this study, for ") for line in lines), text
        assert lines[-1].startswith("study: no node could serve this study for 1")
        assert "the cluster has no CPU for a trial; what was recorded stays, and `study resume` trains the" in lines[-1]
    finally:
        nodes.close()
        room.end()
