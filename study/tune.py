"""Ray Tune schedules the trials of a study: one live queue of stacks for every kind of study. The only file that
knows ray.

What is trained next, and what becomes of a failure, is the queue's (`study.queue`). Workers write their own files of
the record and report only counts.
"""

import asyncio
import contextlib
import gc
import importlib
import logging
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before the import of ray, which reads these once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
os.environ.setdefault("TUNE_RESULT_BUFFER_LENGTH", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# Ahead of the workers that a Ray of our own starts: glibc gives freed tensors of a step back to the system, and taking
# them again, page by page, costs a stack an eighth of its time. No number changes.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))
# Ray gives its workers nice 15, so that its own processes stay prompt. Beside a busy process on its core a worker then
# gets a tenth of the time or less. Ours have the priority of `study run`, which `nice study run` lowers.
os.environ.setdefault("RAY_worker_niceness", "0")

if "RAY_AUTH_MODE" not in os.environ and (
    {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys() or (Path.home() / ".ray" / "auth_token").is_file()
):
    # A cluster started where a token lies asks for it; Ray's job client does not look for the token by itself.
    os.environ["RAY_AUTH_MODE"] = "token"

import ray

from study import lifeline, nodes
from study.config import Rule
from study.nodes import Needs, NodeError
from study.queue import FINISHED, Job, Queue, unpacked

PACKAGES = ("study", "models", "search_spaces", "analysis")
# Tune looks for result files, which we do not write, and warns of every trial.
logging.getLogger("ray").setLevel(logging.ERROR)
logging.getLogger("ray.tune").setLevel(logging.ERROR)


class ClusterError(ValueError):
    """No usable Ray, in words for the user."""


START_SECONDS = 180.0
"""Within which Ray has started, or never will."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the trials of a study may use. gpu: the share of a GPU of one trial; 0 trains on CPU.

    gpu_bytes: memory of that share. workers: trials at a time.
    """

    workers: int
    gpu: float = 0.0
    gpu_bytes: int | None = None

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"


@contextlib.contextmanager
def connected(address: str | None, *, workers: int | None, gpu_fraction: float) -> Iterator[Cluster]:
    """Ray, here or at the address; inside a submitted job, the cluster of the job.

    workers: trials at a time; None is one for each core, or for each share of a GPU where there are GPUs.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    _answers(address)
    here = {"include_dashboard": False, "num_cpus": workers} if address == "local" else {}
    # Ray's processes take seconds to start, in which this one has nothing else to do.
    meanwhile = threading.Thread(target=importlib.import_module, args=("ray.tune",))
    meanwhile.start()
    try:
        # Ray waits for its first workers, and for ever where one of them dies meanwhile.
        with lifeline.within(START_SECONDS, "Ray"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **here)
    except Exception as error:  # a process of Ray's that died as it began has an error of no kind of its own
        raise ClusterError(f"no Ray at {address} ({_one_line(error)})") from error
    finally:
        meanwhile.join()
    try:
        with lifeline.watched(_servers(own=address == "local")):
            yield _cluster(workers, gpu_fraction)
    except BaseException:
        ray.shutdown()
        raise
    _shut_down_beside()


def _cluster(workers: int | None, gpu_fraction: float) -> Cluster:
    have = ray.cluster_resources()
    gpus = have.get("GPU", 0)
    if gpus:
        fitting = int(gpus / gpu_fraction)
        total = ray.get(ray.remote(_gpu_bytes).options(num_cpus=0, num_gpus=gpu_fraction).remote())
        at_a_time = min(workers or fitting, fitting)
        return Cluster(workers=at_a_time, gpu=gpu_fraction, gpu_bytes=int(total * gpu_fraction))
    cores = max(1, int(have.get("CPU", 1)))
    return Cluster(workers=min(workers or cores, cores))


RECONNECT_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112 - so spelled
"""How long Ray waits for a head that is away. A cluster's may come back; one of our own does not."""


def _servers(*, own: bool) -> list[lifeline.Server]:
    """The processes of Ray without which nothing here goes on."""
    here = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    host, _, port = here.gcs_address.rpartition(":")
    return [
        lifeline.Server(
            name="Ray's process on this machine (raylet)",
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


def _shut_down_beside() -> None:
    """End Ray in a thread of its own: it waits for its processes for a second, and whoever had it need not. Our
    process ends after the thread.

    Ray ends a process in which an object of its own is freed meanwhile. `run` has left none but garbage, which stays.
    """

    def shut_down() -> None:
        try:
            ray.shutdown()
        finally:
            gc.enable()

    gc.disable()
    threading.Thread(target=shut_down).start()


NODE_SECONDS = 180
"""How long a node may take to start a worker process, the code that a job brings along included."""


def check_nodes(needs: Needs, cluster: Cluster) -> None:
    """Ask every node that can train whether it sees the study's folder, and have it convert its data, if it must.

    Raises ClusterError that names a node which cannot take part, before anything is trained. A node that joins later
    is asked by its own workers.
    """
    here, trains_on = ray.get_runtime_context().get_node_id(), "GPU" if cluster.gpu else "CPU"
    others = [node for node in ray.nodes() if node["Resources"].get(trains_on) and node["NodeID"] != here]
    for node, sign in _ask(others, nodes.answer, needs, seconds=NODE_SECONDS):
        if not nodes.appears(needs, sign):
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
    nodes.log_here(needs)


def _named(node: dict[str, Any]) -> str:
    address, name = node["NodeManagerAddress"], node.get("NodeManagerHostname")
    return f"node {address} ({name})" if name and name != address else f"node {address}"


def run(job: Job, needs: Needs, cluster: Cluster) -> None:
    """Train the job's control and all that its source hands out. Returns when all are recorded, or given up as failed.

    Raises StudyStoppedError where nothing can be learned, or where several stacks fail the same way.
    """
    if not job.control and job.source.ended:
        return
    from ray import tune

    queue = Queue(job)
    trainable = tune.with_resources(
        tune.with_parameters(
            _trial,
            needs=needs,
            home=ray.get_runtime_context().get_node_id(),
            study=job.study,
            rule=job.rule,
            device=cluster.device,
        ),
        {"cpu": 0 if cluster.gpu else 1, "gpu": cluster.gpu},
    )
    with tempfile.TemporaryDirectory(prefix="study-tune-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_searcher(queue),
                num_samples=-1,
                max_concurrent_trials=cluster.workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
                trial_name_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(name="trials", storage_path=scratch, verbose=0),
        )
        tuner.fit()
    if queue.stopped:
        raise queue.stopped


def submit(address: str, words: list[str], *, working_dir: Path | None, wait: bool, commit: str | None = None) -> int:
    """Run a command of ours as a job of the cluster at the address, with this version of the code.

    words: the command, "python" first. working_dir: a folder of the user's own modules. Returns the exit code of the
    job where we wait for it, 0 where not. Raises ClusterError where no cluster answers.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    here = Path(__file__).parent.parent
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
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
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


def _searcher(queue: Queue) -> Any:
    """The queue as Ray Tune's searcher. Made here, so that Ray can be started before its Tune has been imported."""
    from ray.tune.search import Searcher

    class Live(Searcher):
        """Tune saves its searcher so that it can resume by itself; ours rests on the record, and nothing is saved."""

        queue: Queue

        def suggest(self, trial_id: str) -> Any:
            return self.queue.suggest(trial_id)

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            self.queue.on_trial_complete(trial_id, result, error)

        def __getstate__(self) -> dict[str, Any]:
            return {}

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            pass

    assert Searcher.FINISHED == FINISHED
    searcher = Live(metric="runs", mode="max")
    searcher.queue = queue
    return searcher


def _trial(
    config: dict[str, Any],
    *,
    needs: Needs,
    home: str,
    study: str,
    rule: Rule,
    device: str,
) -> None:
    """The Tune function: one stack, one report; or a rest, with all that the next stack needs imported.

    home: the node of the driver. Another one, which may have joined late, gives a stack back where it cannot take part.
    """
    import torch
    from ray import tune

    from study.trial import Trial, execute

    if "rest" in config:
        time.sleep(config["rest"])
        tune.report({"runs": 0})
        return
    name, runs, reference = unpacked(config["stack"])
    trial = Trial(study=study, runs=runs, rule=rule, reference=reference)
    try:
        log = nodes.ready(needs)
    except NodeError as error:
        here = ray.get_runtime_context().get_node_id()
        if here != home:
            time.sleep(nodes.SIGN_SECONDS)  # it may be that a folder is still being mounted; and others take the stack
            node = next(node for node in ray.nodes() if node["NodeID"] == here)
            tune.report({"runs": 0, "unfit": f"{_named(node)} {error}; it takes no part"})
            return
        tune.report({"runs": 0, "failure": f"this machine {error}", "out_of_memory": False})
        return
    try:
        tune.report(execute(trial, needs.where, log, name, device))
    except (torch.OutOfMemoryError, MemoryError) as error:
        tune.report({"runs": 0, "failure": f"out of memory ({_one_line(error)})", "out_of_memory": True})
    except Exception as error:
        tune.report({"runs": 0, "failure": f"{type(error).__name__}: {_one_line(error)}", "out_of_memory": False})


def _answers(address: str) -> None:
    """Raises ClusterError at once where nothing listens: Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(f"no Ray at {address} ({_one_line(error)})") from error


def _gpu_bytes() -> int:
    import torch

    return torch.cuda.mem_get_info()[1]


def _one_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _last_line(error: BaseException) -> str:
    """What a remote error says: Ray puts a traceback before it."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)[
        :300
    ]
