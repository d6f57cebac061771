"""Ray Tune schedules the trials of a study: one live queue of stacks for every kind of study. The only file that
knows ray, but for what starts and ends a Ray of our own (`study.tune.local_cluster`).

What is trained next, and what becomes of a failure, is the queue's (`study.execution.work_queue`). Workers write their
own files of the record and report only counts.
"""

import asyncio
import contextlib
import functools
import gc
import importlib
import logging
import os
import re
import shlex
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from study import redaction, telemetry
from study.execution import heartbeat, preflight
from study.tune import lifeline

# Before the import of ray, which reads these once.
os.environ.update(telemetry.unreported())
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune drops what trains; see `study.execution.interrupts`
os.environ.setdefault("TUNE_MAX_PENDING_TRIALS_PG", "4096")  # how many trials are out is the queue's
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

if "RAY_AUTH_MODE" not in os.environ and (
    {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (Path.home() / ".ray" / "auth_token").is_file()
):
    # A cluster started where a token lies asks for it; Ray's job client does not look for the token by itself.
    os.environ["RAY_AUTH_MODE"] = "token"

import ray
from ray._private import utils
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError, RayTaskError

from study.config import Rule
from study.execution.interrupts import interruptible, saved
from study.execution.preflight import Needs, NodeError
from study.execution.stall import Waiting
from study.execution.work_queue import FINISHED, Failure, Job, Queue, StudyStoppedError, unpacked
from study.tune import local_cluster

PACKAGES = ("study", "models", "search_spaces", "analysis")
# Tune looks for result files, which we do not write, and warns of every trial.
logging.getLogger("ray").setLevel(logging.ERROR)
# Nor does it know which of them were tried again.
logging.getLogger("ray.tune").setLevel(logging.CRITICAL)

LOOK_SECONDS = 2.0
"""How often we ask how large the cluster is."""

DEVICE_RESTS_SECONDS = (10.0, 1800.0)
"""How long a device that failed is left alone: so long at first, twice as long each time, and this at most."""

BROKEN_DEVICE = re.compile(
    r"\bCUDA\b(?!.*out of memory)|\bHIP error|cuDNN|CUBLAS|NVIDIA driver|no NVIDIA|device-side assert|Xid",
    re.IGNORECASE,
)
RAN_OUT_OF_MEMORY = re.compile(r"running low on memory|memory pressure|OutOfMemory")
MACHINE_WENT_AWAY = re.compile(r"node has died|node was (un)?expectedly|its node|preempt|node failure", re.IGNORECASE)


class ClusterError(ValueError):
    """No usable Ray, in words for the user."""


LOCAL = "local"
"""The address of a Ray of our own."""

START_SECONDS = 180.0
"""Within which Ray has started, or never will."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the trials of a study may use. gpu: the share of a GPU of one trial; 0 trains on CPU.

    gpu_bytes: memory of that share. workers: trials at a time, at the start; `now` may be others. most: at most, as the
    user says.
    """

    workers: int
    gpu: float = 0.0
    gpu_bytes: int | None = None
    most: int | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"

    def now(self) -> int:
        """Trials at a time of the cluster as it is: machines may have come, or gone."""
        return _at_a_time(ray.cluster_resources(), self.gpu, self.most)

    def lacks(self) -> str | None:
        """What it has not, where no trial would fit though nothing else were at work."""
        if _fitting(ray.cluster_resources(), self.gpu):
            return None
        return f"the cluster has no {f'{self.gpu:g} of a GPU' if self.gpu else 'CPU'} for a trial"


def _at_a_time(have: Mapping[str, float], gpu: float, most: int | None) -> int:
    fitting = _fitting(have, gpu)
    return max(1, fitting if most is None else min(most, fitting))


def _fitting(have: Mapping[str, float], gpu: float) -> int:
    return int(have.get("GPU", 0) / gpu) if gpu else int(have.get("CPU", 0))


@contextlib.contextmanager
def connected(
    address: str | None, *, workers: int | None, gpu_fraction: float, resume_hint: object = lifeline.RESUME
) -> Iterator[Cluster]:
    """Ray, here or at the address; inside a submitted job, the cluster of the job.

    workers: trials at a time; None is one for each core, or for each share of a GPU where there are GPUs. resume_hint:
    its text says how to go on where Ray dies.
    """
    address = address or os.environ.get("RAY_ADDRESS") or LOCAL
    _wait_for_the_last_one(END_SECONDS)
    _answers(address)
    # Ray's processes take seconds to start, in which this one has nothing else to do.
    meanwhile = threading.Thread(target=importlib.import_module, args=("ray.tune",))
    meanwhile.start()
    try:
        until_shut_down = _started(address, workers)
    except Exception as error:  # a process of Ray's that died as it began has an error of no kind of its own
        if address != LOCAL:
            raise ClusterError(f"no Ray at {address} ({_one_line(error)})") from error
        until_shut_down = None
    finally:
        meanwhile.join()
    if until_shut_down is None:
        # A raylet ends where its agent takes 15 s to start, as it may on a busy machine. By now all that both import
        # has been read from disk, and nothing of ours is at work beside them.
        try:
            until_shut_down = _started(address, workers)
        except Exception as error:
            raise ClusterError(f"no Ray at {address}, twice ({_one_line(error)})") from error
    try:
        with lifeline.watched(
            _servers(own=address == LOCAL), local_cluster.processes() if address == LOCAL else (), resume_hint
        ):
            yield _cluster(workers, gpu_fraction)
    except BaseException:
        until_shut_down.close()
        raise
    _shut_down_beside(until_shut_down.close)


def _started(address: str, workers: int | None) -> contextlib.ExitStack:
    """Ray, here or at the address; what is returned ends it. Where it raises, nothing of it is left."""
    with contextlib.ExitStack() as until_shut_down:
        here = until_shut_down.enter_context(local_cluster.to_be_started(workers)) if address == LOCAL else {}
        until_shut_down.callback(ray.shutdown)
        # Ray waits for its first workers, and for ever where one of them dies meanwhile.
        with lifeline.within(START_SECONDS, "Ray"), _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **here)
        return until_shut_down.pop_all()


