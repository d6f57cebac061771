"""Reads the files of a record one by one. What is not a file of a record is skipped with a warning.

Reading changes nothing. Only `study.record.repair`, whose caller holds the study's lock, moves a bad file to
`set_aside/`. A file that cannot be read now may be readable later, so it is an error and not a bad file.
"""

import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from study.storage import stores
from study.storage.stores import LocalStore, StorageError
from study.storage.untrusted_input import open_file
from study.text.console import first_line
from study.text.wording import count

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, pa.ArrowException)
"""What parsing a damaged or foreign file may raise."""

T = TypeVar("T")

OnBad = Callable[[Path, Path, str], None]
"""Called with the study's folder, a bad file and the reason."""


def read_file(folder: Path, name: str) -> bytes | None:
    """Return the content of a file of a record; None if there is no such file.

    Raises:
        StorageError: it cannot be read now, or it is no regular file of that folder.
    """
    try:
        with open_file(folder, name) as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {folder / name} ({error.strerror or error})") from error


def names_of(store: stores.Store, kind: str, suffix: str) -> list[str]:
    """Return the names of the files of one kind, without those that others left there, such as a README."""
    return [name for name in store.names(kind) if name.endswith(f".{suffix}")]


def read_beside(folder: Path, kind: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each file of one kind that lies beside the record, such as `signals/`.

    Args:
        folder: the study's folder.
        kind: the folder in it.
        suffix: of the files to read, such as "parquet".

    Raises:
        StorageError: as `read_file`.
    """
    for name in names_of(LocalStore(folder), kind, suffix):
        path = f"{kind}/{name}"
        if (content := read_file(folder, path)) is not None:
            yield path, content


def definition_text(folder: Path) -> bytes | None:
    """Return the content of a folder's `study.json`; None if there is none. Raises StorageError as `read_file`."""
    stores.store_for(folder).refresh("study.json")
    return read_file(folder, "study.json")


def origin_of(folder: Path) -> Path:
    """Return the study whose losses, failures, confirmations and weights count for a folder.

    For a rescored view it is the study that was judged again; any other study has its own.
    """
    view = folder.resolve()
    origin = view.parent.parent
    return origin if view.parent.name == "rescored" and definition_text(origin) is not None else folder


class BadFileError(ValueError):
    """The content of a file is not what was written."""


def parsed(read: Callable[[Any], T], content: Any) -> T:
    """Return what `read` returns for the content of a file. Raises BadFileError, with the reason, if that is bad."""
    try:
        return read(content)
    except MemoryError:  # of Arrow too: it says nothing about the file
        raise
    except UNREADABLE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageError(f"cannot read a file of the record ({error.strerror or error})") from error
        raise BadFileError(first_line(error)) from error


class BadFiles:
    """Bad files that are skipped, with one warning of all."""

    def __init__(self) -> None:
        self.reasons: dict[Path, str] = {}

    def add(self, _folder: Path, path: Path, reason: str) -> None:
        """Note a bad file."""
        self.reasons[path] = reason

    def warn(self) -> None:
        """Warn once, if there is a bad file."""
        for path, reason in [*self.reasons.items()][:1]:
            more = len(self.reasons) - 1
            beside = f" and {count(more, 'more file')}" if more else ""
            those = "they are ignored, and their" if more else "it is ignored, and its"
            warnings.warn(f"{path}{beside} cannot be read ({reason}); {those} runs count as missing", RuntimeWarning, 1)


def read_each(
    folder: Path,
    kind: str,
    suffix: str,
    read: Callable[[bytes], T],
    trials: Collection[str] | None = None,
    on_bad: OnBad | None = None,
) -> Iterator[tuple[Path, T]]:
    """Yield the path of each file of one kind, and what `read` returns for its content.

    Args:
        folder: the study's folder.
        kind: the folder in it, such as "runs".
        suffix: of the files to read, such as "parquet".
        read: parses a file's content; raises one of `UNREADABLE` on a bad file.
        trials: names of the trials to read; None reads all.
        on_bad: called for each bad file; None warns once of all.

    Raises:
        StorageError: a file cannot be read now.
    """
    if kind != "runs":
        folder = origin_of(folder)
    store = stores.store_for(folder)
    if trials is None:
        store.refresh(*(("runs", "losses") if kind in ("runs", "losses") else (kind,)))
    else:
        store.fetch([f"{part}/{trial}.parquet" for part in ("losses", "runs") for trial in trials])
    bad = BadFiles()
    for name in names_of(LocalStore(folder), kind, suffix):
        if trials is not None and name.removesuffix(f".{suffix}") not in trials:
            continue
        path, reason = f"{kind}/{name}", ""
        for anew in (False, True):
            if anew:
                store.fetch([path], anew=True)  # only the mirrored copy may be damaged
            content = read_file(folder, path)
            if content is None:
                break  # another process has set it aside
            try:
                found = parsed(read, content)
            except BadFileError as error:
                reason = str(error)
            else:
                yield folder / path, found
                break
        else:
            (on_bad or bad.add)(folder, folder / path, reason)
    bad.warn()
