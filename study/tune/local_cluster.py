"""A Ray of our own: how it is started and ended, and which of its processes must live. Beside `study.tune.runner` the
only file that knows ray.

It is on loopback, behind a token (`study.telemetry`), its processes have groups of their own, and none is left at the
end, whether it had started or not.
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study import telemetry
from study.tune import lifeline

# Ahead of the workers that it starts: glibc gives freed tensors of a step back to the system, and taking them again,
# page by page, costs a stack an eighth of its time. No number changes.
os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))
os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**30))
# Ray gives its workers nice 15, so that its own processes stay prompt. Beside a busy process on its core a worker then
# gets a tenth of the time or less. Ours have the priority of `study run`, which `nice study run` lowers.
os.environ.setdefault("RAY_worker_niceness", "0")

from ray._private import ray_constants, services, state, utils, worker
from ray._private.node import Node
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

REGISTERED_SECONDS = 30.0
"""Within which a raylet that has started is known to the head."""

RAYLET = "Ray's process on this machine (raylet)"
HEAD = "Ray's head on this machine (GCS)"
AGENT = "Ray's agent on this machine"


@contextlib.contextmanager
def to_be_started(workers: int | None) -> Iterator[dict[str, Any]]:
    """How to start it, as options of `ray.init`, which is called inside, and so is `ray.shutdown`. workers: the CPUs
    that it says to have; None is those of this machine."""

    def read_settings() -> None:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()

    clusters = ray_constants.ENABLE_RAY_CLUSTER
    with telemetry.of_our_ray() as folder:
        # Ray takes an address of the machine's in place of loopback, but for one that is to serve no cluster.
        ray_constants.ENABLE_RAY_CLUSTER = False
        read_settings()
        try:
            with _children(), _few_processes():
                yield {
                    "include_dashboard": False,
                    "num_cpus": workers,
                    "_node_ip_address": telemetry.LOOPBACK,
                    "_temp_dir": str(folder),
                }
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = clusters
    read_settings()


@contextlib.contextmanager
def _children() -> Iterator[None]:
    """Processes that Ray starts inside have groups of their own. What a terminal or a scheduler sends to ours then
    reaches us alone, and stacks are kept before Ray ends. At the end none is left: Ray forgets those of a node that did
    not start.

    Where the system does not end them with us, Ray's reaper does, which finds them in our group: there they stay.
    """
    grouped = bool(utils.detect_fate_sharing_support())
    start, get_node = services.ConsolePopen, services.get_node
    children: list[subprocess.Popen[bytes]] = []
    needed: list[subprocess.Popen[bytes]] = []

    def started(command: list[str], **settings: Any) -> subprocess.Popen[bytes]:
        child = start(command, **settings, process_group=0 if grouped else None)
        children.append(child)
        needed.extend([child] if command[0].endswith(("/raylet", "/gcs_server")) else [])
        return child

    def found(gcs_address: str, node_id: str) -> Any:
        """Ray asks for its node again and again, a second apart, for half a minute, however long its raylet has been
        dead. So it asks when there is an answer, or none to wait for."""
        known = state.GlobalState()
        known._initialize_global_state(services._get_gcs_client_options(gcs_address))
        end = time.monotonic() + REGISTERED_SECONDS
        while True:
            if grouped and any(map(_has_ended, needed)):
                raise ChildProcessError("a process of Ray's ended as it began")
            if time.monotonic() > end or any(node["NodeID"] == node_id for node in known.node_table()):
                return get_node(gcs_address, node_id)
            time.sleep(0.02)

    services.ConsolePopen, services.get_node = started, found  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        services.ConsolePopen, services.get_node = start, get_node  # type: ignore[misc]
        for child in reversed(children):  # the raylet ahead of the head, which it would miss
            _end(child, grouped=grouped)


def _has_ended(child: subprocess.Popen[bytes]) -> bool:
    """Leaves it to be waited for: until then nobody else has its number."""
    if child.returncode is not None:
        return True
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end(child: subprocess.Popen[bytes], *, grouped: bool) -> None:
    """At once, with all of its group, unless Ray has ended and waited for it."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL) if grouped else child.kill()
        child.wait()


@contextlib.contextmanager
def _few_processes() -> Iterator[None]:
    """Of Ray's processes those alone that trials need.

    Without a dashboard, Ray still starts its process, for reports of usage. It reports nothing where it is told so, and
    yet asks the address at which clouds describe a machine to itself, which leaves the machine. The other two look for
    machines to add, and for what workers say to us, which goes nowhere; each takes a third of a second to start.
    """
    unused = ("start_api_server", "start_monitor", "start_log_monitor")
    starts = {name: getattr(Node, name) for name in unused}
    for name in unused:
        setattr(Node, name, lambda *_words, **_settings: None)
    try:
        yield
    finally:
        for name, start in starts.items():
            setattr(Node, name, start)


def processes() -> list[lifeline.Process]:
    """Those without which nothing here goes on. The raylet ends with either of its agents, and its last act is to have
    Ray end us."""
    of_node = worker._global_node.all_processes  # type: ignore[union-attr]
    found = {kind: [started.process.pid for started in of_node.get(kind, ())] for kind in ("gcs_server", "raylet")}
    return [
        *(lifeline.Process(name=HEAD, pid=pid) for pid in found["gcs_server"]),
        *(lifeline.Process(name=RAYLET, pid=pid) for pid in found["raylet"]),
        *(lifeline.Process(name=AGENT, pid=pid) for raylet in found["raylet"] for pid in _agents(raylet)),
    ]


AGENTS = (b"ray::DashboardAgent", b"ray::RuntimeEnvAgent", b"dashboard/agent.py", b"runtime_env/agent/main.py")
"""What stands in their command lines, before they have written their title there and after."""


def _agents(raylet: int) -> list[int]:
    """Among its children, workers come and go."""
    found = []
    for children in Path(f"/proc/{raylet}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(pid) for pid in children.read_text().split() if _is_agent(pid)]
    return found


def _is_agent(pid: str) -> bool:
    with contextlib.suppress(OSError):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        # One that is about to be something else has the line of the raylet yet, which names its agents.
        return any(words in line for words in AGENTS) and not line.split(b"\0")[0].endswith(b"/raylet/raylet")
    return False
