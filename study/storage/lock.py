"""One driver at a time may hold a study.

On a local or network file system the lock is a file lock of the operating system (filelock). It ends with its process,
however that ends. Object stores, and file systems without file locks, use a lease (`study.storage.lease`).
"""

import contextlib
import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from study.storage import holder, lease, stores
from study.storage.atomic import make_folder
from study.storage.errors import LockedError, StorageError
from study.storage.small_files import read_object
from study.storage.stores import LocalStore
from study.storage.untrusted_input import inside
from study.text.console import one_line

__all__ = ["LockedError", "locked", "read_holder"]

LOCK_FILE = "lock"
"""The locked file. While the lock is held, it names the holder."""

NO_FILE_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a study while the block runs.

    Args:
        folder: the study's folder, or the mirror of its store.

    Raises:
        LockedError: another driver holds the study; the message says who. Or it has taken over the study meanwhile.
        StorageError: the folder or the store cannot be written.
    """
    store = stores.store_for(folder)
    with contextlib.ExitStack() as stack:
        if not (isinstance(store, LocalStore) and _lock_file(folder, stack)):
            stack.enter_context(lease.leased(store))
        yield


def read_holder(folder: Path) -> dict[str, Any]:
    """Return who holds a study, for messages.

    Returns:
        "who", a description of the process, and "gone", whether it is known to have ended; empty if nobody holds it.
        Only "unreadable", the reason, if the lock cannot be read.
    """
    store = stores.store_for(folder)
    try:
        found = read_object(store, LOCK_FILE) if isinstance(store, LocalStore) else {}
        found = found or lease.read_lease(store)[1]
    except StorageError as error:
        found = {"unreadable": str(error)}
    if "unreadable" in found:
        return {"unreadable": one_line(str(found["unreadable"]))}
    if found.get("released") or not {"host", "pid"} <= found.keys():
        return {}
    return {"who": holder.describe(found), "gone": holder.is_dead(found)}


def _lock_file(folder: Path, stack: contextlib.ExitStack) -> bool:
    """Lock the folder until `stack` ends. Returns False if the file system has no file locks."""
    path = inside(folder, LOCK_FILE)
    try:
        make_folder(folder)
        stack.enter_context(FileLock(path, blocking=False, thread_local=False, fallback_to_soft=False))
    except Timeout as error:
        raise LockedError(f"{folder} is in use by {holder.describe(_read_text(path))}") from error
    except OSError as error:
        if error.errno in NO_FILE_LOCKS:
            return False
        raise StorageError(f"cannot write to {folder} ({error.strerror})") from error
    _write_holder(path, json.dumps(holder.this_process()))
    stack.callback(_write_holder, path, "")
    return True


def _write_holder(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # on a full disk, the lock holds without the name of its holder
        path.write_text(text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
