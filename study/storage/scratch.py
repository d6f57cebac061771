"""Temporary folders of this machine that a kill does not leave behind for ever."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from study.storage import holder

LOCK = ".lock"
"""The process of a folder holds this file in it locked, so the lock ends with the process. No clock is compared."""

NEW = ".new-"
"""Prefix of the name of a folder that is not locked yet. What identifies its process follows."""


@contextlib.contextmanager
def scratch_folder(prefix: str, parent: Path | str | None = None) -> Iterator[Path]:
    """Make a folder that only this user can enter, and remove it after the block.

    Folders of the same prefix whose processes were killed are removed first.

    Args:
        prefix: of the folder's name.
        parent: where it is made; None is the folder for temporary files.
    """
    parent = Path(parent or tempfile.gettempdir())
    for left in parent.glob(f"{prefix}*"):
        _remove_if_abandoned(left)
    for left in parent.glob(f"{NEW}*.{prefix}*"):
        _remove_if_unfinished(left)
    maker = holder.this_process()
    mark = ".".join(map(str, (maker["pid"], *(maker["process"] or ()))))
    unlocked = Path(tempfile.mkdtemp(prefix=f"{NEW}{mark}.{prefix}", dir=parent))
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError, NotImplementedError):  # a file system without locks
            stack.enter_context(_lock(unlocked))
        # It gets its name once it is locked, so nobody else takes it for abandoned.
        folder = unlocked.rename(unlocked.with_name(unlocked.name.removeprefix(f"{NEW}{mark}.")))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_abandoned(folder: Path) -> None:
    with contextlib.suppress(OSError, NotImplementedError, Timeout):
        found = (folder / LOCK).lstat()
        if folder.is_symlink() or found.st_uid != os.getuid():
            return
        with _lock(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _remove_if_unfinished(folder: Path) -> None:
    """Remove a folder whose process was killed before it locked it: the name says which process that was."""
    with contextlib.suppress(OSError, ValueError):
        pid, boot, namespace, start, _ = folder.name.removeprefix(NEW).split(".", 4)
        maker = {"pid": int(pid), "process": [boot, int(namespace), start]}
        if folder.lstat().st_uid == os.getuid() and not folder.is_symlink() and holder.is_dead(maker):
            shutil.rmtree(folder, ignore_errors=True)


def _lock(folder: Path) -> FileLock:
    return FileLock(folder / LOCK, blocking=False, thread_local=False, fallback_to_soft=False)
