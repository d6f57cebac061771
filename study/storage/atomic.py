"""Writes a file completely or not at all: to a temporary file beside it, which then replaces it."""

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file, replacing any old one. Creates its folder.

    Args:
        path: the file.
        content: its content.
        sync: flush it to the disk first, so that it survives a power failure.
    """
    make_folder(path.parent)
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` if the block succeeds.

    Args:
        path: the file to write.
        sync: as in `write_atomic`.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
        if sync:
            sync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder and those that it lies in, so that they survive a power failure."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_folder(path.parent)


def rename_folder(old: Path, new: Path) -> None:
    """Rename a folder whose files are complete, so that they are also after a power failure. Raises OSError."""
    for path in (*old.rglob("*"), old):
        if not path.is_symlink():
            sync_folder(path)
    old.rename(new)
    sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Flush a file, or the names in a folder, to the disk: a new file may be lost with its name."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may write to a folder that one may not read
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not flush folders
            raise
    finally:
        os.close(opened)
