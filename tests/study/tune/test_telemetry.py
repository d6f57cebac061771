"""Nothing of ours is open to strangers, and nothing is reported: looked at from outside, at the processes' sockets."""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from local_ray import TINY, environment
from paths import ROOT

from study import telemetry

OWN_RAY = """
import json, os, sys, ray, psutil
from study import tune
with tune.connected(None, workers=1, gpu_fraction=1.0):
    ray.get(ray.remote(lambda: 0).remote())  # a worker, whose ports are looked at too
    me = psutil.Process()
    found = [
        {"pid": p.pid, "name": p.name(), "words": p.cmdline(), "environment": p.environ(),
         "ports": [[c.laddr.ip, c.laddr.port] for c in p.net_connections() if c.status == "LISTEN"]}
        for p in [me, *me.children(recursive=True)]
    ]
    folder = ray._private.worker._global_node.get_session_dir_path()
    print(json.dumps({"processes": found, "folder": folder}), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def own_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A Ray as `study run` starts it: its processes, their words and settings, the ports on which they listen."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("the-user's-own")
    with subprocess.Popen(
        [sys.executable, "-c", OWN_RAY],
        env=environment(home, RAY_AUTH_MODE="disabled"),  # left in the environment of whoever tried
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        found = json.loads(child.stdout.readline())
        found["token"] = found["processes"][0]["environment"].get(telemetry.TOKEN) or next(
            p["environment"][telemetry.TOKEN] for p in found["processes"] if telemetry.TOKEN in p["environment"]
        )
        yield found | {"home": home}
        child.stdin.close()
        assert child.wait(60) == 0
    assert (home / ".ray" / "auth_token").read_text() == "the-user's-own"
    assert not Path(found["folder"]).exists()


def listening(own_ray: dict[str, Any]) -> list[tuple[str, str, int]]:
    return [(p["name"], ip, port) for p in own_ray["processes"] for ip, port in p["ports"]]


@pytest.mark.slow
def test_a_ray_of_our_own_listens_on_loopback_alone(own_ray: dict[str, Any]) -> None:
    ports = listening(own_ray)
    assert {"gcs_server", "raylet"} <= {name for name, _, _ in ports}
    open_to_all = [
        (name, ip, port) for name, ip, port in ports if not ipaddress.ip_address(ip.removeprefix("::ffff:")).is_loopback
    ]
    assert open_to_all == []


@pytest.mark.slow
def test_nobody_else_learns_its_token(own_ray: dict[str, Any]) -> None:
    token, folder = own_ray["token"], Path(own_ray["folder"])
    assert len(token) == 64
    assert not [p["name"] for p in own_ray["processes"] if token in " ".join(p["words"])]
    assert (folder.parent.parent.stat().st_mode & 0o777) == 0o700
    written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert written
    assert [path for path in written if token.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_ray_is_told_to_report_nothing(own_ray: dict[str, Any]) -> None:
    """Those that have not written their title over what the system shows of their environment."""
    told = {p["name"]: p["environment"].get("RAY_USAGE_STATS_ENABLED") for p in own_ray["processes"]}
    assert told["gcs_server"] == told["raylet"] == "0"
    assert set(told.values()) <= {"0", None}


TINY += ["--set", "data.rows=2000", "--set", "batch=64", "--workers", "1"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster of somebody's with a token, as `ray start --head` makes it; its addresses, and where its token lies."""
    home = tmp_path_factory.mktemp("cluster")
    (home / "token").write_text("a" * 64)
    with contextlib.ExitStack() as sockets:
        free = [sockets.enter_context(socket.socket()) for _ in range(5)]
        for one in free:
            one.bind(("", 0))
        gcs, dashboard, agent, agent_grpc, client = (one.getsockname()[1] for one in free)
    folder = tempfile.mkdtemp(prefix="r-", dir="/tmp")
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--dashboard-agent-grpc-port={agent_grpc}", f"--ray-client-server-port={client}", "--num-cpus=2"]
    command += ["--min-worker-port=20000", "--max-worker-port=20999", f"--temp-dir={folder}"]
    told = environment(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(home / "token"))
    with (home / "log").open("w") as log:
        head = subprocess.Popen(command, env=told, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while "Ray runtime started" not in (home / "log").read_text():
            assert head.poll() is None, (home / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield {
            "gcs": f"127.0.0.1:{gcs}",
            "jobs": f"http://127.0.0.1:{dashboard}",
            "token": str(home / "token"),
            "home": str(home),
        }
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def study(*words: str, home: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study", *words],
        cwd=ROOT,
        env=environment(Path(home), **settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("ours", ["none", "wrong", "a file that is none"])
@pytest.mark.parametrize("command", ["run", "submit"])
def test_a_cluster_that_refuses_our_token_is_one_line(
    cluster: dict[str, str], tmp_path: Path, command: str, ours: str
) -> None:
    settings = {"none": {}, "wrong": {"RAY_AUTH_TOKEN": "b" * 64}}.get(ours, {"RAY_AUTH_TOKEN_PATH": "/nowhere"})
    address, out = cluster["gcs" if command == "run" else "jobs"], tmp_path / "out"
    done = study(command, *TINY, "--out", str(out), "--address", address, home=str(tmp_path), **settings)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "asks for a token, and ours is missing or wrong" in done.stderr
    assert "b" * 64 not in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_study_trains_on_a_cluster_with_a_token(cluster: dict[str, str], tmp_path: Path) -> None:
    """Submitted as a job, whose driver joins the cluster with `ray.init` itself."""
    out = tmp_path / "out"
    told = {"RAY_AUTH_TOKEN_PATH": cluster["token"], "STUDY_CACHE": str(tmp_path / "cache")}
    done = study("submit", *TINY, "--out", str(out), "--address", cluster["jobs"], home=str(tmp_path), **told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "report.html").is_file()
