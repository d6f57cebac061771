"""A Ray of our own that does not start is tried once more, leaves nothing behind, and lets us be stopped meanwhile."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import _is, command, kill_tree, send, tree, wait_until
from local_ray import TINY, environment

from study.tune import local_cluster, runner

STARTS = """
import json, os, signal, sys, time
from study import own_ray, tune
from ray._private import services

get_node, popen, children, failed = services.get_node, services.ConsolePopen, [], []

class Popen(popen):
    def __init__(self, *words, **settings):
        super().__init__(*words, **settings)
        children.append(self)

def fails(*words):
    if how == "always":
        raise RuntimeWarning("it is not to be")
    if failed:
        return get_node(*words)
    failed.append(True)
    raylet = next(child for child in children if child.args[0].endswith("/raylet"))
    os.kill(raylet.pid, signal.SIGKILL)
    while not own_ray._has_ended(raylet):
        time.sleep(0.01)
    raise RuntimeError("there is no such node yet: Ray asks again")

def first(n):
    return [child.returncode is not None for child in children[:n]]

services.ConsolePopen = Popen
for how in ("always", "once"):
    services.get_node, children[:] = fails, []
    began = time.monotonic()
    try:
        with tune.connected(None, workers=1, gpu_fraction=1.0) as cluster:
            half = len(children) // 2
            told = {"workers": cluster.workers, "first": first(half), "now": [c.poll() for c in children[half:]]}
    except tune.ClusterError as error:
        told = {"error": str(error)}
    told |= {"seconds": time.monotonic() - began}
    tune._wait_for_the_last_one(60)
    assert services.ConsolePopen is Popen
    print(json.dumps(told | {"how": how, "ended": first(None)}), flush=True)
print(json.dumps([var for var in os.environ if var == "RAY_AUTH_TOKEN"]), flush=True)
"""


@pytest.mark.slow
def test_a_ray_that_does_not_start_is_tried_once_more_and_leaves_nothing(tmp_path: Path) -> None:
    """Its raylet dies, as it does where its agent takes too long; then it does not start at all."""
    done = subprocess.run(
        [sys.executable, "-c", STARTS],
        env=environment(tmp_path, TMPDIR="/tmp"),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    always, once, token = map(json.loads, done.stdout.splitlines())
    assert always["error"] == "no Ray at local, twice (it is not to be)"
    assert len(always["ended"]) >= 4
    assert all(always["ended"])
    assert once["workers"] == 1
    assert once["first"] == [True] * len(once["first"])
    assert once["now"] == [None] * len(once["first"])
    assert all(once["ended"])
    assert once["seconds"] < 30, "nobody asked a dead process for its node until Ray's half minute was over"
    assert token == []


@pytest.mark.slow
@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda what: what.name)
def test_a_stop_while_ray_starts_has_a_last_line_and_leaves_nothing(tmp_path: Path, what: signal.Signals) -> None:
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
        return any(_is("raylet", command(pid)) for pid in seen)

    try:
        wait_until(raylet, "the raylet begins")
        child.send_signal(what)
        printed, _ = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            kill_tree(child.pid)
    assert child.returncode == (-signal.SIGKILL if what == signal.SIGKILL else 130)
    why = "its process was ended from outside" if what == signal.SIGKILL else "stopped"
    assert printed.strip() == f"study: {why}; what was recorded stays, and the same command goes on"
    assert not (tmp_path / "out").exists(), "there is nothing yet that `study resume` could go on with"
    wait_until(lambda: not any(map(command, seen)), "all that it had started has ended", seconds=10)


def test_what_ray_says_of_sigterm_is_not_heard() -> None:
    from ray._private import utils

    theirs, before = utils.set_sigterm_handler, signal.getsignal(signal.SIGTERM)
    with runner._own_signals():
        utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is before
    assert utils.set_sigterm_handler is theirs


@pytest.mark.parametrize("with_us", [True, False])
def test_children_have_groups_of_their_own_only_where_the_system_ends_them_with_us(
    monkeypatch: pytest.MonkeyPatch, with_us: bool
) -> None:
    """Elsewhere Ray's reaper ends our group when we have died. Either way they have ended after us."""
    from ray._private import services, utils

    monkeypatch.setattr(utils, "detect_fate_sharing_support", lambda: with_us)
    with local_cluster._children():
        child = services.ConsolePopen(["/bin/sh", "-c", "sleep 1000 & wait"])
        wait_until(lambda: len(tree(child.pid)) == 2, "it has a child")
        both = tree(child.pid)
        assert {os.getpgid(pid) for pid in both} == {child.pid if with_us else os.getpgrp()}
    assert child.returncode == -signal.SIGKILL
    if not with_us:
        for pid in both:
            send(pid, signal.SIGKILL)
    wait_until(lambda: not any(map(command, both)), "the grandchild has ended too", seconds=10)


@contextlib.contextmanager
def child(*words: str) -> Iterator[int]:
    """A process with such a command line, which does nothing."""
    idle = "import sys; print(flush=True); sys.stdin.readline()"
    executable, first = (sys.executable, words[0])
    with subprocess.Popen(
        [first, "-c", idle, *words[1:]], executable=executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        assert started.stdout
        started.stdout.readline()
        try:
            yield started.pid
        finally:
            started.communicate()


def test_what_is_watched_of_a_raylets_children_is_its_agents() -> None:
    """And neither its workers, which are told the agents' ports, nor what is about to be one of either."""
    agents = [
        ("python", "-u", "/ray/dashboard/agent.py", "--node-ip-address=127.0.0.1"),
        ("python", "-u", "/ray/_private/runtime_env/agent/main.py"),
        ("ray::DashboardAgent",),
        ("ray::RuntimeEnvAgent",),
    ]
    others = [
        ("python", "/ray/_private/workers/default_worker.py", "--metrics-agent-port=1", "--runtime-env-agent-port=2"),
        ("/ray/core/src/ray/raylet/raylet", "--dashboard_agent_command=python /ray/dashboard/agent.py"),
        ("ray::IDLE",),
    ]
    with contextlib.ExitStack() as started:
        wanted = [started.enter_context(child(*words)) for words in agents]
        for words in others:
            started.enter_context(child(*words))
        assert sorted(local_cluster._agents(os.getpid())) == sorted(wanted)


def test_a_child_that_has_just_ended_hides_no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    read = Path.read_text
    with child("ray::DashboardAgent") as agent:
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda path, *words: f"{gone.pid} {agent}" if path.name == "children" else read(path, *words),
        )
        assert agent in local_cluster._agents(os.getpid())


def test_whether_a_child_has_ended_is_seen_without_waiting_for_it() -> None:
    ended = subprocess.Popen(["true"])
    deadline = time.monotonic() + 30
    while not local_cluster._has_ended(ended):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert ended.returncode is None
    assert ended.wait() == 0
    assert local_cluster._has_ended(ended)