def _cluster(workers: int | None, gpu_fraction: float) -> Cluster:
    have = ray.cluster_resources()
    if not have.get("GPU", 0):
        return Cluster(workers=_at_a_time(have, 0.0, workers), most=workers)
    total = ray.get(ray.remote(_gpu_bytes).options(num_cpus=0, num_gpus=gpu_fraction).remote())
    at_a_time, gpu_bytes = _at_a_time(have, gpu_fraction, workers), int(total * gpu_fraction)
    return Cluster(workers=at_a_time, gpu=gpu_fraction, gpu_bytes=gpu_bytes, most=workers)


RECONNECT_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - so spelled
"""How long Ray waits for a head that is away. A cluster's may come back; one of our own does not."""


def _servers(*, own: bool) -> list[lifeline.Server]:
    """The processes of Ray without which nothing here goes on."""
    here = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    host, _, port = here.gcs_address.rpartition(":")
    return [
        lifeline.Server(
            name=local_cluster.RAYLET,
            host=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            seconds=0,
        ),
        lifeline.Server(
            name=f"Ray's head at {here.gcs_address} (GCS)",
            host=host.strip("[]"),
            port=int(port),
            seconds=3 if own else max(3, RECONNECT_SECONDS - 10),
        ),
    ]


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What SIGTERM does is ours to say: Ray has it end the process without a word, from the first moment on."""
    theirs = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


END_SECONDS = 60.0
"""Within which a Ray of this process has ended, or hangs."""

_ending: threading.Thread | None = None


def _wait_for_the_last_one(seconds: float) -> None:
    """One Ray a process at a time: one that begins while another ends finds the other's settings in the environment.
    Raises ClusterError where the other has not ended by then."""
    if _ending:
        _ending.join(seconds)
        if _ending.is_alive():
            raise ClusterError(f"the last study's Ray has not ended in {seconds:.0f} s; start this one again")


def _shut_down_beside(shut_down: Callable[[], None]) -> None:
    """End Ray in a thread of its own: it waits for its processes for a second, and whoever had it need not, unless it
    is to have another. Our process ends after the thread.

    Ray ends a process in which an object of its own is freed meanwhile. `run` has left none but garbage, which stays.
    """

    def end() -> None:
        try:
            shut_down()
        finally:
            gc.enable()

    global _ending
    gc.disable()
    _ending = threading.Thread(target=end)
    _ending.start()


NODE_SECONDS = 180
"""How long a node may take to start a worker process, the code that a job brings along included."""


def check_nodes(needs: Needs, cluster: Cluster) -> None:
    """Ask every node that can train whether it sees the study's folder, and have it convert its data, if it must.

    Raises ClusterError that names a node which cannot take part, before anything is trained. A node that joins later
    is asked by its own workers.
    """
    here, trains_on = ray.get_runtime_context().get_node_id(), "GPU" if cluster.gpu else "CPU"
    others = [node for node in ray.nodes() if node["Resources"].get(trains_on) and node["NodeID"] != here]
    for node, sign in _ask(others, preflight.answer, needs, seconds=NODE_SECONDS):
        if not preflight.appears(needs, sign):
            raise ClusterError(f"{_named(node)} has a folder of its own at {needs.where}; mount the study's there")
    for _ in _ask(others, _has_data, needs, seconds=None):
        pass


def _ask(
    others: list[dict[str, Any]], question: Callable[[Needs], Any], needs: Needs, *, seconds: float | None
) -> Iterator[tuple[dict[str, Any], Any]]:
    """The answer of every node that is still there. Raises ClusterError for what a node says against itself."""
    from ray.exceptions import GetTimeoutError, RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def asked(needs: Needs) -> tuple[bool, Any]:
        try:
            return True, question(needs)
        except NodeError as error:
            return False, str(error)

    remote = ray.remote(asked)
    answers = [
        remote.options(
            num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(needs)
        for node in others
    ]
    end = None if seconds is None else time.monotonic() + seconds
    for node, answer in zip(others, answers, strict=True):
        try:
            fine, said = ray.get(answer, timeout=None if end is None else max(0.0, end - time.monotonic()))
        except GetTimeoutError as error:
            raise ClusterError(f"{_named(node)} has started no worker process in {seconds:.0f} s") from error
        except RayError as error:
            if node["NodeID"] not in {other["NodeID"] for other in ray.nodes() if other["Alive"]}:
                continue  # it has left
            raise ClusterError(f"{_named(node)} cannot run this study ({_last_line(error)})") from error
        if not fine:
            raise ClusterError(f"{_named(node)} {said}")
        yield node, said


def _has_data(needs: Needs) -> None:
    preflight.log_here(needs)


def _named(node: dict[str, Any]) -> str:
    address, name = node["NodeManagerAddress"], node.get("NodeManagerHostname")
    return f"node {address} ({name})" if name and name != address else f"node {address}"


def run(job: Job, needs: Needs, cluster: Cluster) -> None:
    """Train the job's control and all that its source hands out. Returns when all are recorded, or given up as failed.

    Raises StudyStoppedError where nothing can be learned, or where several stacks fail the same way, and Interrupted
    where the user or the system stopped us and the trials have been kept.
    """
    if not job.control and job.source.ended:
        return
    from ray import tune

    _memory_monitor_ends_trials()
    queue = Queue(job)
    talk = f"study/{uuid.uuid4().hex}"
    trainable = tune.with_resources(
        tune.with_parameters(
            _trial,
            needs=needs,
            home=ray.get_runtime_context().get_node_id(),
            study=job.study,
            rule=job.rule,
            device=cluster.device,
            checkpoint_seconds=job.checkpoint_seconds,
            talk=talk,
        ),
        {"cpu": 0 if cluster.gpu else 1, "gpu": cluster.gpu},
    )
    searcher, seen = _searcher(queue, cluster, talk)
    with (
        tempfile.TemporaryDirectory(prefix="study-tune-") as scratch,
        interruptible(queue, functools.partial(_end_trials, talk)),
    ):
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="trials", storage_path=scratch, verbose=0, callbacks=[seen]),
        )
        try:
            with _ray_in_words(job.resume):
                tuner.fit()
        except Exception:
            if not (queue.stopped or seen.nothing_trains):
                raise
    if queue.stopped:
        raise queue.stopped
    if queue.interrupted:
        raise saved(queue)


@contextlib.contextmanager
def _ray_in_words(resume: str) -> Iterator[None]:
    """What ends Tune and is an error of Ray's own, such as a job's environment that a node cannot set up, raises
    ClusterError; that of a task would be ours."""
    try:
        yield
    except Exception as error:
        found: BaseException | None = error
        while found and (isinstance(found, RayTaskError) or not isinstance(found, RayError)):
            found = found.__cause__ or found.__context__  # Tune's has the other's text, and names it nowhere
        if found is None:
            raise
        said = f"Ray cannot go on ({_last_line(found)}); what was recorded stays, and `{resume}` trains the rest"
        raise ClusterError(said) from error


def _end_trials(talk: str) -> None:
    """Every trial that looks keeps itself and ends, and every rest is over."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(f"{talk}/stop", b"1")


