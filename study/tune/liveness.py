"""Ends the driver once Ray is dead. Ray's own calls would wait for it, up to a minute or for ever."""

import contextlib
import faulthandler
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

CHECK_SECONDS = 0.5
GRACE_SECONDS = 5.0
EXIT_STATUS = 1
HANGUP = getattr(select, "POLLRDHUP", select.POLLHUP)  # macOS has only the latter


@dataclass(frozen=True, kw_only=True)
class Server:
    """A port of Ray that must accept connections. It counts as dead once it has refused them for `seconds`."""

    name: str
    host: str
    port: int
    seconds: float


@contextlib.contextmanager
def exit_if_dead(servers: Sequence[Server], resume_hint: object, folder: Path | None = None) -> Iterator[None]:
    """Exit with status 1 and one line if a server dies inside the block, or Ray's folder is removed.

    Nothing is cleaned up, since a call to Ray would hang. The record is whole at any moment.

    A server that dies closes its connections, so its death is seen at once. This matters: when a process of the raylet
    dies, Ray itself ends the driver within some 30 ms, from native code that no Python code can stop.

    Args:
        servers: What must live. A slow server or network refuses nothing, and counts as alive.
        resume_hint: How to continue, for the last line.
        folder: Of the sockets of a local Ray. Without it no new worker starts, and Ray waits for ever.
    """
    done = threading.Event()
    refused_since: dict[str, float] = {}

    def check() -> None:
        now = time.monotonic()
        if folder is not None and not folder.exists() and not done.is_set():
            _exit(f"Ray's folder {folder} was removed", resume_hint)
        for server in servers:
            if not _refuses(server):
                refused_since.pop(server.name, None)
            elif now - refused_since.setdefault(server.name, now) >= server.seconds and not done.is_set():
                _exit(f"{server.name} has ended", resume_hint)

    def watch() -> None:
        while not done.is_set():
            if _hangs_up(servers, CHECK_SECONDS):
                check()
                done.wait(CHECK_SECONDS)
            check()

    threading.Thread(target=watch, name="ray-liveness", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextlib.contextmanager
def exit_after(seconds: float, what: str, resume_hint: object) -> Iterator[None]:
    """Exit with status 1 and one line if the block takes longer than `seconds`.

    If the block holds Python's lock, as `ray.init` does while it waits for a worker that was killed, no thread runs.
    Then the exit comes from C, GRACE_SECONDS later, and a stack of Python takes the place of the line.
    """
    timer = threading.Timer(seconds, _exit, (f"{what} does not answer after {seconds:g} s", resume_hint))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        timer.cancel()


def _hangs_up(servers: Sequence[Server], seconds: float) -> bool:
    """Return True as soon as a server closes a connection, else False after `seconds`."""
    poll = select.poll()
    with contextlib.ExitStack() as connections:
        for server in servers:
            try:
                poll.register(connections.enter_context(_connect(server)), HANGUP)
            except ConnectionRefusedError:
                return True
            except OSError:
                continue
        return bool(poll.poll(1000 * seconds))


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=5)


def _refuses(server: Server) -> bool:
    try:
        _connect(server).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _exit(reason: str, resume_hint: object) -> NoReturn:
    try:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os.write(2, f"study: {reason}; what was recorded stays, and {resume_hint}\n".encode())
    finally:
        os._exit(EXIT_STATUS)
