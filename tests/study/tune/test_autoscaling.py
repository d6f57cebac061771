"""A cluster that grows: trials that wait are demands, which Ray's autoscaler answers with nodes, and none stays."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_ray import TINY, environment

SMALL = [*TINY[:-4], "--set", "lr=0.1,0.2", "--seeds", "0-5", "--set", "data.rows=2000", "--set", "batch=64"]
SMALL += ["--stack", "2", "--workers", "3"]

# The demands of a study on a node that fits one trial.
PENDING = """
import collections, sys, threading, time
import ray
ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
seen = []

def watch():
    while not done.is_set():
        states = collections.Counter(group["state"] for group in ray.util.placement_group_table().values())
        seen.append((states["PENDING"], states["CREATED"]))
        time.sleep(0.05)

done = threading.Event()
watcher = threading.Thread(target=watch)
watcher.start()
from study.cli.main import main
code = main(sys.argv[1:])
done.set()
watcher.join()
left = [group["state"] for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
print("MOST", max(pending for pending, _ in seen), max(created for _, created in seen), code, left)
"""


@pytest.mark.slow
def test_trials_that_do_not_fit_are_demands_until_the_study_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PENDING, "run", *SMALL, "--out", str(tmp_path / "out")],
        env=environment(tmp_path, STUDY_CACHE=str(tmp_path / "cache"), RAY_AUTH_MODE="disabled"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "asks for 3 trials at a time; 1 fit the cluster now" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "MOST 2 1 0 []", done.stdout + done.stderr


def _configuration(gcs: str) -> dict[str, object]:
    """A cluster of Ray's fake provider, which starts nodes on this machine: up to three, of one CPU each."""
    lists = "cluster_synced_files rsync_exclude rsync_filter initialization_commands setup_commands"
    lists += " head_setup_commands worker_setup_commands head_start_ray_commands worker_start_ray_commands"
    return {
        "cluster_name": "fake",
        "max_workers": 3,
        "idle_timeout_minutes": 0.3,
        "upscaling_speed": 10.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": gcs,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "cpu": {"resources": {"CPU": 1, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 3},
        },
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in lists.split()},
    }


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[str]:
    """The address of a head without CPUs, whose autoscaler starts nodes."""
    from ray.util import get_node_ip_address

    with contextlib.ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(7)]
        for one in free:
            one.bind(("", 0))
        ports = [one.getsockname()[1] for one in free]
    # The agents have fixed ports, for which Ray waits longer on a busy machine.
    names = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port"]
    names += ["dashboard-agent-grpc-port", "metrics-export-port", "runtime-env-agent-port"]
    address = f"{get_node_ip_address()}:{ports[0]}"
    (tmp_path / "fake.json").write_text(json.dumps(_configuration(address)))
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    command += ["--num-cpus=0", "--min-worker-port=20000", "--max-worker-port=20999", f"--temp-dir={folder}"]
    command += [f"--autoscaling-config={tmp_path / 'fake.json'}", "--object-store-memory=100000000"]
    settings = environment(tmp_path, RAY_FAKE_CLUSTER="1", AUTOSCALER_UPDATE_INTERVAL_S="1")
    with (tmp_path / "log").open("w") as log:
        head = subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while "Ray runtime started" not in (tmp_path / "log").read_text():
            assert head.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield address
    finally:
        head.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            head.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def status(address: str, home: Path) -> tuple[int, int]:
    """Return how many nodes with CPUs `ray status` shows, and how many demands."""
    command = [str(Path(sys.executable).with_name("ray")), "status", "--address", address]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, timeout=120, check=False)
    nodes = re.search(r"^ (\d+) cpu$", done.stdout, re.MULTILINE)
    demands = re.search(r"\(PACK\): (\d+)\+ pending placement groups", done.stdout)
    return int(nodes[1]) if nodes else 0, int(demands[1]) if demands else 0


@pytest.mark.long
def test_nodes_come_for_a_study_and_go_after_it(growing: str, tmp_path: Path) -> None:
    """A token of the user's, for other clusters, does no harm at one without tokens."""
    until = time.monotonic() + 300
    seen = [(0, 0)]
    with (tmp_path / "study.log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "study", "run", *SMALL, "--out", str(tmp_path / "out"), "--address", growing],
            env=environment(tmp_path, STUDY_CACHE=str(tmp_path / "cache"), RAY_AUTH_TOKEN="b" * 64),
            stdout=log,
            stderr=log,
        )
        try:
            while (child.poll() is None or max(seen)[0] < 3) and time.monotonic() < until:
                seen.append(status(growing, tmp_path))
        finally:
            child.kill()
    printed = (tmp_path / "study.log").read_text()
    assert child.wait() == 0, printed
    assert "asks for 3 trials at a time; 0 fit the cluster now" in printed
    assert "failed" not in printed
    assert (max(seen)[0], max(demands for _, demands in seen)) == (3, 3)
    while status(growing, tmp_path) != (0, 0):
        assert time.monotonic() < until
