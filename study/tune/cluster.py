"""Connects to Ray, local or at an address, and says what its trials may use."""

import contextlib
import dataclasses
import importlib
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from study import plugins, redaction
from study.tune import environment, liveness, local_cluster
from study.tune.environment import LOCAL

START_SECONDS = 180.0
"""Ray starts within this time, or never: `ray.init` waits for ever for a worker that died as it began."""

GCS_RECONNECT_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112
"""How long Ray waits for a cluster's head, which may come back."""

TOKEN_HINT = "put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"


class ClusterError(ValueError):
    """Ray cannot be used; the message is for users."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the trials of a study may use.

    Attributes:
        workers: Trials at a time, when the study starts.
        cpus: CPUs of one trial.
        gpu: GPUs of one trial, such as a share; 0 trains on CPU.
        gpu_bytes: Memory of that share.
        max_workers: Trials at a time that the user allows; None is no limit.
    """

    workers: int
    cpus: float = 1.0
    gpu: float = 0.0
    gpu_bytes: int | None = None
    max_workers: int | None = None

    @property
    def device(self) -> str:
        """Return the torch device of a trial."""
        return "cuda" if self.gpu else "cpu"

    def current_workers(self) -> int:
        """Return how many trials fit now; machines may have joined or left."""
        import ray

        return _workers(ray.cluster_resources(), self.cpus, self.gpu, self.max_workers)

    def has_room(self) -> bool:
        """Return whether a trial fits beside what others run now."""
        import ray

        return _fitting(ray.available_resources(), self.cpus, self.gpu) > 0

    def missing_resource(self) -> str | None:
        """Return what the cluster lacks if no trial would fit an idle cluster, else None."""
        import ray

        if _fitting(ray.cluster_resources(), self.cpus, self.gpu):
            return None
        needed = {"CPU": self.cpus, "GPU": self.gpu}
        words = [name if n == 1 else f"{n:g} {name}s" for name, n in needed.items() if n]
        return f"the cluster has no {' and '.join(words)} for a trial"


def _workers(resources: Mapping[str, float], cpus: float, gpu: float, max_workers: int | None) -> int:
    fitting = _fitting(resources, cpus, gpu)
    return max(1, fitting if max_workers is None else min(max_workers, fitting))


def _fitting(resources: Mapping[str, float], cpus: float, gpu: float) -> int:
    return min(int(resources.get(name, 0) / needed) for name, needed in (("CPU", cpus), ("GPU", gpu)) if needed)


@contextlib.contextmanager
def connected(
    address: str | None,
    *,
    workers: int | None,
    gpu_fraction: float,
    trial: tuple[float, float] | None = None,
    resume_hint: object = "`study resume` continues",
) -> Iterator[Cluster]:
    """Connect to Ray, and disconnect after. A local Ray is started and ended. A connection of the user's own stays.

    Args:
        address: Of a cluster; None is as for `environment.prepare`.
        workers: Trials at a time; None is one for each core, or for each share of a GPU.
        gpu_fraction: Share of a GPU of one trial, where there are GPUs.
        trial: CPUs and GPUs of one trial; None is a share of a GPU where there are GPUs, else one CPU.
        resume_hint: How to continue, for the last line if Ray dies.

    Raises:
        ClusterError: There is no Ray at the address, or none can be started.
    """
    own = environment.own_connection()
    if own and address not in (None, "auto", own):
        raise ClusterError(
            f"this process is connected to Ray at {own}; leave out --address, or call ray.shutdown() first"
        )
    address = environment.prepare(own or address)
    refuse_dead_address(address)
    import ray

    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(local_cluster.temp_folder()) if address == LOCAL else None
        if not own:
            stack.callback(ray.shutdown)
        # Ray's processes take seconds to start, in which this one is idle.
        importer = threading.Thread(target=importlib.import_module, args=("ray.tune",))
        importer.start()
        try:
            if not own:
                cpus = workers and math.ceil(workers * (trial[0] if trial else 1))
                _init(address, cpus, resume_hint)
        finally:
            importer.join()
        # Tune warns of every trial, since it looks for result files that we do not write.
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Each new worker makes the link `session_latest` anew, so for a moment it is not there.
        sockets = None if folder is None else next(folder.glob("ray/session_*/sockets"), folder).resolve()
        stack.enter_context(liveness.exit_if_dead(_servers(local=address == LOCAL), resume_hint, sockets))
        yield _cluster(workers, gpu_fraction, trial)


