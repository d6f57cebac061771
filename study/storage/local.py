"""A store in a folder of this machine or of a network file system."""

import contextlib
import os
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from study.storage.atomic import make_folder, sync_folder, write_atomic
from study.storage.errors import StorageError
from study.storage.untrusted_input import MAX_FILE_BYTES, inside, open_file

PROBE_BYTES = 2**16
"""Large enough to notice a full disk."""


class LocalStore:
    """Files in a folder. Every name is a path relative to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, name: str, content: bytes, *, retry: bool = True) -> None:
        """Write a file, replacing any old one.

        Args:
            name: of the file.
            content: of the file.
            retry: False for a file that may be lost, such as a heartbeat: it is not flushed to the disk. Nothing is
                retried in a folder.
        """
        with self._errors("write to"):
            write_atomic(self._place(name), content, sync=retry)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file. Returns False if it exists already. A reader may see it before it is complete."""
        with self._errors("write to"):
            path = self._place(name)
            make_folder(path.parent)
            try:
                with path.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            except FileExistsError:
                return False
            sync_folder(path.parent)
            return True

    def get(self, name: str, max_bytes: int | None = None) -> bytes | None:
        """Return the content of a file, or its first `max_bytes`; None if there is no such file."""
        with self._errors("read"):
            try:
                with open_file(self.folder, name, MAX_FILE_BYTES if max_bytes is None else None) as file:
                    return file.read(-1 if max_bytes is None else max_bytes)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def open(self, name: str) -> IO[bytes] | None:
        """Open a file to read parts of it. Returns None if there is no such file."""
        with self._errors("read"):
            try:
                return open_file(self.folder, name, None)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def names(self, kind: str) -> list[str]:
        """Return the sorted names of the files in a subfolder."""
        with self._errors("read"):
            try:  # `glob` would show a folder that cannot be read as an empty one
                return sorted(name for name in os.listdir(inside(self.folder, kind)) if not name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        with self._errors("write to"):
            self._place(name).unlink(missing_ok=True)

    def move(self, name: str, new_name: str) -> None:
        """Rename a file."""
        with self._errors("write to"):
            old, new = self._place(name), self._place(new_name)
            make_folder(new.parent)
            old.rename(new)
            sync_folder(new.parent)
            sync_folder(old.parent)

    def refresh(self, *kinds: str) -> None:
        """Do nothing: a folder is always up to date."""

    def fetch(self, names: Iterable[str], *, anew: bool = False) -> None:
        """Do nothing: a folder is always up to date."""

    def probe(self) -> None:
        """Raise StorageError unless a file can be written and deleted."""
        name = f".probe-{uuid.uuid4().hex}"
        self.put(name, os.urandom(PROBE_BYTES))
        self.delete(name)

    def _place(self, name: str) -> Path:
        """The path of a file to create, replace, rename or delete, none of which follows a link at its end."""
        return inside(self.folder, str(Path(name).parent)) / Path(name).name

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[None]:
        # The message does not name the file: a study stops if several trials fail with the same message.
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot {action} {self.folder} ({error.strerror or error})") from error
