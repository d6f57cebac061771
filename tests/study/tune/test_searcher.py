"""The callback that watches Tune's trials."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from queues import Queue, make_stack

from study.tune import searcher
from study.tune.cluster import Cluster


class Shared(Cluster):
    """A cluster that others use too."""

    full = True

    def has_room(self) -> bool:
        return not self.full

    def missing_resource(self) -> None:
        return None

    def busy(self) -> str:
        return ", ".join(f"{name}s" for name in self.needed)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(searcher.time, "monotonic", lambda: now[0])
    return now


def watched(folder: Path, cluster: Cluster) -> tuple[Queue, searcher.TrialWatch, list[Any]]:
    queue = Queue(folder, make_stack(), known=("small",))
    trial, _ = queue.must_take()
    return queue, searcher.TrialWatch(queue.queue, cluster), [SimpleNamespace(trial_id=trial, status="PENDING")]


def step(watch: searcher.TrialWatch, trials: list[Any], clock: list[float], seconds: float) -> None:
    for _ in range(int(seconds / 3)):
        clock[0] += 3
        watch.on_step_begin(0, trials)


@pytest.mark.parametrize(("cpus", "gpu", "what"), [(1.0, 0.0, "CPUs"), (0.0, 0.5, "GPUs"), (2.0, 0.5, "CPUs, GPUs")])
def test_a_study_that_waits_for_others_says_so_once(
    tmp_path: Path, clock: list[float], cpus: float, gpu: float, what: str
) -> None:
    queue, watch, trials = watched(tmp_path, Shared(workers=1, cpus=cpus, gpu=gpu))
    step(watch, trials, clock, 200)
    assert queue.noted == [f"waits for {what} in use by others"]
    trials[0].status = "RUNNING"
    step(watch, trials, clock, 200)
    trials[0].status = "PENDING"
    step(watch, trials, clock, searcher.WAIT_SECONDS - 6)
    assert len(queue.noted) == 1
    step(watch, trials, clock, 12)
    assert len(queue.noted) == 2


def test_a_worker_that_starts_slowly_waits_for_nobody(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Shared, "full", False)
    queue, watch, trials = watched(tmp_path, Shared(workers=1))
    step(watch, trials, clock, searcher.WAIT_SECONDS - 6)
    assert queue.noted == []


def test_a_node_that_comes_is_not_in_use_by_others(
    tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, watch, trials = watched(tmp_path, Shared(workers=1))
    missing: list[str | None] = ["the cluster has no CPU for a trial"]
    monkeypatch.setattr(Shared, "missing_resource", lambda self: missing[0])
    step(watch, trials, clock, 50)
    missing[0] = None
    step(watch, trials, clock, searcher.WAIT_SECONDS - 6)
    assert queue.noted == []


def test_the_first_trial_is_told_once(tmp_path: Path, clock: list[float]) -> None:
    queue, watch, trials = watched(tmp_path, Shared(workers=1))
    begun: list[float] = []
    queue.queue.job.on_begin = lambda: begun.append(clock[0])
    for _ in range(2):
        watch.on_trial_start(0, trials, trials[0])
    assert begun == [1000.0]
