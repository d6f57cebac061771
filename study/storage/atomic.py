"""Writes a file completely or not at all: to a temporary file beside it, which then replaces it."""

import contextlib
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
    path.parent.mkdir(parents=True, exist_ok=True)
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
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
