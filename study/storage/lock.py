"""One driver at a time holds a study.

On a file system that has them, by a lock of the system (flock), which lets go when its process ends, however it ends.
Elsewhere, on an object store above all, by a lease:

    lease/00000001   {"holder": ..., "beat": 17, "released": false, ...}

The highest number holds. A number is taken by creating its file, which only one of several can (a conditional PUT). Its
holder writes it anew every few seconds, and stops where a higher one has come. Whoever finds it unchanged for a lease,
by its own clock that no one sets, takes the next number: no two machines' clocks are compared. What the lock protects
is work, not the record, whose files are whole and named by their content.
"""

import contextlib
import errno
import fcntl
import getpass
import json
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from study.storage import stores
from study.storage.stores import Folder, ObjectStore, StorageError

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
LOOK_SECONDS = 0.5

HAVE_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class LockedError(StorageError):
    """A study that another driver holds, or has taken over."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the study in the folder, or in the store that it mirrors. Raises LockedError, with who holds it, and
    StorageError where it cannot be written."""
    store = stores.at(folder)
    with contextlib.ExitStack() as held:
        if isinstance(store, ObjectStore) or not _flocked(folder, held):
            held.enter_context(_leased(store))
        yield


def _flocked(folder: Path, held: contextlib.ExitStack) -> bool:
    """Whether the folder is ours until `held` ends; False where its file system has no such locks."""
    file = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = held.enter_context((folder / "lock").open("ab+", buffering=0))
    except OSError as error:
        raise StorageError(f"cannot write to {folder} ({error.strerror})") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        assert file is not None  # opening never blocks
        file.seek(0)
        raise LockedError(f"{folder} is in use by {_told(file.read().decode(errors='replace'))}") from error
    except OSError as error:
        if error.errno in HAVE_NO_FLOCK:
            return False
        raise StorageError(f"cannot write to {folder} ({error.strerror})") from error

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk: the lock holds without saying whose it is
            file.truncate(0)
            file.write(text.encode())

    say(json.dumps(_holder()))
    held.callback(say, "")
    return True


def holder(folder: Path) -> dict[str, Any]:
    """Who holds the study, or held it when it was killed, as the lock says, and whether that process is known to be
    gone; empty where no one does. For people: nothing is decided by it."""
    store = stores.at(folder)
    try:
        found = json.loads(store.get("lock") or b"{}") if isinstance(store, Folder) else {}
        if not found:
            found = _highest(store)[1]
    except ValueError:  # StorageError is one
        return {}
    if not isinstance(found, dict) or found.get("released") or not {"host", "pid"} <= found.keys():
        return {}
    return {"who": _told(json.dumps(found)), "gone": _is_dead(found)}


@dataclass(kw_only=True)
class _Lease:
    """A number that this process has taken, with what tells it apart."""

    store: Folder | ObjectStore
    number: int
    content: dict[str, Any]
    lost: bool = False

    @property
    def name(self) -> str:
        return f"lease/{self.number:08d}"

    def write(self, **changes: Any) -> None:
        self.content |= changes
        self.store.put(self.name, json.dumps(self.content).encode(), patient=False)


@contextlib.contextmanager
def _leased(store: Folder | ObjectStore) -> Iterator[None]:
    lease, ended = _taken(store), threading.Event()
    beating = threading.Thread(target=_beat, args=(lease, ended), daemon=True)
    beating.start()
    try:
        with _can_be_interrupted():
            yield
    except KeyboardInterrupt:
        if not lease.lost:
            raise
    finally:
        ended.set()
        beating.join()
        if not lease.lost:
            with contextlib.suppress(StorageError):  # then it runs out
                lease.write(released=True)
    if lease.lost:
        raise LockedError(f"{_place(store)} was taken over by another driver, which goes on with it")


@contextlib.contextmanager
def _can_be_interrupted() -> Iterator[None]:
    """A command that a script starts with `&` ignores SIGINT from birth, and could not be told of being overtaken."""
    ignores = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    )
    if ignores:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignores:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _taken(store: Folder | ObjectStore) -> _Lease:
    while True:
        number, content = _highest(store)
        if number and not content.get("released") and not _is_dead(content):
            _wait_until_stale(store, number, content)
        lease = _Lease(store=store, number=number + 1, content=_holder() | {"token": uuid.uuid4().hex, "beat": 0})
        if not store.create(lease.name, json.dumps(lease.content).encode()):
            continue
        above, content = _highest(store)
        if above == lease.number:
            for name in store.names("lease"):
                if int(name) < lease.number:
                    store.delete(f"lease/{name}")
            return lease
        store.delete(lease.name)  # a late comer to a number that was long gone


def _highest(store: Folder | ObjectStore) -> tuple[int, dict[str, Any]]:
    """The highest number that was taken, and what its holder says; 0 where none was."""
    number = max((int(name) for name in store.names("lease") if name.isdecimal()), default=0)
    if not number:
        return 0, {}
    try:
        content = json.loads(store.get(f"lease/{number:08d}") or b"{}")
        return number, content if isinstance(content, dict) else {}
    except ValueError:
        return number, {}


def _wait_until_stale(store: Folder | ObjectStore, number: int, content: dict[str, Any]) -> None:
    """Return once the holder has given no sign of life for a lease. Raises LockedError at the first."""
    print(f"{_place(store)} was in use by {_told(json.dumps(content))}; waiting for a sign of life", flush=True)
    since = time.monotonic()
    while time.monotonic() - since < LEASE_SECONDS:
        time.sleep(LOOK_SECONDS)
        now = _highest(store)
        if now[1].get("released"):
            return
        if now != (number, content):
            raise LockedError(f"{_place(store)} is in use by {_told(json.dumps(now[1]))}")


def _beat(lease: _Lease, ended: threading.Event) -> None:
    """Give signs of life until the end, or until another has taken over, which interrupts the main thread."""
    while not ended.wait(BEAT_SECONDS):
        # A store that is away: another driver cannot take over there either, and will have come before us if it did.
        with contextlib.suppress(StorageError):
            if _highest(lease.store)[0] > lease.number:
                lease.lost = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            lease.write(beat=lease.content["beat"] + 1)


def _holder() -> dict[str, Any]:
    return {
        "user": _user(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S %Z"),  # for people: nothing is decided by it
        "process": _process(os.getpid()),
    }


def _told(text: str) -> str:
    """Who holds it, for people."""
    try:
        holder = json.loads(text)
        return f"{holder['user']}, process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return text.strip() or "another process"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have a number and no name
        return f"user {os.getuid()}"


def _process(pid: int) -> list[Any] | None:
    """What tells a process of this machine from all others, those with its number after it among them: the machine's
    start, the namespace of its processes' numbers, its own start. None where that is not known."""
    try:
        start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, os.stat("/proc/self/ns/pid").st_ino, start]
    except (OSError, IndexError):
        return None


def _is_dead(holder: dict[str, Any]) -> bool:
    """Whether its process was one of this machine, and is no more."""
    process, own = holder.get("process"), _process(os.getpid())
    if not (own and isinstance(process, list) and process[:2] == own[:2] and isinstance(holder.get("pid"), int)):
        return False
    return _process(holder["pid"]) != process


def _place(store: Folder | ObjectStore) -> str:
    return store.url if isinstance(store, ObjectStore) else str(store.folder)