def _init(address: str, cpus: int | None, resume_hint: object) -> None:
    """Call `ray.init`. A local Ray is started once more if it fails: its agent may be too slow on a busy machine."""
    import ray

    options = local_cluster.init_options(cpus) if address == LOCAL else {}
    for last in (False, True) if address == LOCAL else (True,):
        try:
            with (
                liveness.exit_after(START_SECONDS, "Ray", resume_hint),
                _same_signal_handlers(),
                contextlib.chdir(plugins.ROOT),  # Ray puts the current folder first on the path of its workers
            ):
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    **options,  # pyright: ignore[reportArgumentType]
                )
            break
        except Exception as error:  # a process of Ray that dies as it starts raises errors of many kinds
            ray.shutdown()
            what, _, versions = str(error).partition(":")
            if what == "Version mismatch":
                raise ClusterError(f"{address} has another version: {redaction.one_line(versions)}") from error
            if last:
                why = redaction.first_line(error)
                raise ClusterError(
                    f"Ray does not start ({why})"
                    if address == LOCAL
                    else f"no Ray at {address} ({why}); if it needs a token, {TOKEN_HINT}"
                ) from error


@contextlib.contextmanager
def _same_signal_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM, which `ray.init` replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as error:  # Ray's handler of SIGTERM
        raise KeyboardInterrupt from error
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _cluster(workers: int | None, gpu_fraction: float, trial: tuple[float, float] | None) -> Cluster:
    import ray

    resources = ray.cluster_resources()
    cpus, gpu = trial or ((0.0, gpu_fraction) if resources.get("GPU", 0) else (1.0, 0.0))
    found = Cluster(workers=_workers(resources, cpus, gpu, workers), cpus=cpus, gpu=gpu, max_workers=workers)
    if trial or not gpu:
        return found
    total = ray.get(ray.remote(_gpu_bytes).options(num_cpus=0, num_gpus=gpu).remote())
    return dataclasses.replace(found, gpu_bytes=int(total * gpu))


def _gpu_bytes() -> int:
    import torch

    return torch.cuda.mem_get_info()[1]


def _servers(*, local: bool) -> list[liveness.Server]:
    """The ports of Ray's processes without which the driver cannot go on."""
    import ray

    context = ray.get_runtime_context()
    node = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    host, _, port = context.gcs_address.rpartition(":")
    # The raylet ends itself when one of its agents dies. An agent without a server has the port -1.
    agents = {"dashboard agent": "MetricsAgentPort", "agent of runtime environments": "RuntimeEnvAgentPort"}
    return [
        *(
            liveness.Server(
                name=f"Ray's {name} on this machine", host=node["NodeManagerAddress"], port=node[key], seconds=0
            )
            for name, key in agents.items()
            if node.get(key, -1) > 0
        ),
        liveness.Server(
            name="Ray's process on this machine (raylet)",
            host=node["NodeManagerAddress"],
            port=node["NodeManagerPort"],
            seconds=0,
        ),
        liveness.Server(
            name=f"Ray's head at {context.gcs_address} (GCS)",
            host=host.strip("[]"),
            port=int(port),
            seconds=3 if local else max(3, GCS_RECONNECT_SECONDS - 10),
        ),
    ]


def refuse_dead_address(address: str) -> None:
    """Raise ClusterError if nothing listens at `host:port`. Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(f"no Ray at {address} ({redaction.first_line(error)})") from error
