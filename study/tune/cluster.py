"""Connects to Ray, local or at an address, and says what its trials may use."""

import contextlib
import dataclasses
import importlib
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from study import plugins
from study.text import console
from study.tune import environment, liveness, local_cluster
from study.tune.environment import LOCAL

START_SECONDS = 180.0
"""Ray starts within this time, or never: `ray.init` waits for ever for a worker that died as it began."""

GCS_RECONNECT_SECONDS = float(os.environ.get("RAY_gcs_rpc_server_reconnect_timeout_s", "60"))  # noqa: SIM112
"""How long Ray waits for a cluster's head, which may come back."""

MAX_WAITING = 1000
"""Most trials that wait for nodes."""

GPU_WAIT_SECONDS = 10.0
"""A task has a free GPU within this time."""

NODE_ID = "ray.io/node-id"
"""Ray's own label of each node."""

TOKEN_HINT = "put the cluster's token into ~/.ray/auth_token, or name its file in RAY_AUTH_TOKEN_PATH"


class ClusterError(ValueError):
    """Ray cannot be used; the message is for users."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the trials of a study may use.

    Attributes:
        workers: Trials at a time, for which stacks are sized.
        cpus: CPUs of one trial.
        gpu: GPUs of one trial, such as a share; 0 trains on CPU.
        gpu_bytes: Memory of that share.
        max_workers: Trials at a time that the user allows; None is no limit.
        resources: What else a trial takes, by Ray's name.
        labels: Of the nodes that take part.
        without: Ids of nodes that cannot take part.
        grows: An autoscaler may add nodes for trials that wait.
    """

    workers: int
    cpus: float = 1.0
    gpu: float = 0.0
    gpu_bytes: int | None = None
    max_workers: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    without: Collection[str] = ()
    grows: bool = False

    @property
    def device(self) -> str:
        """Return the torch device of a trial."""
        return "cuda" if self.gpu else "cpu"

    @property
    def needed(self) -> dict[str, float]:
        """Return the resources of one trial, as Ray names them."""
        return {name: n for name, n in ({"CPU": self.cpus, "GPU": self.gpu} | dict(self.resources)).items() if n}

    @property
    def selector(self) -> dict[str, str]:
        """Return the label selector of a trial, as Ray writes it."""
        return dict(self.labels) | ({NODE_ID: f"!in({','.join(sorted(self.without))})"} if self.without else {})

    def nodes(self) -> list[dict[str, Any]]:
        """Return those of `ray.nodes()` on which an idle cluster could run a trial."""
        import ray

        return [
            node for node in ray.nodes() if node["Alive"] and self._admits(node) and self._fitting(node["Resources"])
        ]

    def current_workers(self) -> int:
        """Return how many trials fit now; machines may have joined or left."""
        fitting = sum(self._fitting(node["Resources"]) for node in self.nodes())
        return max(1, fitting if self.max_workers is None else min(self.max_workers, fitting))

    def wanted_workers(self) -> int:
        """Return how many trials to ask Ray for. Those that do not fit wait, as demands that an autoscaler sees.

        The demands end with the study, however it ends. `ray.autoscaler.sdk.request_resources` would be one request for
        the whole cluster: another study's would replace it, and that of a killed driver would stay.
        """
        fitting = self.current_workers()
        return min(self.max_workers, fitting + MAX_WAITING) if self.grows and self.max_workers else fitting

    def has_room(self) -> bool:
        """Return whether a trial fits beside what others run now."""
        import ray

        return self._fitting(ray.available_resources()) > 0

    def busy(self) -> str:
        """Return what others use of that which a trial takes: `CPUs`, or the names of custom resources."""
        import ray

        there, plural = ray.available_resources(), {"CPU": "CPUs", "GPU": "GPUs"}
        used = [name for name, n in self.needed.items() if there.get(name, 0) < n]
        return ", ".join(plural.get(name, name) for name in used or self.needed)

    def missing_resource(self) -> str | None:
        """Return what the cluster lacks if no trial would fit an idle cluster, else None."""
        if self.nodes():
            return None
        words = [name if n == 1 else f"{n:g} {name}s" for name, n in self.needed.items()]
        labels = "".join(f" with the label {key}={value}" for key, value in self.labels.items())
        return f"the cluster has no {' and '.join(words)}{labels} for a trial"

    def _admits(self, node: Mapping[str, Any]) -> bool:
        own = node["Labels"]
        return node["NodeID"] not in self.without and all(own.get(key) == value for key, value in self.labels.items())

    def _fitting(self, resources: Mapping[str, float]) -> int:
        return min(int(resources.get(name, 0) / n) for name, n in self.needed.items())


