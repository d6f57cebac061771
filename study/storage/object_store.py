"""A store below the URL of an object store, such as S3. The only file that imports fsspec.

A local mirror holds what was read. `MARKS` in the mirror says which version of each file it holds, as the store listed
it (size, time, ETag). A file is fetched again if the store lists another version, and removed if the store no longer
has it. A mirror may be deleted at any time.
"""

import contextlib
import errno
import functools
import json
import os
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from study.storage.atomic import write_atomic
from study.storage.errors import StorageError
from study.storage.untrusted_input import MAX_FILE_BYTES, json_object
from study.text.console import first_line

PROTOCOLS = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory")
"""Protocols with atomic PUTs, and with conditional PUTs of which only one can succeed."""

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "az": "adlfs",
}
"""Protocol -> package that fsspec needs for it."""

IMMUTABLE = ("runs", "losses", "failures", "confirm", "set_aside", "range_tests")
"""Subfolders of a study that `refresh` mirrors completely. Their files never change."""

CONFLICT = "ConditionalRequestConflict"
"""S3's name of the status 409."""

MARKS = ".marks.json"
RETRY_SECONDS = (1, 2, 4, 8, 15, 30)
READ_BLOCK_BYTES = 2**18
MAX_PARALLEL_FETCHES = 128


class ObjectStore:
    """Files below a URL. Every name is a path relative to it.

    Args:
        url: the URL, without a slash at its end.
        mirror: the local folder where files are read; None for a process that only writes.
    """

    def __init__(self, url: str, mirror: Path | None = None) -> None:
        self.url, self.mirror = url, mirror

    def put(self, name: str, content: bytes, *, retry: bool = True) -> None:
        """Write a file by one PUT to its final key, replacing any old one.

        Args:
            name: the file.
            content: its content.
            retry: repeat it for a minute if the store is not available.
        """
        for wait in (*(RETRY_SECONDS if retry else ()), None):
            try:
                with self._errors("write to") as (files, root):
                    files.pipe_file(f"{root}/{name}", content)
                break
            except StorageError as error:
                if wait is None or not is_transient(error.__cause__):
                    raise
                time.sleep(wait)
        if self.mirror:
            self._write_mirror(name, content)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file by a conditional PUT (If-None-Match: *). Returns False if it exists already.

        A PUT that was repeated because its answer was lost finds its own content, which counts as success. S3 refuses
        one of two at the same time without saying whether the file exists then, so it is tried again.
        """
        for wait in (*RETRY_SECONDS, None):
            try:
                with self._errors("write to") as (files, root):
                    files.pipe_file(f"{root}/{name}", content, mode="create")
                return True
            except FileExistsError:
                return self.get(name) == content
            except StorageError as error:
                if wait is None or CONFLICT not in str(error.__cause__):
                    raise
            time.sleep(wait)
        raise AssertionError

    def get(self, name: str, max_bytes: int | None = None) -> bytes | None:
        """Return the content of a file, or its first `max_bytes`; None if there is no such file."""
        with self._errors("read") as (files, root):
            try:
                size = files.info(f"{root}/{name}")["size"]
                if max_bytes is None:
                    self._check_size(name, size)
                return files.cat_file(f"{root}/{name}", end=max_bytes) if size else b""
            except FileNotFoundError:
                return None

    def open(self, name: str) -> IO[bytes] | None:
        """Open a file to read parts of it. Returns None if there is no such file. Reading it may raise any error."""
        with self._errors("read") as (files, root):
            try:
                return files.open(f"{root}/{name}", "rb", block_size=READ_BLOCK_BYTES, cache_type="readahead")
            except FileNotFoundError:
                return None

    def names(self, kind: str) -> list[str]:
        """Return the sorted names of the files in a subfolder."""
        return sorted(self._list(kind))

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        with self._errors("write to") as (files, root), contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")
        if self.mirror:
            (self.mirror / name).unlink(missing_ok=True)

    def move(self, name: str, new_name: str) -> None:
        """Rename a file inside the store."""
        with self._errors("write to") as (files, root), contextlib.suppress(FileNotFoundError):
            files.copy(f"{root}/{name}", f"{root}/{new_name}")
        self.delete(name)

    def refresh(self, *kinds: str) -> None:
        """Update files, or whole subfolders of `IMMUTABLE`, in the mirror.

        Later kinds are fetched first: a trial's losses are written before its rows, so rows are listed first.
        """
        assert self.mirror
        listed = {kind: self._list(kind) for kind in kinds if kind in IMMUTABLE}
        for kind in reversed(kinds):
            if kind in IMMUTABLE:
                self._refresh_folder(kind, listed[kind])
            else:
                self.fetch([kind], anew=True)

    def _refresh_folder(self, kind: str, listed: dict[str, dict[str, Any]]) -> None:
        assert self.mirror
        folder, marks = self.mirror / kind, self._read_marks()
        sizes = {path.name: path.stat().st_size for path in folder.glob("[!.]*")} if folder.is_dir() else {}
        for name in sizes.keys() - listed.keys():
            if self.get(f"{kind}/{name}") is None:  # else it was written after the listing
                (folder / name).unlink(missing_ok=True)
        self._download(
            {
                f"{kind}/{name}": info
                for name, info in listed.items()
                if sizes.get(name) != info["size"] or marks.get(f"{kind}/{name}") != mark_of(info)
            }
        )

    def fetch(self, names: Iterable[str], *, anew: bool = False) -> None:
        """Bring files into the mirror.

        Args:
            names: the files.
            anew: also those that are in the mirror already.
        """
        assert self.mirror
        wanted = [name for name in names if anew or not (self.mirror / name).exists()]
        found = {}
        with self._errors("read") as (files, root):
            for name in wanted:
                try:
                    found[name] = files.info(f"{root}/{name}")
                except FileNotFoundError:
                    (self.mirror / name).unlink(missing_ok=True)
        self._download(found)

    def probe(self) -> None:
        """Raise StorageError unless files can be written, read and deleted, and conditional PUTs work."""
        name, content = f".probe-{uuid.uuid4().hex}", os.urandom(1024)
        if not self.create(name, content) or self.get(name) != content:
            raise StorageError(f"cannot write to {self.url} (a file that was written reads back differently)")
        created_twice = self.create(name, b"again")
        self.delete(name)
        if created_twice:
            raise StorageError(f"{self.url} has no conditional PUT (If-None-Match), which the lock of a study needs")

    def _list(self, kind: str) -> dict[str, dict[str, Any]]:
        with self._errors("read") as (files, root):
            try:
                found = files.find(f"{root}/{kind}", detail=True)
            except FileNotFoundError:
                return {}
        # Some stores write a leading slash where the root has none. Names such as "../x" are ignored.
        prefix = f"{root}/{kind}/".lstrip("/")
        names = {path.lstrip("/").removeprefix(prefix): info for path, info in found.items()}
        return {name: info for name, info in names.items() if re.fullmatch(r"[\w-][\w.-]*", name)}

    def _download(self, found: dict[str, dict[str, Any]]) -> None:
        """Fetch files into the mirror, many in parallel, and note their marks."""
        for name, info in found.items():
            self._check_size(name, info["size"])
        names, marks = list(found), {}
        for start in range(0, len(names), MAX_PARALLEL_FETCHES):
            part = names[start : start + MAX_PARALLEL_FETCHES]
            with self._errors("read") as (files, root):
                contents = files.cat([f"{root}/{name}" for name in part], on_error="return")
            contents = {path.lstrip("/"): content for path, content in contents.items()}
            for name in part:
                content = contents[f"{root}/{name}".lstrip("/")]
                if isinstance(content, FileNotFoundError):
                    continue
                if isinstance(content, BaseException):
                    raise StorageError(f"cannot read {self.url} ({first_line(content)})") from content
                self._write_mirror(name, content, sync=False)
                marks[name] = mark_of(found[name])
        if marks:
            self._write_mirror(MARKS, json.dumps(self._read_marks() | marks).encode(), sync=False)

    def _check_size(self, name: str, size: int) -> None:
        if size > MAX_FILE_BYTES:
            raise StorageError(f"{self.url}/{name} has {size:,} bytes; the most is {MAX_FILE_BYTES:,}")

    def _read_marks(self) -> dict[str, Any]:
        """Name -> mark of the mirrored files. Without marks, everything is fetched again."""
        assert self.mirror
        try:
            return json_object((self.mirror / MARKS).read_bytes())
        except (OSError, ValueError):
            return {}

    def _write_mirror(self, name: str, content: bytes, *, sync: bool = True) -> None:
        assert self.mirror
        try:
            write_atomic(self.mirror / name, content, sync=sync)
        except OSError as error:
            raise StorageError(f"cannot write to the cache folder {self.mirror} ({error.strerror})") from error

    @contextlib.contextmanager
    def _errors(self, action: str) -> Iterator[tuple[Any, str]]:
        """Yield fsspec's file system and the root of our files. Every error becomes a StorageError of one line."""
        try:
            yield open_filesystem(self.url, os.getpid())
        except (StorageError, FileExistsError):
            raise
        except Exception as error:  # each store has its own errors
            raise StorageError(f"cannot {action} {self.url} ({first_line(error)})") from error


