"""A cluster with a token: refused in one line without it, and a study that trains with it."""

import contextlib
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
from types import SimpleNamespace
from typing import Any

import pytest
from local_ray import TINY, environment
from paths import ROOT

from study.tune import cluster as ray_cluster

SMALL = [*TINY, "--set", "data.rows=2000", "--set", "batch=64", "--workers", "1"]


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_nothing_listens_is_refused_at_once(address: str) -> None:
    with pytest.raises(ray_cluster.ClusterError, match=r"127\.0\.0\.1:1"):
        ray_cluster.refuse_dead_address(address)
    ray_cluster.refuse_dead_address("auto")


def test_the_message_names_the_variable_that_the_address_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr(ray_cluster.environment, "prepare", lambda address: address or os.environ["RAY_ADDRESS"])
    for address, message in ((None, "127.0.0.1:1, which RAY_ADDRESS names ("), ("127.0.0.1:1", "127.0.0.1:1 (")):
        with (
            pytest.raises(ray_cluster.ClusterError, match="no Ray at ") as error,
            ray_cluster.connected(address, workers=1, gpu_fraction=0),
        ):
            pass
        assert message in str(error.value)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:1", "http://127.0.0.1:1", "alpha"])
def test_an_address_of_another_kind_is_refused_from_python_too(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setattr(ray_cluster.environment, "prepare", lambda address: pytest.fail("it is contacted"))
    with (
        pytest.raises(ValueError, match=f"^{address} is "),
        ray_cluster.connected(address, workers=1, gpu_fraction=0),
    ):
        pass


@pytest.mark.parametrize(
    ("address", "said"), [(ray_cluster.LOCAL, "Ray starts\n"), ("10.0.0.1:6379", "connects to Ray at 10.0.0.1:6379\n")]
)
def test_that_ray_starts_is_said_before_it_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], address: str, said: str
) -> None:
    seen = []

    def init(*_: object) -> None:
        seen.append(capsys.readouterr().err)
        raise ray_cluster.ClusterError("it does not start")

    monkeypatch.setattr(ray_cluster.environment, "prepare", lambda _: address)
    monkeypatch.setattr(ray_cluster, "refuse_dead_address", lambda *_: None)
    monkeypatch.setattr(ray_cluster, "_init", init)
    with (
        pytest.raises(ray_cluster.ClusterError, match="it does not start"),
        ray_cluster.connected(address, workers=1, gpu_fraction=0),
    ):
        pass
    assert seen == [said]


@pytest.mark.parametrize(
    ("grows", "allowed", "wanted"),
    [(True, 8, 8), (True, 1, 1), (True, 99_999_999, 1002), (True, None, 2), (False, 8, 2)],
)
def test_trials_are_asked_for_where_nodes_may_come(
    monkeypatch: pytest.MonkeyPatch, grows: bool, allowed: int | None, wanted: int
) -> None:
    monkeypatch.setattr(ray_cluster.Cluster, "nodes", lambda self: [{"Resources": {"CPU": 2.0}}])
    assert ray_cluster.Cluster(workers=1, max_workers=allowed, grows=grows).wanted_workers() == wanted


@pytest.mark.parametrize(
    ("available", "what"),
    [
        ({"CPU": 0.5, "slot": 3.0}, "CPUs"),
        ({"CPU": 4.0, "slot": 0.5}, "slot"),
        ({}, "CPUs, slot"),
        ({"CPU": 4.0, "slot": 3.0}, "CPUs, slot"),  # on several nodes, none of which has both
    ],
)
def test_what_others_use_is_named(monkeypatch: pytest.MonkeyPatch, available: dict[str, float], what: str) -> None:
    import ray

    monkeypatch.setattr(ray, "available_resources", lambda: available)
    assert ray_cluster.Cluster(workers=1, resources={"slot": 1.0}).busy() == what


