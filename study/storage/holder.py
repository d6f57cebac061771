"""The process that holds a lock or a lease: how it is named, and whether it still runs."""

import getpass
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from study.storage.untrusted_input import json_object
from study.text.console import MAX_LINE_LENGTH, one_line


def this_process() -> dict[str, Any]:
    """Return a JSON-able description of this process."""
    return {
        "user": user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),  # only shown: no decision depends on a clock
        "process": _identity(os.getpid()),
    }


def describe(found: Mapping[str, Any] | str) -> str:
    """Return a holder as text for a message.

    Args:
        found: what `this_process` returned, or the text of a lock file.
    """
    try:
        holder = json_object(found) if isinstance(found, str) else found
        text = f"{holder['user']}, process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError):
        text = found if isinstance(found, str) else ""
    return one_line(text)[:MAX_LINE_LENGTH] or "another process"


def is_alive(holder: Mapping[str, Any]) -> bool | None:
    """Return whether a process still runs; None if that is not known, as of another machine."""
    process, own = holder.get("process"), _identity(os.getpid())
    if not (own and isinstance(process, list) and process[:2] == own[:2] and isinstance(holder.get("pid"), int)):
        return None
    return _identity(holder["pid"]) == process


def is_dead(holder: Mapping[str, Any]) -> bool:
    """Return whether a holder ran on this machine and has ended."""
    return is_alive(holder) is False


def user() -> str:
    """Return the name of this process's user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user in a container may have no name
        return f"user {os.getuid()}"


def _identity(pid: int) -> list[Any] | None:
    """Return what identifies a process even if its number is reused; None if the system does not tell.

    Boot id of the machine, namespace of process numbers, and start time of the process.
    """
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.stat("/proc/self/ns/pid").st_ino, start]
    except (OSError, IndexError):
        return None