def _memory_monitor_ends_trials() -> None:
    """Ray's memory monitor ends a worker with an error of its own kind. Tune of ray 2.60 asks a worker for its results,
    its address and its end in several places, and knows one kind of death; every other ends the study. So let the
    monitor's be of both kinds, from where Ray makes it."""
    from ray._private import serialization
    from ray.exceptions import OutOfMemoryError, RayActorError

    class EndedForMemoryError(OutOfMemoryError, RayActorError):  # type: ignore[misc]
        def __init__(self, message: str) -> None:
            RayActorError.__init__(self, error_msg=message)
            self.message = message

    serialization.OutOfMemoryError = EndedForMemoryError  # type: ignore[assignment]


def submit(address: str, words: list[str], *, working_dir: Path | None, wait: bool, commit: str | None = None) -> int:
    """Run a command of ours as a job of the cluster at the address, with this version of the code.

    words: the command, "python" first. working_dir: a folder of the user's own modules. Returns the exit code of the
    job where we wait for it, 0 where not. Raises ClusterError where no cluster answers.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    here = Path(__file__).parents[2]
    environment: dict[str, Any] = {
        "py_modules": [str(here / name) for name in PACKAGES],
        "excludes": ["**/__pycache__"],
        # A stop must leave time for what is being recorded.
        "env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
        | ({"STUDY_COMMIT": commit} if commit else {}),
    }
    if working_dir:
        environment["working_dir"] = str(working_dir.resolve())
    if urlsplit(address).hostname in ("127.0.0.1", "localhost", "::1"):
        words = [sys.executable, *words[1:]]  # this machine's cluster: the Python that we know has everything
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(words), runtime_env=environment)
    except AuthenticationError as error:
        raise _refused(f"Ray job server at {address}") from error
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise ClusterError(f"no Ray job server at {address} ({_one_line(error)})") from error
    print(f"job {job} submitted to {address}", flush=True)
    if not wait:
        return 0

    async def follow() -> None:
        async for lines in client.tail_job_logs(job):
            print(lines, end="", flush=True)

    asyncio.run(follow())
    ended = client.get_job_info(job)
    while not ended.status.is_terminal():  # the log may end a moment before the job does
        time.sleep(0.5)
        ended = client.get_job_info(job)
    if ended.status == JobStatus.SUCCEEDED:
        return 0
    return ended.driver_exit_code or 1


def _searcher(queue: Queue, cluster: Cluster, talk: str) -> tuple[Any, Any]:
    """The queue as Ray Tune's searcher, and a callback that sees its trials. Made here, so that Ray can be started
    before its Tune has been imported."""
    from ray.tune import Callback
    from ray.tune.search import Searcher

    class Saved:
        """Tune saves what it works with, so that it can resume by itself; ours rests on the record, and nothing is
        saved. Whatever the classes here need is in their objects, since they are saved with all that they name."""

        def __getstate__(self) -> dict[str, Any]:
            return {}

    class Seen(Saved, Callback):
        queue: Queue
        cluster: Cluster
        trials: Sequence[Any]
        waiting: Waiting
        looked: float
        at_work: dict[str, float]
        nothing_trains: bool

        def on_step_begin(self, iteration: int, trials: Any, **_info: Any) -> None:
            self.trials = trials
            if time.monotonic() - self.looked < LOOK_SECONDS:
                return
            now = self.looked = time.monotonic()
            out = {name: self.named(name) for name in (*self.queue.training, *self.queue.resting)}
            running = [name for name, trial in out.items() if trial and trial.status == "RUNNING"]
            self.at_work = {name: self.at_work.get(name, now) for name in running}
            if self.queue.interrupted and not running:
                self.nothing_trains = True
                raise StudyStoppedError("what waits for a machine has nothing to keep")
            try:
                at_work = [now - began for began in self.at_work.values()]
                self.waiting.look(at_work, None if at_work else self.cluster.lacks())
            except StudyStoppedError as stopped:
                # What waits for a machine cannot be ended in order.
                self.queue.stopped = stopped
                raise

        def named(self, trial_id: str) -> Any:
            return next((trial for trial in reversed(self.trials) if trial.trial_id == trial_id), None)

    class Live(Saved, Searcher):
        queue: Queue
        cluster: Cluster
        talk: str
        seen: Seen
        capacity: int
        looked: float

        def suggest(self, trial_id: str) -> Any:
            if time.monotonic() - self.looked > LOOK_SECONDS:
                self.looked = time.monotonic()
                self.capacity = self.cluster.now()
            suggested = self.queue.suggest(trial_id, self.capacity)
            if suggested == FINISHED:
                _end_trials(self.talk)
            return suggested

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            if "failure" in result:
                failure = Failure(kind=result["kind"], reason=result["failure"], place=result["place"])
                self.queue.rests(trial_id, failure)

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            if error or result is None:
                self.queue.ended(trial_id, _why_it_died(self.queue, trial_id, self.seen.named(trial_id)))
            else:
                self.queue.ended(trial_id, result)

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    assert Searcher.FINISHED == FINISHED
    searcher, seen = Live(metric="runs", mode="max"), Seen()
    searcher.queue, searcher.cluster, searcher.talk = queue, cluster, talk
    searcher.capacity, searcher.looked = cluster.workers, time.monotonic()
    searcher.seen, seen.trials, seen.queue, seen.cluster = seen, (), queue, cluster
    seen.waiting, seen.looked, seen.at_work = Waiting(queue), time.monotonic(), {}
    seen.nothing_trains = False
    return searcher, seen


def _why_it_died(queue: Queue, trial_id: str, trial: Any) -> Failure:
    """Why a trial's process ended without a word."""
    stack = queue.training.get(trial_id)
    if stack is None:
        return Failure(kind="worker", reason="the worker process ended")
    said = ""
    with contextlib.suppress(OSError, TypeError, AttributeError):
        said = Path(trial.error_file).read_text()
    found = heartbeat.last(queue.job.folder, stack.name)
    heartbeat.forget(queue.job.folder, stack.name)
    if RAN_OUT_OF_MEMORY.search(said):
        return Failure(kind="memory", reason="out of memory (Ray ended the worker, since its machine ran low)")
    if MACHINE_WENT_AWAY.search(said):
        return Failure(kind="machine", reason="its machine went away")
    if hung := heartbeat.why_it_ended(found):
        return Failure(kind="hung", reason=hung)
    if found and _killed_for_memory(found.get("node")) > found.get("killed_for_memory", 0):
        return Failure(kind="memory", reason="out of memory (the system ended the worker)")
    return Failure(kind="worker", reason="the worker process ended")


