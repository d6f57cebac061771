"""A driver whose Ray has died ends with one line; one whose Ray is slow, or comes back, goes on."""

import socket
import subprocess
import sys
import time

import pytest
from paths import ROOT

from study.tune import lifeline

DRIVER = """
import sys, time
from study import lifeline
servers = [
    lifeline.Server(name=f"server {i}", host="127.0.0.1", port=int(port), seconds=float(seconds))
    for i, (port, seconds) in enumerate(word.split(":") for word in sys.argv[1:])
]
with lifeline.watched(servers):
    print("watched", flush=True)
    sys.stdin.readline()
print("left", flush=True)
sys.stdin.readline()
print("ended by itself", flush=True)
"""


def listening(port: int = 0) -> socket.socket:
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def start(*servers: tuple[socket.socket, float]) -> subprocess.Popen[str]:
    words = [f"{server.getsockname()[1]}:{seconds}" for server, seconds in servers]
    child = subprocess.Popen(
        [sys.executable, "-c", DRIVER, *words],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout
    assert child.stdout.readline() == "watched\n"
    return child


def test_a_death_is_one_line_and_no_success() -> None:
    with listening() as one, listening() as other:
        child = start((one, 0), (other, 0))
        other.close()
        child.wait(timeout=30)  # its input stays open: it ends for no other reason
        printed, said = child.communicate()
    assert said == "study: server 1 has died; what was recorded stays, and `study resume` trains the rest\n"
    assert printed == ""
    assert child.returncode == lifeline.EXIT_STATUS != 0


def test_what_comes_back_in_time_was_not_dead() -> None:
    server = listening()
    child = start((server, 30))
    port = server.getsockname()[1]
    server.close()
    time.sleep(3 * lifeline.LOOK_SECONDS)
    with listening(port):
        time.sleep(3 * lifeline.LOOK_SECONDS)
        printed, said = child.communicate("\n\n", timeout=30)
    assert (printed, said, child.returncode) == ("left\nended by itself\n", "", 0)


def test_what_is_slow_is_not_dead_and_nobody_looks_when_it_is_over() -> None:
    with listening() as server:
        server.listen(0)  # what is not accepted waits, and then is not answered at all
        full = [socket.socket() for _ in range(4)]
        for one in full:
            one.setblocking(False)
            one.connect_ex(server.getsockname())
        child = start((server, 0))
        time.sleep(4 * lifeline.LOOK_SECONDS)
        assert child.poll() is None
        assert child.stdin
        assert child.stdout
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline() == "left\n"
        for one in full:
            one.close()
    time.sleep(3 * lifeline.LOOK_SECONDS)
    printed, said = child.communicate("\n", timeout=30)
    assert (printed, said, child.returncode) == ("ended by itself\n", "", 0)


SLOW = """
import sys
from study import lifeline
with lifeline.within(float(sys.argv[1]), "Ray"):
    sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""


def test_what_is_never_done_is_one_line_and_no_success_and_what_was_done_is_forgotten() -> None:
    def begin(seconds: float) -> subprocess.Popen[str]:
        command, pipe = [sys.executable, "-c", SLOW, str(seconds)], subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    hung, done = begin(0.2), begin(2)
    assert done.stdin
    assert done.stdout
    done.stdin.write("\n")
    done.stdin.flush()
    assert done.stdout.readline() == "done\n"
    assert hung.wait(timeout=30) == lifeline.EXIT_STATUS
    printed, said = hung.communicate()
    assert printed == ""
    assert said == ("study: Ray does not answer after 0.2 s; what was recorded stays, and the same command goes on\n")
    time.sleep(2.5)
    assert done.poll() is None
    done.communicate("\n", timeout=30)
    assert done.returncode == 0


CHILDREN = """
import os, subprocess, threading, time
from study import lifeline
children = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(2)]
processes = [lifeline.Process(name=f"child {i}", pid=child.pid) for i, child in enumerate(children)]
def noise():
    while True:
        os.write(2, b"pages of a log" + bytes([10]))
        time.sleep(0.001)
threading.Thread(target=noise, daemon=True).start()
with lifeline.watched((), processes, "`study resume over/there` trains the rest"):
    children[1].kill()
    time.sleep(1000)
"""


def test_a_process_of_this_machine_that_dies_is_named_and_the_last_line_is_ours() -> None:
    """Whatever other threads still say."""
    command = [sys.executable, "-c", CHILDREN]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert child.returncode == lifeline.EXIT_STATUS
    *noise, last = child.stderr.splitlines()
    assert noise
    assert last == "study: child 1 has died; what was recorded stays, and `study resume over/there` trains the rest"


HAMPERED = """
import os, resource, subprocess, sys, time
from study import lifeline, witness
child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
with witness.stands_by("said beside"), lifeline.watched((), [lifeline.Process(name="child", pid=child.pid)]):
    time.sleep(0.5)  # it is looked at
    if sys.argv[1] == "nothing is free":
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        try:
            while True:
                os.dup(0)
        except OSError:
            pass
    child.kill()
    if sys.argv[1] == "nobody reads":
        print("x" * 1_000_000, flush=True)
    time.sleep(1000)
"""


def hampered(*words: str, before: str = "exec", reader: int = subprocess.PIPE) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["/bin/sh", "-c", f'{before} "$@"', "sh", sys.executable, "-c", HAMPERED, *words],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=reader,
        text=True,
    )


CHILD_DIED = "study: child has died; what was recorded stays, and `study resume` trains the rest\n"


def test_it_ends_where_nobody_reads_what_it_writes() -> None:
    """A pager that waits for a key, a terminal that was stopped: errors are read, or in the same pipe."""
    child = hampered("nobody reads")
    assert child.wait(timeout=30) == lifeline.EXIT_STATUS
    assert child.communicate()[1] == CHILD_DIED
    child = hampered("nobody reads", reader=subprocess.STDOUT)
    assert child.wait(timeout=30) == lifeline.EXIT_STATUS
    assert child.communicate()[0].lstrip("x") in ("said beside\n", CHILD_DIED)


@pytest.mark.parametrize(("closed", "said"), [(">&-", CHILD_DIED), (">&- 2>&-", "")])
def test_it_ends_where_its_output_is_closed(closed: str, said: str) -> None:
    child = hampered("all is well", before=f"exec {closed}")
    assert child.wait(timeout=30) == lifeline.EXIT_STATUS
    assert child.communicate()[1] == said


def test_it_says_why_where_no_file_can_be_opened() -> None:
    child = hampered("nothing is free")
    assert child.wait(timeout=30) == lifeline.EXIT_STATUS
    assert child.communicate()[1] == CHILD_DIED
