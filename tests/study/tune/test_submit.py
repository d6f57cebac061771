"""`study submit` to a job server on loopback, as at the near end of a tunnel."""

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from local_ray import TINY, environment

from study.tune import submit as submitting
from study.tune.cluster import ClusterError


class JobServer(http.server.ThreadingHTTPServer):
    """The requests of Ray's job client, and the jobs that it was given."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.jobs: list[dict[str, Any]] = []
        self.too_large = False
        self.version: object = {"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}
        self.requests = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class Answers(http.server.BaseHTTPRequestHandler):
    server: JobServer

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path == "/api/version":
            self.answer(200, self.server.version)
        else:
            self.answer(404 if self.server.too_large else 200, {})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(413, "Maximum request body size 104857600 exceeded, actual body size 110100480")

    def do_POST(self) -> None:
        self.server.jobs.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer(200, {"job_id": "one", "submission_id": "one"})

    def answer(self, code: int, text: object) -> None:
        body = text if isinstance(text, str) else json.dumps(text)
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[JobServer]:
    with JobServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def submit(home: Path, *words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "study", "submit", *TINY, "--out", str(home / "out"), "--no-wait"]
    return subprocess.run(
        [*command, *map(str, words)],
        cwd=home,
        env=environment(home, **settings),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("words", "python"), [([], "python"), (["--python", "/opt/ray/bin/python3"], None)])
def test_the_job_runs_the_python_of_the_cluster(
    server: JobServer, tmp_path: Path, words: list[str], python: str | None
) -> None:
    done = submit(tmp_path, "--address", f"http://{server.address}", *words)
    assert done.returncode == 0, done.stderr
    (job,) = server.jobs
    assert re.fullmatch(r"quick-[0-9a-f]{8}", job["submission_id"]), "the job carries the study's name"
    assert job["entrypoint"].startswith(f"{python or words[1]} -P -m study run quick ")
    assert sys.executable not in job["entrypoint"]
    # Where the folder is, the cluster is on this machine; elsewhere the shell goes on to the cluster's own.
    assert job["runtime_env"]["env_vars"]["PATH"] == f"{Path(sys.prefix) / 'bin'}:${{PATH}}"


@pytest.mark.parametrize("name", ["RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"])
def test_the_environment_names_the_job_server(server: JobServer, tmp_path: Path, name: str) -> None:
    done = submit(tmp_path, **{name: f"http://{server.address}"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"job one submitted to http://{server.address}\n"
    assert len(server.jobs) == 1


def test_the_environment_counts_before_the_option_and_a_warning_says_so(server: JobServer, tmp_path: Path) -> None:
    named = f"http://{server.address}"
    done = submit(tmp_path, "--address", "http://127.0.0.1:1", RAY_API_SERVER_ADDRESS=named, RAY_ADDRESS="10.0.0.1:1")
    assert f"the environment names {named}, which counts before --address" in done.stderr
    assert done.stdout == f"job one submitted to {named}\n", done.stderr


def test_a_working_directory_that_is_too_large_is_named(server: JobServer, tmp_path: Path) -> None:
    server.too_large = True
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model.py").write_text("")
    done = submit(tmp_path, "--address", f"http://{server.address}", "--working-dir", folder)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert f"{folder} has more than it accepts: list what the job does not need in .rayignore" in last
    assert "Maximum request body size 104857600 exceeded" in last
    assert server.jobs == []


@pytest.mark.parametrize("place", [".rayignore", "a/b/.gitignore", "json.py", "linked/x", "endless"])
def test_a_pipe_or_device_in_the_working_directory_is_named_before_anything_is_sent(
    server: JobServer, tmp_path: Path, place: str
) -> None:
    folder, elsewhere = tmp_path / "mine", tmp_path / "elsewhere"
    (folder / "a" / "b").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    (folder / "a" / "up").symlink_to(folder)
    if place == "endless":
        (folder / place).symlink_to("/dev/zero")
    else:
        os.mkfifo(folder / place)
    with pytest.raises(ClusterError, match=rf"/{place} is a pipe or a device, which has no end"):
        submitting.submit(f"http://{server.address}", ["x"], study="s", working_dir=folder, wait=False)
    assert server.requests == 0


@pytest.mark.parametrize("name", ["nowhere", "model.py"])
def test_a_working_directory_that_is_no_folder_is_named_before_anything_is_sent(
    server: JobServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / "model.py").write_text("")
    with pytest.raises(ClusterError, match=rf"^--working-dir {tmp_path}/{name} is no folder$"):
        submitting.submit(f"http://{server.address}", ["x"], study="s", working_dir=tmp_path / name, wait=False)
    assert server.requests == 0


def test_sockets_and_links_without_content_in_the_working_directory_are_fine(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(tmp_path / "s"))
        (tmp_path / "gone").symlink_to("nowhere")
        (tmp_path / "masked").symlink_to("/dev/null")
        submitting._refuse_pipes(tmp_path)


def test_an_answer_of_another_server_is_one_line(server: JobServer, tmp_path: Path) -> None:
    server.version = [1, 2]
    done = submit(tmp_path, "--address", f"http://{server.address}")
    assert done.returncode == 2
    assert "does not answer as a Ray job server" in done.stderr.splitlines()[-1]
    assert "unexpected" not in done.stderr


def test_a_python_that_the_cluster_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    async def no_log(_job: str) -> Any:
        for line in ():
            yield line

    status = type("Status", (str,), {"is_terminal": lambda self: True})("FAILED")
    info = SimpleNamespace(status=status, driver_exit_code=127)
    client = SimpleNamespace(tail_job_logs=no_log, get_job_info=lambda _job: info, get_address=lambda: "http://x:1")
    with pytest.warns(UserWarning, match="the cluster has no such Python; name it by --python"):
        assert submitting._follow(client, "one") == 127


def client_that(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Any:
    """Return a client whose job runs on while its log ends with an error."""
    from types import SimpleNamespace

    async def cut(_job: str) -> Any:
        yield "trains\n"
        raise error

    return SimpleNamespace(tail_job_logs=cut, get_address=lambda: "http://127.0.0.1:8265")


TO = "--address http://127.0.0.1:8265"
HOW = f"the job goes on; `ray job logs {TO} --follow one` shows it, and `ray job stop {TO} one` stops it"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("WebSocket connection closed unexpectedly with close code 1006"),
        aiohttp.ClientConnectionError("Cannot connect to host 127.0.0.1:8265"),
        requests.ConnectionError("Connection refused"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_tunnel_that_ends_is_one_line_that_says_that_the_job_goes_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with pytest.raises(ClusterError) as raised:
        submitting._follow(client_that(monkeypatch, error), "one")
    assert str(raised.value).startswith("the job server at http://127.0.0.1:8265 is gone (")
    assert str(raised.value).endswith(f"); if Ray lives, {HOW}")
    assert getattr(raised.value, "exit_code", 2) == 1


def test_ctrl_c_says_that_the_job_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt) as raised:
        submitting._follow(client_that(monkeypatch, KeyboardInterrupt()), "one")
    assert str(raised.value) == HOW


OTHER = """
import sys
from study.tune import cluster, environment
environment.prepare(sys.argv[1])
cluster.refuse_dead_address = lambda address, shown=None: None
import ray
def init(**_):
    raise RuntimeError(
        "Version mismatch: The cluster was started with:\\n    Ray: 2.59.1\\n    Python: 3.11.2\\n"
        "This process on 10.0.0.9 was started with:\\n    Ray: 2.60.0\\n    Python: 3.11.4\\n"
    )
ray.init = init
with cluster.connected(sys.argv[1], workers=1, gpu_fraction=1.0):
    pass
"""
"""The text of `ray._private.utils.check_version_info`."""


def test_a_cluster_of_another_version_is_named_with_both(tmp_path: Path) -> None:
    command = [sys.executable, "-c", OTHER, "10.0.0.1:6379"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1].endswith(
        "ClusterError: 10.0.0.1:6379 has another version: The cluster was started with: Ray: 2.59.1 Python: 3.11.2 "
        "This process on 10.0.0.9 was started with: Ray: 2.60.0 Python: 3.11.4"
    )
