"""The driver exits with one line once Ray is dead, and goes on while Ray is slow or comes back."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from paths import ROOT

from study.tune import liveness

DRIVER = """
import sys
from study.tune import liveness
liveness.CHECK_SECONDS = float(sys.argv[1])
servers = [
    liveness.Server(name=f"server {i}", host="127.0.0.1", port=int(port), seconds=float(seconds))
    for i, (port, seconds) in enumerate(word.split(":") for word in sys.argv[2:])
]
with liveness.exit_if_dead(servers, "`study resume out` trains the rest"):
    print("started", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
"""


def listening(port: int = 0) -> socket.socket:
    return socket.create_server(("127.0.0.1", port))


def start(
    *servers: tuple[socket.socket, float], check_seconds: float = liveness.CHECK_SECONDS
) -> subprocess.Popen[str]:
    words = [str(check_seconds), *(f"{server.getsockname()[1]}:{seconds}" for server, seconds in servers)]
    pipe = subprocess.PIPE
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )
    assert child.stdout
    assert child.stdout.readline() == "started\n"
    return child


def test_a_dead_server_ends_the_process_with_a_line_that_names_it() -> None:
    with listening() as one, listening() as other:
        child = start((one, 0), (other, 0))
        other.close()
        assert child.wait(timeout=30) == liveness.EXIT_STATUS
        printed, errors = child.communicate()
    assert printed == ""
    assert errors.count("\n") == 1
    assert "server 1 has ended" in errors
    assert "`study resume out`" in errors


def test_a_death_is_seen_before_the_next_check() -> None:
    with listening() as one, listening() as other:
        child = start((one, 0), (other, 0), check_seconds=600)
        accepted = [other.accept()[0], one.accept()[0]]
        one.close()
        accepted[1].close()
        assert child.wait(timeout=30) == liveness.EXIT_STATUS
        assert "server 0 has ended" in child.communicate()[1]
        accepted[0].close()


def test_a_server_that_only_closes_its_connections_is_alive() -> None:
    with listening() as server:
        child = start((server, 0))
        server.settimeout(3 * liveness.CHECK_SECONDS)
        opened, end = 0, time.monotonic() + 4 * liveness.CHECK_SECONDS
        while time.monotonic() < end:
            server.accept()[0].close()
            opened += 1
        assert child.communicate("\n\n", timeout=30) == ("left\n", "")
    assert child.returncode == 0
    assert opened < 40, "it connects again and again"


def test_a_server_that_comes_back_in_time_is_alive() -> None:
    server = listening()
    child = start((server, 30))
    port = server.getsockname()[1]
    server.close()
    time.sleep(3 * liveness.CHECK_SECONDS)
    with listening(port):
        time.sleep(3 * liveness.CHECK_SECONDS)
        assert child.communicate("\n\n", timeout=30) == ("left\n", "")
    assert child.returncode == 0


def test_a_slow_server_is_alive_and_nothing_is_checked_after_the_block() -> None:
    with listening() as server:
        server.listen(0)  # connections that are not accepted wait
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        child = start((server, 0))
        time.sleep(3 * liveness.CHECK_SECONDS)
        assert child.poll() is None
        assert child.stdin
        assert child.stdout
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "left\n"
        for one in waiting:
            one.close()
    time.sleep(3 * liveness.CHECK_SECONDS)
    assert child.communicate("\n", timeout=30) == ("", "")
    assert child.returncode == 0


def test_a_removed_folder_ends_the_process_with_a_line_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    code = "import pathlib, sys, time; from study.tune import liveness\n"
    code += (
        "with liveness.exit_if_dead([], 'resume', pathlib.Path(sys.argv[1])):\n    print(flush=True); time.sleep(60)"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, folder], cwd=ROOT, stdout=pipe, stderr=pipe, text=True) as child:
        assert child.stdout
        child.stdout.readline()
        time.sleep(3 * liveness.CHECK_SECONDS)
        assert child.poll() is None
        folder.rmdir()
        _, errors = child.communicate(timeout=30)
    assert child.returncode == liveness.EXIT_STATUS
    assert errors.count("\n") == 1
    assert f"{folder} was removed" in errors


@pytest.mark.parametrize("seconds", [0.2, 20.0])
def test_exit_after_ends_only_a_block_that_takes_too_long(seconds: float) -> None:
    code = "import time; from study.tune import liveness\n"
    code += f"with liveness.exit_after({seconds}, 'Ray', 'the same command starts again'): time.sleep(1)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    if seconds < 1:
        assert done.returncode == liveness.EXIT_STATUS
        assert "Ray does not answer after 0.2 s" in done.stderr
    else:
        assert (done.returncode, done.stderr) == (0, "")


def test_exit_after_ends_a_block_that_holds_pythons_lock() -> None:
    """As `ray.init` does while it waits for a worker that was killed as it started: no thread of Python runs."""
    code = "import ctypes; from study.tune import liveness; liveness.GRACE_SECONDS = 0.2\n"
    code += "with liveness.exit_after(0.2, 'Ray', 'the same command starts again'): ctypes.PyDLL(None).sleep(60)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == liveness.EXIT_STATUS
    assert "exit_after" in done.stderr or "<string>" in done.stderr
