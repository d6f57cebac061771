"""A lock for object stores: a numbered lease that its holder renews.

    lease/00000001   {"user": ..., "host": ..., "pid": ..., "beat": 17, "released": false, ...}

The highest number holds. A driver takes the next number by a conditional PUT, which only one of several can win. The
holder rewrites its lease every `BEAT_SECONDS`, and stops if a higher number exists. Another driver may take over if the
lease stays unchanged for `LEASE_SECONDS` of its own clock, so clocks of different machines are never compared.

Numbers, and not one file that is compared and swapped: a folder without file locks has exclusive creation alone, and
fsspec has no conditional replacement for all stores (s3fs passes S3's If-Match on, but gives no content with its ETag).

After a takeover both drivers may write for a moment. The record stays correct: its files are whole and named by their
content.
"""

import contextlib
import json
import re
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from study.storage import holder
from study.storage.errors import LockedError, StorageError
from study.storage.small_files import place, read_object
from study.storage.stores import Store
from study.text.console import show

BEAT_SECONDS = 5.0
LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5


@dataclass(kw_only=True)
class _Lease:
    """A number that this process has taken."""

    store: Store
    number: int
    content: dict[str, Any]
    lost: bool = False

    @property
    def name(self) -> str:
        return _name(self.number)

    def write(self, **changes: Any) -> None:
        self.content |= changes
        self.store.put(self.name, json.dumps(self.content).encode(), retry=False)


@contextlib.contextmanager
def leased(store: Store) -> Iterator[None]:
    """Hold a lease while the block runs. If it is lost, the block is interrupted in the main thread.

    Raises:
        LockedError: another driver holds the lease, or has taken it over.
        StorageError: the store cannot be written.
    """
    lease, ended = _acquire(store), threading.Event()
    renewing = threading.Thread(target=_renew, args=(lease, ended), daemon=True)
    renewing.start()
    try:
        with _interruptible():
            yield
    except KeyboardInterrupt:
        if not lease.lost:
            raise
    finally:
        ended.set()
        renewing.join()
        if not lease.lost:
            with contextlib.suppress(StorageError):  # then the lease expires
                lease.write(released=True)
    if lease.lost:
        raise LockedError(f"{place(store)} was taken over by another driver, which continues it")


def read_lease(store: Store) -> tuple[int, dict[str, Any]]:
    """Return the highest number and its content; 0 and {} if there is none.

    The content of a file that cannot be read is the reason, under "unreadable".
    """
    number = max(_numbers(store), default=0)
    if not number:
        return 0, {}
    try:
        return number, read_object(store, _name(number))
    except StorageError as error:
        return number, {"unreadable": str(error)}


def _name(number: int) -> str:
    return f"lease/{number:08d}"


def _numbers(store: Store) -> list[int]:
    """The numbers of the leases. Other files, such as a README, are none."""
    return [int(name) for name in store.names("lease") if re.fullmatch("[0-9]{8,}", name)]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Enable SIGINT, which a command started with `&` from a script ignores: a lost lease interrupts by it."""
    ignored = (
        threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    )
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _acquire(store: Store) -> _Lease:
    while True:
        number, content = read_lease(store)
        if number and not content.get("released") and not holder.is_dead(content):
            _wait_for_expiry(store, number, content)
        content = holder.this_process() | {"token": uuid.uuid4().hex, "beat": 0}
        lease = _Lease(store=store, number=number + 1, content=content)
        if not store.create(lease.name, json.dumps(lease.content).encode()):
            continue
        highest, _ = read_lease(store)
        if highest == lease.number:
            for older in _numbers(store):
                if older < lease.number:
                    store.delete(_name(older))
            return lease
        store.delete(lease.name)  # higher numbers were taken, and this one deleted, since it was read


def _wait_for_expiry(store: Store, number: int, content: dict[str, Any]) -> None:
    """Return when the lease has expired or was released. Raises LockedError as soon as it is renewed."""
    was = content.get("unreadable") or f"{place(store)} was in use by {holder.describe(content)}"
    show(f"{was}; waiting to see whether it still is in use")
    since = time.monotonic()
    while time.monotonic() - since < LEASE_SECONDS:
        time.sleep(POLL_SECONDS)
        now = read_lease(store)
        if now[1].get("released"):
            return
        if now != (number, content):
            raise LockedError(f"{place(store)} is in use by {holder.describe(now[1])}")


def _renew(lease: _Lease, ended: threading.Event) -> None:
    """Renew the lease until the end. If another driver has taken over, interrupt the main thread."""
    while not ended.wait(BEAT_SECONDS):
        # If the store cannot be reached, no other driver can take over either.
        with contextlib.suppress(StorageError):
            if read_lease(lease.store)[0] > lease.number:
                lease.lost = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return
            lease.write(beat=lease.content["beat"] + 1)