def _killed_for_memory(node: Any) -> int:
    """As the node says; -1 where it does not answer."""
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        there = NodeAffinitySchedulingStrategy(str(node), soft=False)
        task = ray.remote(heartbeat.killed_for_memory).options(num_cpus=0, scheduling_strategy=there)
        return ray.get(task.remote(), timeout=10)
    except (RayError, ValueError, TypeError):
        return -1


def _trial(
    config: dict[str, Any],
    *,
    needs: Needs,
    home: str,
    study: str,
    rule: Rule,
    device: str,
    checkpoint_seconds: float,
    talk: str,
) -> None:
    """The Tune function: one stack, one report; or a rest, with all that the next stack needs imported. A process in
    which a stack failed is not used again: what broke it may have stayed.

    home: the node of the driver. Another one, which may have joined late, gives a stack back where it cannot take part.
    talk: where the driver and its trials find each other's words in Ray's store of keys.
    """
    gc.disable()  # what these make lives as long as the process; to look through it as it grows takes a third longer
    try:
        import torch
        from ray import tune

        from study.execution.checkpoint import StoppedError
        from study.execution.trial import Care, Trial, execute
    finally:
        gc.enable()
    if "rest" in config:
        _rest(config["rest"], talk)
        tune.report({"runs": 0})
        return
    name, runs, reference = unpacked(config["stack"])
    trial = Trial(study=study, runs=runs, rule=rule, reference=reference)
    node, place = _place()
    care = Care(
        checkpoint_seconds=checkpoint_seconds,
        limit_seconds=config["limit"],
        stopping=lambda: _stopping(talk),
        about={"node": node, "killed_for_memory": heartbeat.killed_for_memory()},
    )
    try:
        log = preflight.ready(needs)
    except NodeError as error:
        if node != home:
            time.sleep(
                preflight.SIGN_SECONDS
            )  # it may be that a folder is still being mounted; and others take the stack
            named = next(found for found in ray.nodes() if found["NodeID"] == node)
            tune.report({"runs": 0, "unfit": f"{_named(named)} {error}; it takes no part"})
            return
        tune.report({"runs": 0, "failure": f"this machine {error}", "kind": "error", "place": place})
        os.kill(os.getpid(), signal.SIGKILL)
        return
    try:
        done = execute(trial, needs.where, log, name, device, care)
    except StoppedError as stopped:
        tune.report({"runs": 0, "stopped": "kept" if stopped.kept else "dropped"})
        return
    except (torch.OutOfMemoryError, MemoryError) as error:
        failed = {"kind": "memory", "failure": f"out of memory ({_one_line(error)})"}
    except (Exception, SystemExit) as error:
        broken = isinstance(error, RuntimeError) and BROKEN_DEVICE.search(str(error))
        failed = {"kind": "device" if broken else "error", "failure": f"{type(error).__name__}: {_one_line(error)}"}
    else:
        _device_works(talk, place)
        tune.report(done | {"place": place})
        return
    tune.report({"runs": 0, "place": place} | failed)
    if failed["kind"] == "device":
        _rest(_device_rest(talk, place), talk)
    os.kill(os.getpid(), signal.SIGKILL)


