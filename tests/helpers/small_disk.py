"""What the tests of several folders share: small disk."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


class Disk:
    """A small file system of its own: tmpfs, which needs root. `full` leaves a few bytes, or none."""

    def __init__(self, folder: Path, kibibytes: int) -> None:
        self.folder, self.kibibytes = folder, kibibytes

    def __enter__(self) -> "Disk":
        self.folder.mkdir()
        options = f"size={self.kibibytes}k"
        try:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder], capture_output=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command")
        if done.returncode:
            pytest.skip(f"mounting a file system of its own needs root: {done.stderr.decode().strip()}")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self.folder], check=True)

    def full(self, left: int = 0) -> None:
        """Take all that is free, but for `left` blocks of 4 KiB."""
        free = os.statvfs(self.folder).f_bavail - left
        assert free > 0
        (self.folder / "filler").write_bytes(bytes(4096 * free))

    def free(self) -> None:
        (self.folder / "filler").unlink()

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)
        try:
            yield
        finally:
            subprocess.run(["mount", "-o", "remount,rw", self.folder], check=True)
