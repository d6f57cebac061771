"""Ends this process with one line once the Ray that it works with has died: Ray itself would keep it waiting for a
minute, and then end it with a page of its own log.

Whether a process of this machine lives is asked of the system, which says so at once: Ray ends this process as soon as
it has seen the death itself. That of another is asked of its port: where nothing listens any more, a connection is
refused. A slow machine or network refuses nothing, and is left to Ray.
"""

import contextlib
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from study.tune import witness

LOOK_SECONDS = 0.25
EXIT_STATUS = 1
RESUME = "`study resume` trains the rest"
LAST_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """What has to go on listening. seconds: how long it may be away before it counts as dead."""

    name: str
    host: str
    port: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Process:
    """What has to go on living, on this machine."""

    name: str
    pid: int


@contextlib.contextmanager
def watched(
    servers: Sequence[Server], processes: Sequence[Process] = (), resume_hint: object = RESUME
) -> Iterator[None]:
    """End this process as soon as one of these is dead. Nothing is cleaned up, as after a kill: what asks Ray for
    anything now would wait for it, and the record is whole at any moment.
    resume_hint: its text says how to go on."""
    over = threading.Event()

    def watch() -> None:
        refused: dict[str, float] = {}
        with _deaths(processes) as died:
            while not over.is_set():
                dead = died(over)
                for server in servers:
                    if _listens(server):
                        refused.pop(server.name, None)
                    elif time.monotonic() - refused.setdefault(server.name, time.monotonic()) >= server.seconds:
                        dead = dead or server.name
                if dead and not over.is_set():
                    _end(f"{dead} has died", resume_hint)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        over.set()


@contextlib.contextmanager
def within(seconds: float, name: str) -> Iterator[None]:
    """End the process where what is done here is not done after so long: for calls that may wait for ever."""
    over = threading.Event()

    def watch() -> None:
        if not over.wait(seconds):
            _end(f"{name} does not answer after {seconds:g} s", "the same command goes on")

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _listens(server: Server) -> bool:
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        pass  # too slow, or no way to it: no sign of death
    return True


@contextlib.contextmanager
def _deaths(processes: Sequence[Process]) -> Iterator[Callable[[threading.Event], str | None]]:
    """A function that waits until one of these has died, whose name it returns, or for LOOK_SECONDS."""
    names: dict[int, str] = {}
    dead = None
    for process in processes:
        try:
            names[os.pidfd_open(process.pid)] = process.name
        except ProcessLookupError:
            dead = process.name
        except (AttributeError, OSError):
            pass  # a system that cannot say: its port is asked
    poll = select.poll()
    for descriptor in names:
        poll.register(descriptor, select.POLLIN)

    def died(over: threading.Event) -> str | None:
        if dead or not names:
            over.wait(0 if dead else LOOK_SECONDS)
            return dead
        found = poll.poll(1000 * LOOK_SECONDS)
        return names[found[0][0]] if found else None

    try:
        yield died
    finally:
        for descriptor in names:
            os.close(descriptor)


def _end(why: str, resume_hint: object) -> None:
    """Whatever has become of our own output: closed, full, or read by nobody any more."""
    try:
        _done_in_time(lambda: sys.stdout.flush())
        if _done_in_time(lambda: _say(f"study: {why}; what was recorded stays, and {resume_hint}\n")):
            witness.withdraw()
    finally:
        os._exit(EXIT_STATUS)


def _done_in_time(do: Callable[[], object]) -> bool:
    """Whether it was done, and soon: who reads what we write may have stopped, and then writing waits for ever."""
    done = threading.Event()

    def try_it() -> None:
        with contextlib.suppress(Exception):
            do()
            done.set()

    one = threading.Thread(target=try_it, daemon=True)
    one.start()
    one.join(LAST_SECONDS)
    return done.is_set()


def _say(last: str) -> None:
    said = sys.stderr.fileno()
    with contextlib.suppress(OSError):  # where no descriptor is free, others may speak after us
        beside, nothing = os.dup(said), os.open(os.devnull, os.O_WRONLY)
        # Whatever Ray still has to say, from threads of its own, comes too late: the last line is ours.
        said = beside
        for stream in filter(None, (sys.stderr, sys.stdout)):
            os.dup2(nothing, stream.fileno())
    os.write(said, last.encode())