def test_ray_shows_the_name_of_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    import ray

    from study.tune import coordinator, trainable

    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", asked.update)
    monkeypatch.setattr(ray_cluster, "refuse_dead_address", lambda *_arguments: None)
    monkeypatch.setattr(ray_cluster.liveness, "exit_if_dead", lambda *_arguments: contextlib.nullcontext())
    monkeypatch.setattr(ray_cluster, "_servers", lambda **_options: [])
    monkeypatch.setattr(ray_cluster, "_cluster", lambda *_arguments: None)
    monkeypatch.setattr(ray_cluster.environment, "prepare", lambda address: address)
    with ray_cluster.connected("10.0.0.1:6379", workers=1, gpu_fraction=0, study="mine"):
        assert asked["job_config"].metadata == {"job_name": "study mine"}
    assert repr(coordinator.Coordinator("mine")) == "study mine: coordinator"
    context: Any = SimpleNamespace(study="mine")
    assert trainable.make(context, ray_cluster.Cluster(workers=1)).__name__ == "study mine"


@pytest.mark.parametrize("own", [None, "0"])
def test_breakpoint_stays_as_it_was(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    """Ray sets the variable to its own debugger."""
    import ray

    monkeypatch.setenv("PYTHONBREAKPOINT", own or "")
    if own is None:
        monkeypatch.delenv("PYTHONBREAKPOINT")
    monkeypatch.setattr(ray, "init", lambda **_options: os.environ.update(PYTHONBREAKPOINT="ray.util.rpdb"))
    ray_cluster._init("10.0.0.1:6379", "10.0.0.1:6379", None, "", "mine")
    assert os.environ.get("PYTHONBREAKPOINT") == own


def test_the_next_study_of_a_family_connects_although_the_current_folder_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    here, seen = tmp_path / "here", []
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    monkeypatch.setattr(ray, "init", lambda **_options: seen.append(os.getcwd()))
    ray_cluster._init("10.0.0.1:6379", "10.0.0.1:6379", None, "", "mine")
    assert seen == [str(ROOT)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A user's cluster with a token, as `ray start --head` makes it; its addresses, and where its token lies."""
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
    settings = environment(home, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(home / "token"))
    with (home / "log").open("w") as log:
        head = subprocess.Popen(command, env=settings, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 90
        while "Ray runtime started" not in (home / "log").read_text():
            assert head.poll() is None, (home / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.5)
        yield {"run": f"127.0.0.1:{gcs}", "submit": f"http://127.0.0.1:{dashboard}", "token": str(home / "token")}
    finally:
        head.terminate()
        try:
            head.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def study(*words: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study", *words],
        cwd=ROOT,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["run", "submit"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"RAY_AUTH_TOKEN": "b" * 64}, {"RAY_AUTH_TOKEN_PATH": "/nowhere"}],
    ids=["none", "wrong", "no file"],
)
def test_a_cluster_that_refuses_the_token_ends_with_one_line(
    cluster: dict[str, str], tmp_path: Path, command: str, settings: dict[str, str]
) -> None:
    out = tmp_path / "out"
    done = study(command, *SMALL, "--out", str(out), "--address", cluster[command], home=tmp_path, **settings)
    assert done.returncode == 2, done.stderr
    assert "token into ~/.ray/auth_token" in done.stderr.splitlines()[-1]
    assert "b" * 64 not in done.stderr
    assert not out.exists()


@pytest.mark.slow
def test_a_submitted_study_trains_on_a_cluster_with_a_token(cluster: dict[str, str], tmp_path: Path) -> None:
    """The job's driver calls `ray.init` itself."""
    out = tmp_path / "out"
    settings = {"RAY_AUTH_TOKEN_PATH": cluster["token"], "STUDY_CACHE": str(tmp_path / "cache")}
    done = study("submit", *SMALL, "--out", str(out), "--address", cluster["submit"], home=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (out / "report.html").is_file()
    assert "\njob quick-" in f"\n{done.stdout}", "the job carries the study's name"
    ray = [str(Path(sys.executable).with_name("ray")), "list", "actors", "--detail", "--format=json"]
    told = environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=cluster["token"])
    words = [*ray, "--address", cluster["submit"]]
    listed = subprocess.run(words, env=told, capture_output=True, text=True, timeout=60, check=True)
    assert {"study quick", "study quick: coordinator"} <= {actor["repr_name"] for actor in json.loads(listed.stdout)}
