"""Processes and their descendants: what they are, and kills that leave none behind."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 400.0  # far beyond what any test here takes


def tree(root: int) -> set[int]:
    """The process and all that descend from it, as they are now."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found = {root} if root in parents else set()
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def send(pid: int, what: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, what)


def kill_tree(root: int) -> None:
    """Kill the process and its descendants. All are stopped first, so that none starts another one."""
    stopped: set[int] = set()
    while more := tree(root) - stopped:
        for pid in more:
            send(pid, signal.SIGSTOP)
        stopped |= more
    for pid in stopped:
        send(pid, signal.SIGKILL)


def wait_until(true: Callable[[], Any], what: str, seconds: float = SECONDS) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, f"in vain: {what}"
        time.sleep(0.02)
