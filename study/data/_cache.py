"""Converted logs on disk: `.npy` arrays and a JSON file, in a folder named by the hash of what they were made from.

    CACHE/<source>-<content>/ids.npy, numbers.npy, labels.npy, log.json
    CACHE/file_hashes.json     SHA-256 of input files by path, size and time of change, to hash large files once
    CACHE/<source>-<content>.lock   held by the process that converts, while others of the machine wait

A folder is written under a temporary name, flushed and renamed, so it is always complete; a damaged one is made again.
Arrays are made column by column and written row by row (`ArrayFile`), so a log may be larger than memory.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from study.config import canonical_json
from study.data._dataset import Log, Task
from study.storage.atomic import rename_folder, write_atomic
from study.storage.scratch import scratch_folder
from study.storage.untrusted_input import open_named

ARRAYS = {"ids": np.int32, "numbers": np.float32, "labels": np.float32}

BLOCK_ROWS = 1 << 17
"""Rows that are transposed at a time."""

BUILDING = ".building-"
"""Prefix of the names of unfinished folders."""


def content_hash(made_from: dict[str, Any]) -> str:
    """Return the SHA-256 of JSON-able values: the source, its version, its options and the hashes of its files."""
    return hashlib.sha256(canonical_json(made_from).encode()).hexdigest()


def file_hash(path: Path, cache: Path) -> str:
    """Return the SHA-256 of a file; it is read again only if its size or time of change differ. Raises ValueError."""
    index = cache / "file_hashes.json"
    try:
        stat = path.stat()
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = _read_index(index)
        if known.get(key, [])[:2] == stamp:
            return known[key][2]
        with open_named(path, None) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    with _write_errors(cache):
        write_atomic(index, json.dumps(_read_index(index) | {key: [*stamp, digest]}).encode(), sync=False)
    return digest


def cached(cache: Path, source: str, content: str | Sequence[str], build: Callable[[Path], Log]) -> Log:
    """Return a log from the cache, or build it. Its arrays are read-only memory maps.

    Args:
        cache: the folder for converted logs.
        source: the name of the source, for the name of the folder.
        content: the hash of what the log is made from; or several, one of which the built log has.
        build: writes an `ArrayFile` of each of `ARRAYS` into an empty folder on the cache's disk, which it may also use
            for temporary files, and returns the log of these arrays.

    Raises:
        ValueError: the cache cannot be written; and whatever `build` raises.
    """
    contents = [content] if isinstance(content, str) else content
    folders = {content: cache / f"{source}-{content}" for content in contents}

    def found() -> Log | None:
        return next((log for content, at in folders.items() if (log := open_cached(at, content)) is not None), None)

    log = found()
    if log is not None:
        return log
    last = folders[contents[-1]]
    with _write_errors(cache), _exclusive(last.with_name(f"{last.name}.lock")):
        log = found()  # converted by another process while this one waited
        if log is None:
            _convert(cache, folders, build)
            log = found()
    if log is None:
        raise ValueError(f"{last} does not read back as it was written; the disk may be full")
    return log


def _convert(cache: Path, folders: Mapping[str, Path], build: Callable[[Path], Log]) -> None:
    with scratch_folder(BUILDING, cache) as scratch:
        beside = scratch / "log"
        beside.mkdir()
        built = build(beside)
        _write_facts(beside, built)
        _move_into_place(beside, folders[built.content], built.content)


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a file lock, then delete its file. Does not lock if the file system has no locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            stack.enter_context(FileLock(path, thread_local=False))
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def store_log(cache: Path, source: str, log: Log) -> Log:
    """Return a log with its arrays in the cache, memory-mapped."""
    if folder_of_log(log):
        return log
    folder = cache / f"{source}-{log.content}"
    there = open_cached(folder, log.content)
    if there is not None and _equal(there, log):
        return there

    def build(into: Path) -> Log:
        for name, dtype in ARRAYS.items():
            np.save(into / f"{name}.npy", np.ascontiguousarray(getattr(log, name), dtype), allow_pickle=False)
        return log

    if there is not None:  # the source returned other data under the same hash: use the new data
        shutil.rmtree(folder, ignore_errors=True)
    return cached(cache, source, log.content, build)


def _equal(one: Log, other: Log) -> bool:
    same_arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    return same_arrays and _facts(one) == _facts(other)


def folder_of_log(log: Log) -> Path | None:
    """Return the folder from which a log's arrays are memory-mapped; None if they are in memory."""
    bases = [getattr(log, name).base for name in ARRAYS]
    folders = {Path(base.filename).parent if isinstance(base, np.memmap) and base.filename else None for base in bases}
    return folders.pop() if len(folders) == 1 else None


