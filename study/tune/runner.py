"""Runs a study's job: Ray Tune schedules the trials, the work queue decides what each one trains.

Workers write their own files of the record and report only counts.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from study.execution.interrupts import interrupted, interruptible
from study.execution.preflight import Needs
from study.execution.work_queue import Failure, Job, Queue
from study.storage.scratch import scratch_folder
from study.text import console
from study.tune import coordinator, trainable
from study.tune.cluster import Cluster, ClusterError, in_folder


def run(job: Job, needs: Needs, cluster: Cluster) -> None:
    """Train the job's control and every stack of its source, until all are recorded or have failed for good.

    Raises:
        StudyStoppedError: Nothing can be learned, several stacks fail the same way, or no machine serves the study.
        Interrupted: A signal stopped the study; its trials have been checkpointed.
        ClusterError: Ray cannot go on.
    """
    if not job.control and job.source.ended:
        return
    queue = Queue(job)
    while not _fit(queue, needs, cluster):
        pass
    if queue.stopped:
        raise queue.stopped
    if queue.interrupted:
        raise interrupted(queue)


def _fit(queue: Queue, needs: Needs, cluster: Cluster) -> bool:
    """Run Tune until the queue is empty or stopped. Returns False if Ray's memory monitor has ended Tune.

    The monitor kills a worker with an error that Tune 2.60 does not expect in a trial: it ends with all of its trials.
    """
    import ray
    from ray import tune
    from ray.exceptions import OutOfMemoryError

    from study.tune.searcher import OUT_OF_MEMORY, QueueSearcher, TrialWatch

    job = queue.job
    coordination = coordinator.start(job.study)
    watch = TrialWatch(queue, cluster)
    context = trainable.TrialContext(
        needs=needs,
        study=job.study,
        rule=job.rule,
        driver_node=ray.get_runtime_context().get_node_id(),
        device=cluster.device,
        checkpoint_seconds=job.checkpoint_seconds,
        coordination=coordination,
    )
    with (
        scratch_folder("study-tune-") as scratch,
        interruptible(queue, coordination.stop),
    ):
        tuner = tune.Tuner(
            trainable.make(context, cluster),
            tune_config=tune.TuneConfig(
                search_alg=QueueSearcher(queue, cluster, coordination, watch),
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="trials", storage_path=str(scratch), verbose=0, callbacks=[watch], **_quiet()
            ),
        )
        try:
            with _as_cluster_error(job.resume), in_folder(scratch):
                tuner.fit()
        except Exception as error:
            if queue.stopped or watch.nothing_trains:
                return True
            if not _caused_by(error, OutOfMemoryError):
                raise
            coordination.stop()  # what still trains
            _requeue(queue, OUT_OF_MEMORY)
            return queue.interrupted or queue.stopped is not None
    return True


def _quiet() -> dict[str, Any]:
    """Options of Tune by which it reports nothing. In a notebook its own reporter would clear the cell's output."""
    if not console.in_notebook():
        return {}
    from ray.tune import ProgressReporter

    class Quiet(ProgressReporter):
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return False

        def report(self, trials: list[Any], done: bool, *sys_info: str) -> None:
            pass

    return {"progress_reporter": Quiet()}


def _requeue(queue: Queue, reason: str) -> None:
    """Halve the stacks that trained when memory ran low. It is unknown which of them took it.

    A single run cannot be halved. It is tried again, as after the loss of its machine.
    """
    for trial_id, stack in list(queue.training.items()):
        kind = "memory" if len(stack.runs) > 1 else "machine"
        queue.ended(trial_id, Failure(kind=kind, reason=reason))
    queue.resting.clear()


@contextlib.contextmanager
def _as_cluster_error(resume: str) -> Iterator[None]:
    """Raise ClusterError for an error of Ray itself, such as a job's environment that a node cannot set up."""
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

    try:
        yield
    except Exception as error:
        found = next((e for e in _chain(error) if isinstance(e, RayError) and not isinstance(e, RayTaskError)), None)
        if found is None or isinstance(found, OutOfMemoryError):
            raise
        why = f"Ray cannot go on ({console.last_line(found)}); what was recorded stays, and `{resume}` trains the rest"
        raise ClusterError(why) from error


def _caused_by(error: BaseException, kind: type[BaseException]) -> bool:
    return any(isinstance(found, kind) for found in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes. Tune raises its own error while it handles Ray's."""
    while error:
        yield error
        error = error.__cause__ or error.__context__
