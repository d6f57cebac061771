"""Converted logs on disk: `.npy` arrays and one JSON in a folder named by the content that they were made from.

    CACHE/<source>-<content>/ids.npy, numbers.npy, labels.npy, log.json
    CACHE/file_hashes.json     SHA-256 of input files by path, size and time of change, to hash big files once
    CACHE/<source>-<content>.lock   held by the process that converts, while others of the machine wait for it

A folder is written whole beside its place and renamed into it, so what is there is whole; one that was damaged since
is made again. Arrays are made column by column and written row by row (`ArrayFile`), so that a log may be larger than
memory.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from study.config import canonical_json
from study.data._dataset import Log, Task

ARRAYS = {"ids": np.int32, "numbers": np.float32, "labels": np.float32}

BLOCK_ROWS = 1 << 17
"""Rows that are turned from columns into rows at a time."""

BUILDING = ".building-"
"""How the name of what is being written begins."""

ABANDONED_SECONDS = 24 * 3600
"""A half-written folder older than this, which nobody holds, belongs to a process that was killed."""


def content_hash(made_from: dict[str, Any]) -> str:
    """SHA-256 of JSON-able values: the source, its version, its options and the hashes of its files."""
    return hashlib.sha256(canonical_json(made_from).encode()).hexdigest()


def file_hash(path: Path, cache: Path) -> str:
    """SHA-256 of a file, read once as long as its size and time of change stay. Raises ValueError where unreadable."""
    index = cache / "file_hashes.json"
    try:
        stat = path.stat()
        key, stamp = str(path.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = _read_index(index)
        if known.get(key, [])[:2] == stamp:
            return known[key][2]
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror})") from error
    with _writing(cache):
        beside = cache / f".file_hashes.{uuid.uuid4().hex}"
        beside.write_text(json.dumps(_read_index(index) | {key: [*stamp, digest]}))
        beside.replace(index)
    return digest


def cached(cache: Path, source: str, content: str, build: Callable[[Path], Log]) -> Log:
    """The log that `build` makes, from the cache where it is there and whole. Arrays are read-only memory maps.

    build: is given an empty folder on the cache's disk, for an `ArrayFile` of each of `ARRAYS` and for what it needs in
    between, and returns the log of these arrays. Raises ValueError where the cache cannot be written, and whatever
    `build` raises.
    """
    folder = cache / f"{source}-{content}"
    log = opened(folder, content)
    if log is not None:
        return log
    with _writing(cache), _alone(folder):
        log = opened(folder, content)  # converted by another process while this one waited
        if log is None:
            _remove_abandoned(cache)
            _convert(cache, folder, content, build)
            log = opened(folder, content)
    if log is None:
        raise ValueError(f"{folder} does not read back as it was written; is the disk full?")
    return log


def _convert(cache: Path, folder: Path, content: str, build: Callable[[Path], Log]) -> None:
    beside = cache / f"{BUILDING}{uuid.uuid4().hex}"
    beside.mkdir()
    try:
        with _held(beside):
            built = build(beside)
        assert built.content == content
        _write_facts(beside, built)
        _move_into_place(beside, folder, content)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time converts into the folder: memory and time of a conversion are taken once a machine. Where
    the file system has no locks, several may; what they write is the same."""
    path = folder.with_name(f"{folder.name}.lock")
    with path.open("w") as file:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def kept(cache: Path, source: str, log: Log) -> Log:
    """The log with its arrays in the cache, memory-mapped, whatever its source made them as."""
    if place(log):
        return log
    folder = cache / f"{source}-{log.content}"
    there = opened(folder, log.content)
    if there is not None and _equal(there, log):
        return there

    def build(into: Path) -> Log:
        for name, dtype in ARRAYS.items():
            np.save(into / f"{name}.npy", np.ascontiguousarray(getattr(log, name), dtype), allow_pickle=False)
        return log

    if there is not None:  # of a source that gives other data the same name: what it says now counts
        shutil.rmtree(folder, ignore_errors=True)
    return cached(cache, source, log.content, build)


def _equal(one: Log, other: Log) -> bool:
    same_arrays = all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ARRAYS)
    return same_arrays and _facts(one) == _facts(other)