def _place() -> tuple[str, str]:
    """The node of this process, and what tells its devices from those of others."""
    context = ray.get_runtime_context()
    node = context.get_node_id()
    return node, f"{node}/{','.join(context.get_accelerator_ids().get('GPU', []))}"


def _stopping(talk: str) -> bool:
    from ray.experimental import internal_kv

    try:
        return internal_kv._internal_kv_exists(f"{talk}/stop")
    except Exception:  # Ray goes away, and this process with it
        return False


def _rest(seconds: float, talk: str) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not _stopping(talk):
        time.sleep(min(left, 0.5))


def _device_rest(talk: str, place: str) -> float:
    """How long the device is left alone now. Known to the cluster: the process in which it failed is not used again."""
    from ray.experimental import internal_kv

    key = f"{talk}/failures/{place}"
    times = int(internal_kv._internal_kv_get(key) or b"0")
    internal_kv._internal_kv_put(key, str(times + 1).encode(), overwrite=True)
    first, most = DEVICE_RESTS_SECONDS
    return min(first * 2**times, most)


def _device_works(talk: str, place: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(f"{talk}/failures/{place}")


def _answers(address: str) -> None:
    """Raises ClusterError at once where nothing listens, or where our token is refused: Ray itself goes on trying for
    minutes, and says so in many lines."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(f"no Ray at {address} ({_one_line(error)})") from error
    import grpc
    from ray.core.generated import gcs_service_pb2, gcs_service_pb2_grpc

    try:
        token = AuthenticationTokenLoader.instance().get_token_for_http_header()
    except AuthenticationError as error:
        raise _refused(f"Ray cluster at {address}") from error
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        asked = gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel).GetClusterId
        headers = [(name.lower(), value) for name, value in token.items()]
        try:
            request = gcs_service_pb2.GetClusterIdRequest()  # type: ignore[attr-defined]
            asked(request, metadata=headers, timeout=10)
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call) and error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise _refused(f"Ray cluster at {address}") from error


def _refused(where: str) -> ClusterError:
    return ClusterError(
        f"the {where} asks for a token, and ours is missing or wrong: "
        "put the cluster's into ~/.ray/auth_token, or name a file that holds it in RAY_AUTH_TOKEN_PATH"
    )


def _gpu_bytes() -> int:
    import torch

    return torch.cuda.mem_get_info()[1]


def _one_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return redaction.one_line(next(filter(None, lines), type(error).__name__))[:300]


def _last_line(error: BaseException) -> str:
    """What a remote error says: Ray puts a traceback before it."""
    lines = (line.strip() for line in reversed(str(error).splitlines()))
    return redaction.one_line(next(filter(None, lines), type(error).__name__))[:300]