@functools.lru_cache(maxsize=8)
def open_filesystem(url: str, process: int) -> tuple[Any, str]:
    """Return fsspec's file system of a URL, and the path in it.

    Args:
        url: the URL.
        process: the process id, since a connection must not be shared after a fork.
    """
    protocol = url.partition("://")[0]
    try:
        import fsspec

        files, root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        name = PACKAGES.get(protocol, "fsspec")
        extra = "; pip install 'learning-rate-edge[s3]'" if name == "s3fs" else ""
        raise StorageError(f"{protocol}:// needs the package {name}{extra}, on every machine of the cluster") from error
    return files, root.rstrip("/")


def mark_of(info: dict[str, Any]) -> list[Any]:
    """Return what identifies a version of a file: size, time of change and ETag, as the store lists them."""
    stamps = [info.get(key) for key in ("LastModified", "last_modified", "updated", "mtime", "created")]
    when = next((str(stamp) for stamp in stamps if stamp is not None), "")
    return [int(info["size"]), when, str(info.get("ETag") or info.get("etag"))]


def is_transient(error: BaseException | None) -> bool:
    """Return whether an error may be over in a minute."""
    return not isinstance(error, (PermissionError, FileNotFoundError, ImportError)) and not (
        isinstance(error, OSError) and error.errno in (errno.EINVAL, errno.ENOSPC)
    )
