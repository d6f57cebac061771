"""Ends the driver once Ray is dead. Ray's own calls would wait for it, up to a minute or for ever."""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

CHECK_SECONDS = 0.5
EXIT_STATUS = 1


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

    Args:
        servers: What must live. A slow server or network refuses nothing, and counts as alive.
        resume_hint: How to continue, for the last line.
        folder: Of the sockets of a local Ray. Without it no new worker starts, and Ray waits for ever.
    """
    done = threading.Event()

    def watch() -> None:
        refused_since: dict[str, float] = {}
        while not done.wait(CHECK_SECONDS):
            now = time.monotonic()
            if folder is not None and not folder.exists() and not done.is_set():
                _exit(f"Ray's folder {folder} was removed", resume_hint)
            for server in servers:
                if not _refuses(server):
                    refused_since.pop(server.name, None)
                elif now - refused_since.setdefault(server.name, now) >= server.seconds and not done.is_set():
                    _exit(f"{server.name} has died", resume_hint)

    threading.Thread(target=watch, name="ray-liveness", daemon=True).start()
    try:
        yield
    finally:
        done.set()


@contextlib.contextmanager
def exit_after(seconds: float, what: str, resume_hint: object) -> Iterator[None]:
    """Exit with status 1 and one line if the block takes longer than `seconds`."""
    timer = threading.Timer(seconds, _exit, (f"{what} does not answer after {seconds:g} s", resume_hint))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _refuses(server: Server) -> bool:
    try:
        socket.create_connection((server.host, server.port), timeout=5).close()
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