class ArrayFile:
    """Writes `FOLDER/<name>.npy` of one of `ARRAYS`: (rows, columns), in row order, as training reads it.

    Columns are appended one by one to a temporary file, and transposed in blocks at the end of the `with` block. Memory
    holds one block of rows.
    """

    def __init__(self, folder: Path, name: str, rows: int) -> None:
        self.path, self.dtype, self.rows, self.columns = folder / f"{name}.npy", np.dtype(ARRAYS[name]), rows, 0

    def __enter__(self) -> "ArrayFile":
        self.waiting = self.path.with_suffix(".columns").open("w+b", buffering=0)
        return self

    def append(self, column: np.ndarray) -> None:
        """Append a column (rows,)."""
        assert column.shape == (self.rows,)
        np.ascontiguousarray(column, self.dtype).tofile(self.waiting)
        self.columns += 1

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self.waiting:
            if not failed:
                self._transpose()
        self.path.with_suffix(".columns").unlink()

    def _transpose(self) -> None:
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.rows, self.columns)}
        block = np.empty((min(BLOCK_ROWS, self.rows), self.columns), self.dtype)
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, self.rows, BLOCK_ROWS):
                count = min(BLOCK_ROWS, self.rows - start)
                for at in range(self.columns):
                    self.waiting.seek((at * self.rows + start) * self.dtype.itemsize)
                    block[:count, at] = np.fromfile(self.waiting, self.dtype, count)
                block[:count].tofile(file)

    def read(self) -> np.ndarray:
        """Return the memory-mapped array, after the end of the `with` block."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def open_cached(folder: Path, content: str) -> Log | None:
    """Return the log in a folder of a cache, memory-mapped; None if it is not there or not complete."""
    try:
        values = json.loads((folder / "log.json").read_text())
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS}
        log = Log(
            **{name: array.view(np.ndarray) for name, array in arrays.items()},
            train_rows=int(values["train_rows"]),
            vocabulary=tuple(values["vocabulary"]),
            id_names=tuple(values["id_names"]),
            number_names=tuple(values["number_names"]),
            tasks=tuple(Task(**task) for task in values["tasks"]),
            content=values["content"],
            facts=values["facts"],
            lengths=tuple(values.get("lengths", ())),
            pools=tuple(values.get("pools", ())),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return log if _is_whole(log, content) else None


def _is_whole(log: Log, content: str) -> bool:
    of_ids = sum(log.lengths) if log.lengths else len(log.id_names)
    rows, widths = len(log.labels), {"ids": of_ids, "numbers": len(log.number_names), "labels": len(log.tasks)}
    shapes = all(getattr(log, name).shape == (rows, width) for name, width in widths.items())
    types = all(getattr(log, name).dtype == dtype for name, dtype in ARRAYS.items())
    return shapes and types and len(log.vocabulary) == len(log.id_names) and log.content == content


def _facts(log: Log) -> str:
    values = {f.name: getattr(log, f.name) for f in dataclasses.fields(log) if f.name not in ARRAYS}
    values["tasks"] = [dataclasses.asdict(task) for task in log.tasks]
    return json.dumps(values, indent=1, allow_nan=False)


def _write_facts(folder: Path, log: Log) -> None:
    (folder / "log.json").write_text(_facts(log))


def _move_into_place(beside: Path, folder: Path, content: str) -> None:
    try:
        rename_folder(beside, folder)
        return
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):  # the folder exists
            raise
    if open_cached(folder, content) is not None:  # another process has written the same content
        return
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)
    else:
        folder.unlink(missing_ok=True)
    rename_folder(beside, folder)


@contextlib.contextmanager
def _write_errors(cache: Path) -> Iterator[None]:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(f"cannot write to the cache {cache} ({error.strerror})") from error


def _read_index(index: Path) -> dict[str, list]:
    try:
        known = json.loads(index.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 3} if isinstance(known, dict) else {}
