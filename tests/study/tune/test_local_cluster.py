"""A local Ray: who can reach it, what it leaves behind, and what happens if it does not start or is stopped early."""

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults import is_kind
from local_ray import TINY, environment
from processes import command, kill_tree, tree, wait_until
from ray_ports import METHODS, REFUSALS, grpc_answer

from study.tune import local_cluster

CONNECT = """
import json, os, sys
from study.tune import cluster
with cluster.connected(None, workers=1, gpu_fraction=1.0):
    import ray, psutil
    ray.get(ray.remote(lambda: 0).remote())  # a worker, whose ports count too
    me = psutil.Process()
    processes = [
        {"name": p.name(), "words": p.cmdline(), "environment": p.environ(),
         "ports": [tuple(c.laddr) for c in p.net_connections() if c.status == "LISTEN"]}
        for p in [me, *me.children(recursive=True)]
    ]
    found = {"processes": processes, "folder": os.environ["RAY_TMPDIR"], "token": os.environ["RAY_AUTH_TOKEN"]}
    found["watched"] = [server.port for server in cluster._servers(local=True)]
    print(json.dumps(found), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A Ray as `study run` starts it, for a user who has a token and has turned tokens off."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("the-user's-own")
    pipe = subprocess.PIPE
    settings = environment(home, RAY_AUTH_MODE="disabled")
    with subprocess.Popen([sys.executable, "-c", CONNECT], env=settings, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdin
        assert child.stdout
        found = json.loads(child.stdout.readline())
        yield found
        child.stdin.close()
        assert child.wait(60) == 0
    assert (home / ".ray" / "auth_token").read_text() == "the-user's-own"
    assert not Path(found["folder"]).exists()


@pytest.mark.slow
def test_a_local_ray_listens_on_loopback_alone(local_ray: dict[str, Any]) -> None:
    ports = {(p["name"], ip) for p in local_ray["processes"] for ip, _ in p["ports"]}
    assert {"gcs_server", "raylet"} <= {name for name, _ in ports}
    assert {port for port in ports if not ipaddress.ip_address(port[1].removeprefix("::ffff:")).is_loopback} == set()


@pytest.mark.slow
def test_a_local_ray_refuses_a_client_without_its_token(local_ray: dict[str, Any]) -> None:
    ports = {f"127.0.0.1:{port}" for p in local_ray["processes"] for _, port in p["ports"]}
    answers = {(port, method): grpc_answer(port, method) for port in ports for method in METHODS}
    assert {asked: said for asked, said in answers.items() if said not in REFUSALS} == {}
    assert {method for (_, method), said in answers.items() if said == "UNAUTHENTICATED"} >= set(METHODS[:6])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("gcs", 1), ("raylet", 1), ("agent", 2)])
def test_the_driver_watches_each_process_that_ray_needs(local_ray: dict[str, Any], kind: str, count: int) -> None:
    ports = [{port for _, port in p["ports"]} for p in local_ray["processes"] if is_kind(kind, " ".join(p["words"]))]
    assert len(ports) == count
    assert all(one & set(local_ray["watched"]) for one in ports)


@pytest.mark.slow
def test_no_command_line_and_no_file_shows_the_token_of_a_local_ray(local_ray: dict[str, Any]) -> None:
    token, folder = local_ray["token"], Path(local_ray["folder"])
    assert len(token) == 64
    assert not [p["name"] for p in local_ray["processes"] if token in " ".join(p["words"])]
    assert (folder.stat().st_mode & 0o777) == 0o700
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    assert [path for path in files if token.encode() in path.read_bytes()] == []


@pytest.mark.slow
def test_a_local_ray_reports_no_usage(local_ray: dict[str, Any]) -> None:
    """A process that has written its title over its environment shows none."""
    usage = {p["name"]: p["environment"].get("RAY_USAGE_STATS_ENABLED") for p in local_ray["processes"]}
    assert usage["gcs_server"] == usage["raylet"] == "0"
    assert set(usage.values()) <= {"0", None}


FAILS_FIRST = """
import sys, time
from study.tune import cluster, environment
environment.prepare("local")
import ray
failures, seconds = map(int, sys.argv[1:])
init, calls, clock, passed = ray.init, [], time.monotonic, [0]
time.monotonic = lambda: clock() + sum(passed)
def fails(**options):
    calls.append(options)
    if len(calls) <= failures:
        passed.append(seconds)
        raise RuntimeError("its agent was too slow")
    return init(**options)
ray.init = fails
with cluster.connected(None, workers=1, gpu_fraction=1.0) as found:
    print(found.workers, len(calls))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failures", "seconds", "starts"), [(1, 0, True), (2, 0, False), (3, 40, True), (5, 40, False)]
)
def test_a_local_ray_that_does_not_start_is_started_again(
    tmp_path: Path, failures: int, seconds: int, starts: bool
) -> None:
    """Once more, or four times if it was too slow: the machine may be busy, or Ray has no bytecode yet."""
    command = [sys.executable, "-c", FAILS_FIRST, str(failures), str(seconds)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=240)
    said = done.stdout.splitlines()
    if starts:
        assert (said.pop(), done.returncode) == (f"1 {failures + 1}", 0), done.stderr
    else:
        last = done.stderr.splitlines()[-1]
        assert re.search(r"ClusterError: Ray does not start, with a load of \d+ on \d+ cores \(its agent was ", last)
    assert len(said) == (failures - (not starts) if seconds else 0)
    assert all("Ray was not up after 40 s, with a load of " in line for line in said)


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda what: what.name)
def test_a_stop_while_ray_starts_leaves_nothing(tmp_path: Path, what: signal.Signals) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "study", "run", *TINY, "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env=environment(tmp_path, STUDY_CACHE=str(tmp_path / "cache")),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen: set[int] = set()

    def raylet() -> bool:
        seen.update(tree(child.pid))
        assert child.poll() is None
        return any(is_kind("raylet", command(pid)) for pid in seen)

    try:
        wait_until(raylet, "the raylet begins")
        child.send_signal(what)
        printed, _ = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            kill_tree(child.pid)
    assert child.returncode == (-signal.SIGKILL if what == signal.SIGKILL else 130)
    if what != signal.SIGKILL:
        assert "the same command starts again" in printed.splitlines()[-1]
    assert not (tmp_path / "out").exists(), "the study has not begun"
    wait_until(lambda: not any(map(command, seen)), "all that it had started has ended", seconds=20)


@pytest.mark.parametrize("parent", ["/tmp/longer-than-ray-can-take", "/tmp/ü", "/tmp/a b%2F"])
def test_the_folder_of_ray_is_private_short_and_removed(parent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of a Unix socket has 107 bytes at most, and Ray writes it in ASCII."""
    monkeypatch.setattr(tempfile, "tempdir", parent)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with local_cluster.temp_folder() as folder:
        assert os.environ["RAY_TMPDIR"] == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) <= 24 + 19
        assert str(folder).isascii()
    assert "RAY_TMPDIR" not in os.environ
    assert not folder.exists()
