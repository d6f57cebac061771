"""Ends this process with one line once the Ray that it works with has died: Ray itself would keep it waiting for a
minute, and then end it with a page of its own log.

Whether a process lives is asked of its port: where nothing listens any more, a connection is refused at once. A slow
machine or network refuses nothing, and is left to Ray.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LOOK_SECONDS = 0.25
EXIT_STATUS = 1


@dataclass(frozen=True, kw_only=True)
class Server:
    """What has to go on listening. seconds: how long it may be away before it counts as dead."""

    name: str
    host: str
    port: int
    seconds: float


@contextlib.contextmanager
def watched(servers: Sequence[Server]) -> Iterator[None]:
    """End the process as soon as one of these is dead. Nothing is cleaned up, as after a kill: what asks Ray for
    anything now would wait for it, and the record is whole at any moment."""
    over = threading.Event()

    def watch() -> None:
        refused: dict[str, float] = {}
        while not over.wait(LOOK_SECONDS):
            for server in servers:
                if _listens(server):
                    refused.pop(server.name, None)
                elif time.monotonic() - refused.setdefault(server.name, time.monotonic()) >= server.seconds:
                    if not over.is_set():
                        _end(f"{server.name} has died")
                    return

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
            _end(f"{name} does not answer after {seconds:g} s")

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


def _end(why: str) -> None:
    text = f"study: {why}; what was recorded stays, and `study resume` trains the rest\n"
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), text.encode())
    os._exit(EXIT_STATUS)
