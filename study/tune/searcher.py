"""The work queue of a study as Ray Tune's searcher, and the callback that watches its trials."""

import contextlib
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from study.execution import heartbeat
from study.execution.stall import StallWatch
from study.execution.work_queue import FINISHED, Failure, Queue, StudyStoppedError
from study.tune.cluster import Cluster
from study.tune.coordinator import Coordination

CHECK_SECONDS = 2.0
"""How often the size of the cluster is asked for."""

WAIT_SECONDS = 60.0
"""A trial starts within this time, unless others use the cluster."""

OUT_OF_MEMORY = "out of memory (Ray ended the worker, since its machine ran low)"
RAY_OUT_OF_MEMORY = re.compile(r"running low on memory|memory pressure|OutOfMemory")
MACHINE_WENT_AWAY = re.compile(r"node has died|node was (un)?expectedly|its node|preempt|node failure", re.IGNORECASE)

assert Searcher.FINISHED == FINISHED


class _Unsaved:
    """Tune pickles its searcher and callbacks, to resume by itself. Ours resumes from the record: nothing is saved."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class TrialWatch(_Unsaved, Callback):
    """Sees Tune's trials, and stops a study that no machine serves.

    Attributes:
        trials: All that Tune has.
        nothing_trains: True once an interrupted study has no running trial left.
    """

    def __init__(self, queue: Queue, cluster: Cluster) -> None:
        self.queue, self.cluster = queue, cluster
        self.trials: Sequence[Any] = ()
        self.nothing_trains = self.begun = False
        self.stall = StallWatch(queue)
        self.checked_at = time.monotonic()
        self.running_since: dict[str, float] = {}
        self.waits_from = self.checked_at + (WAIT_SECONDS if cluster.has_room() else 0.0)

    def on_step_begin(self, iteration: int, trials: Any, **_info: Any) -> None:
        """Called by Tune in its loop."""
        self.trials = trials
        now = time.monotonic()
        if now - self.checked_at < CHECK_SECONDS:
            return
        self.checked_at = now
        self.queue.job.on_check()
        out = {name: self.trial(name) for name in (*self.queue.training, *self.queue.resting)}
        running = [name for name, trial in out.items() if trial and trial.status == "RUNNING"]
        self.running_since = {name: self.running_since.get(name, now) for name in running}
        if self.queue.interrupted and not running:
            self.nothing_trains = True
            raise StudyStoppedError("no trial is running")
        try:
            seconds = [now - since for since in self.running_since.values()]
            missing = None if seconds else self.cluster.missing_resource()
            self.stall.check(seconds, missing)
        except StudyStoppedError as stopped:
            self.queue.stopped = stopped  # Tune wraps what is raised here
            raise
        if running or missing:  # once there is a node, its first process needs time to start
            self.waits_from = now + WAIT_SECONDS
        elif now >= self.waits_from and not self.queue.rejection:
            self.waits_from = math.inf  # said once
            self.queue.job.on_message(f"waits for {self.cluster.busy()} in use by others")

    def on_trial_start(self, iteration: int, trials: Any, trial: Any, **_info: Any) -> None:
        """Called by Tune once a trial has a worker."""
        if not self.begun:
            self.begun = True
            self.queue.job.on_begin()

    def trial(self, trial_id: str) -> Any:
        """Return Tune's trial, or None."""
        return next((trial for trial in reversed(self.trials) if trial.trial_id == trial_id), None)


class QueueSearcher(_Unsaved, Searcher):
    """Hands Tune one stack after another. None is wait, FINISHED is the end."""

    def __init__(self, queue: Queue, cluster: Cluster, coordination: Coordination, watch: TrialWatch) -> None:
        super().__init__(metric="runs", mode="max")
        self.queue, self.cluster, self.coordination, self.watch = queue, cluster, coordination, watch
        self.wanted = self.fitting = cluster.workers
        self.checked_at = -math.inf

    def suggest(self, trial_id: str) -> Any:
        """Return the configuration of a trial."""
        if time.monotonic() - self.checked_at > CHECK_SECONDS:
            self.checked_at = time.monotonic()
            self.wanted, self.fitting = self.cluster.wanted_workers(), self.cluster.current_workers()
        suggested = self.queue.suggest(trial_id, self.wanted, self.fitting)
        if suggested == FINISHED:
            self.coordination.stop()
        return suggested

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        """Note a failure at once, since the process that reports it may rest before it ends."""
        if failure := _failure_of(result):
            self.queue.rests(trial_id, failure)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Give the queue the counts of a trial, or why its process died."""
        if error or result is None:
            self.queue.ended(trial_id, why_it_died(self.queue, trial_id, self.watch.trial(trial_id)))
        else:
            self.queue.ended(trial_id, _failure_of(result) or result)

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


def _failure_of(result: dict) -> Failure | None:
    """Return the failure that a trial reported, if it failed."""
    if "failure" not in result:
        return None
    return Failure(kind=result["kind"], reason=result["failure"], place=result["place"])


def why_it_died(queue: Queue, trial_id: str, trial: Any) -> Failure:
    """Return why the process of a trial ended without a report.

    Ray 2.60 gives the same text for each signal and each exit code, so the reason names none.

    Args:
        trial: Tune's trial, whose error file holds Ray's account.
    """
    stack = queue.training.get(trial_id)
    if stack is None:
        return Failure(kind="worker", reason="the worker process ended")
    error = ""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        error = Path(trial.error_file).read_text()
    last = heartbeat.last(queue.job.folder, stack.name)
    heartbeat.forget(queue.job.folder, stack.name)
    if RAY_OUT_OF_MEMORY.search(error):
        return Failure(kind="memory", reason=OUT_OF_MEMORY)
    if MACHINE_WENT_AWAY.search(error):
        return Failure(kind="machine", reason="its machine went away")
    clock, killed = _state_of_machine(last.get("node")) if last and not last.get("ended") else (None, -1)
    if hung := heartbeat.why_it_ended(last, clock):
        return Failure(kind="hung", reason=hung)
    if last and killed > last.get("killed_for_memory", 0):
        return Failure(kind="memory", reason="out of memory (the system ended the worker)")
    return Failure(kind="worker", reason="the worker process ended")


def _state_of_machine(node: Any) -> tuple[float | None, int]:
    """Return `heartbeat.state_of_machine` of a node; None and -1 if it does not answer."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        on_node = NodeAffinitySchedulingStrategy(str(node), soft=False)
        task = ray.remote(heartbeat.state_of_machine).options(num_cpus=0, scheduling_strategy=on_node)
        return ray.get(task.remote(), timeout=10)
    except (RayError, ValueError, TypeError):
        return None, -1