def place(log: Log) -> Path | None:
    """The folder whose memory maps a log's arrays are; None where they are in memory."""
    bases = [getattr(log, name).base for name in ARRAYS]
    folders = {Path(base.filename).parent if isinstance(base, np.memmap) and base.filename else None for base in bases}
    return folders.pop() if len(folders) == 1 else None


class ArrayFile:
    """The file `FOLDER/<name>.npy` of one of `ARRAYS`, (rows, columns), row after row as training reads it.

    It is made column by column, as sources learn from columns: these wait in a file beside it, and are turned into rows
    by blocks at the end of the `with`. Memory holds a block of rows, however many rows and columns there are.
    """

    def __init__(self, folder: Path, name: str, rows: int) -> None:
        self.path, self.dtype, self.rows, self.columns = folder / f"{name}.npy", np.dtype(ARRAYS[name]), rows, 0

    def __enter__(self) -> "ArrayFile":
        self.waiting = self.path.with_suffix(".columns").open("w+b", buffering=0)
        return self

    def append(self, column: np.ndarray) -> None:
        """column: (rows,)."""
        assert column.shape == (self.rows,)
        np.ascontiguousarray(column, self.dtype).tofile(self.waiting)
        self.columns += 1

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        with self.waiting:
            if not failed:
                self._turn()
        self.path.with_suffix(".columns").unlink()

    def _turn(self) -> None:
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
            file.flush()
            os.fsync(file.fileno())

    def read(self) -> np.ndarray:
        """The whole array, memory-mapped, once the `with` has ended."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False).view(np.ndarray)


def opened(folder: Path, content: str) -> Log | None:
    """The log in a folder of a cache, its arrays memory-mapped; None where it is not there, or not whole."""
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
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return log if _is_whole(log, content) else None


def _is_whole(log: Log, content: str) -> bool:
    rows, widths = len(log.labels), {"ids": log.id_names, "numbers": log.number_names, "labels": log.tasks}
    shapes = all(getattr(log, name).shape == (rows, len(of)) for name, of in widths.items())
    types = all(getattr(log, name).dtype == dtype for name, dtype in ARRAYS.items())
    return shapes and types and len(log.vocabulary) == len(log.id_names) and log.content == content


def _facts(log: Log) -> str:
    values = {f.name: getattr(log, f.name) for f in dataclasses.fields(log) if f.name not in ARRAYS}
    values["tasks"] = [dataclasses.asdict(task) for task in log.tasks]
    return json.dumps(values, indent=1, allow_nan=False)


def _write_facts(folder: Path, log: Log) -> None:
    with (folder / "log.json").open("w") as file:
        file.write(_facts(log))
        file.flush()
        os.fsync(file.fileno())


def _move_into_place(beside: Path, folder: Path, content: str) -> None:
    with contextlib.suppress(OSError):  # the usual case: nobody is there
        beside.rename(folder)
        return
    if opened(folder, content) is not None:  # another process was faster, with the same content
        return
    broken = folder.with_name(f"{BUILDING}{uuid.uuid4().hex}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(broken)
        if broken.is_dir() and not broken.is_symlink():
            shutil.rmtree(broken, ignore_errors=True)
        else:
            broken.unlink()
    try:
        beside.rename(folder)
    except OSError:
        if opened(folder, content) is None:
            raise


def _remove_abandoned(cache: Path) -> None:
    for path in cache.glob(f"{BUILDING}*"):
        with contextlib.suppress(OSError):
            old = time.time() - path.stat().st_mtime > ABANDONED_SECONDS
            if old and _free(path):  # a clock that jumped makes everything old
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _held(folder: Path):
    """The system lets go of it when the process ends, however it ends. Where its disk knows no locks, age decides."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _free(folder: Path) -> bool:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        os.close(handle)
    return True


@contextlib.contextmanager
def _writing(cache: Path):
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise ValueError(f"cannot write to the cache {cache} ({error.strerror})") from error


def _read_index(index: Path) -> dict[str, list]:
    try:
        known = json.loads(index.read_text())
    except (OSError, ValueError):
        return {}
    return {k: v for k, v in known.items() if isinstance(v, list) and len(v) == 3} if isinstance(known, dict) else {}