@contextlib.contextmanager
def connected(
    address: str | None,
    *,
    workers: int | None,
    gpu_fraction: float,
    trial: tuple[float, float] | None = None,
    device: str | None = None,
    resources: Mapping[str, float] | None = None,
    labels: Mapping[str, str] | None = None,
    resume_hint: object = "`study resume` continues",
    study: str = "",
) -> Iterator[Cluster]:
    """Connect to Ray, and disconnect after. A local Ray is started and ended. A connection of the user's own stays.

    Args:
        address: Of a cluster; None is as for `environment.prepare`.
        workers: Trials at a time; None is one for each core, or for each share of a GPU.
        gpu_fraction: Share of a GPU of one trial, where there are GPUs; 0 trains on CPUs.
        trial: CPUs and GPUs of one trial; None is a share of a GPU where there are GPUs, else one CPU.
        device: "cpu" or "cuda"; None is "cuda" where there are GPUs.
        resources: What else each trial takes, by Ray's name.
        labels: Of the nodes that take part.
        resume_hint: How to continue, for the last line if Ray dies.
        study: Its name, which Ray shows.

    Raises:
        ClusterError: There is no Ray at the address, or none can be started.
        ValueError: The address is of another kind.
    """
    own = environment.own_connection()
    if own and address not in (None, "auto", own):
        raise ClusterError(
            f"this process is connected to Ray at {own}; leave out --address, or call ray.shutdown() first"
        )
    asked = own or environment.checked_address(address, submits=False)
    address = environment.prepare(asked)
    shown = address if asked or address == LOCAL else f"{address}, which RAY_ADDRESS names"
    refuse_dead_address(address, shown)
    if not own:
        console.show("Ray starts" if address == LOCAL else f"connects to Ray at {shown}", file=sys.stderr)
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
                _init(address, shown, cpus, resume_hint, study)
        finally:
            importer.join()
        # Tune warns of every trial, since it looks for result files that we do not write.
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        # Each new worker makes the link `session_latest` anew, so for a moment it is not there.
        sockets = None if folder is None else next(folder.glob("ray/session_*/sockets"), folder).resolve()
        stack.enter_context(liveness.exit_if_dead(_servers(local=address == LOCAL), resume_hint, sockets))
        limits = {"resources": resources or {}, "labels": labels or {}, "grows": address != LOCAL}
        yield _cluster(workers, gpu_fraction, trial, device, limits)


def _init(address: str, shown: str, cpus: int | None, resume_hint: object, study: str) -> None:
    """Call `ray.init`. A local Ray is started again if it fails. shown: the address in messages."""
    import ray
    from ray.job_config import JobConfig

    options = local_cluster.init_options(cpus) if address == LOCAL else {}

    def init() -> None:
        try:
            with (
                liveness.exit_after(START_SECONDS, "Ray", resume_hint),
                _same_signal_handlers(),
                plugins.restored_variable("PYTHONBREAKPOINT"),  # Ray sets its own debugger
                in_folder(plugins.ROOT),  # Ray puts the current folder first on the path of its workers
            ):
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    configure_logging=False,
                    job_config=JobConfig(metadata={"job_name": f"study {study}"}),
                    **options,  # pyright: ignore[reportArgumentType]
                )
        except Exception:
            ray.shutdown()
            raise

    try:
        local_cluster.start(init) if address == LOCAL else init()
    except Exception as error:
        what, _, versions = str(error).partition(":")
        if what == "Version mismatch":
            raise ClusterError(f"{shown} has another version: {console.one_line(versions)}") from error
        why = console.first_line(error)
        raise ClusterError(
            f"Ray does not start, with {local_cluster.load()} ({why})"
            if address == LOCAL
            else f"no Ray at {shown} ({why}); if it needs a token, {TOKEN_HINT}"
        ) from error


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """Make a folder the current one inside. Ray and Tune need one, and Ray may delete that of a job meanwhile."""
    before = os.open(".", os.O_RDONLY)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


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


def _cluster(
    workers: int | None,
    gpu_fraction: float,
    trial: tuple[float, float] | None,
    device: str | None,
    limits: dict[str, Any],
) -> Cluster:
    on_cpu, on_gpu = (
        Cluster(workers=1, cpus=cpus, gpu=gpu, max_workers=workers, **limits)
        for cpus, gpu in ((trial, trial) if trial else ((1.0, 0.0), (0.0, gpu_fraction)))
    )
    found = on_gpu if on_gpu.gpu and device != "cpu" and (device or on_gpu.nodes()) else on_cpu
    if found.device != (device or found.device):
        raise ClusterError(f"--device {device} does not go with trials of {found.gpu:g} GPUs")
    if device == "cuda" and (missing := found.missing_resource()):
        raise ClusterError(missing)
    return dataclasses.replace(found, workers=found.wanted_workers())


def gpu_bytes(cluster: Cluster) -> int:
    """Return the memory of a trial's share of a GPU. Says so if it waits. Raises ClusterError if torch sees none."""
    import ray

    options = {"num_cpus": 0, "num_gpus": cluster.gpu, "resources": dict(cluster.resources)}
    answer = ray.remote(_gpu_bytes).options(**options, label_selector=cluster.selector or None).remote()
    if not ray.wait([answer], timeout=GPU_WAIT_SECONDS)[0]:
        console.show(f"waits for {cluster.busy()} in use by others")
    node, total = ray.get(answer)
    if total is None:
        raise ClusterError(f"node {node} has a GPU that its torch cannot use; --device cpu trains on CPUs")
    return int(total * cluster.gpu)


def _gpu_bytes() -> tuple[str, int | None]:
    import ray
    import torch

    return ray.util.get_node_ip_address(), torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


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


def refuse_dead_address(address: str, shown: str | None = None) -> None:
    """Raise ClusterError if nothing listens at `host:port`. Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return  # local, auto
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ClusterError(f"no Ray at {shown or address} ({console.first_line(error)})") from error
