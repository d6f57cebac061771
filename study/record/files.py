"""Reads the files of a record one by one. A file that cannot be read is moved to `set_aside/`, with a warning."""

import uuid
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from study.redaction import first_line
from study.storage import stores

UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError, pa.ArrowException)
"""What reading a damaged or foreign file may raise."""

T = TypeVar("T")


def read_each(
    folder: Path, kind: str, suffix: str, read: Callable[[bytes], T], trials: Collection[str] | None = None
) -> Iterator[tuple[Path, T]]:
    """Yield the path of each file of one kind, and what `read` returns for its content.

    Args:
        folder: the study's folder.
        kind: the folder in it, such as "runs".
        suffix: of the files to read, such as "parquet".
        read: parses a file's content; raises one of `UNREADABLE` on a bad file.
        trials: names of the trials to read; None reads all.
    """
    store = stores.store_for(folder)
    if trials is None:
        store.refresh(*(("runs", "losses") if suffix == "parquet" else (kind,)))
    else:
        store.fetch([f"{part}/{trial}.parquet" for part in ("losses", "runs") for trial in trials])
    paths = sorted((folder / kind).glob(f"[!.]*.{suffix}"))
    for path in paths if trials is None else [path for path in paths if path.stem in trials]:
        try:
            try:
                found = read(path.read_bytes())
            except UNREADABLE:
                store.fetch([f"{kind}/{path.name}"], anew=True)  # only the mirrored copy may be damaged
                found = read(path.read_bytes())
        except FileNotFoundError:
            continue  # another process has set it aside
        except UNREADABLE as error:
            set_aside(folder, path, first_line(error))
        else:
            yield path, found


def set_aside(folder: Path, path: Path, reason: str) -> None:
    """Move an unreadable file to `set_aside/`, and warn."""
    name = f"set_aside/{path.parent.name}-{path.stem}-{uuid.uuid4().hex[:8]}{path.suffix}"
    try:
        stores.store_for(folder).move(path.relative_to(folder).as_posix(), name)
        where = f"set aside as {stores.address(folder)}/{name}"
    except stores.StorageError:
        where = "left in place, and ignored"
    warnings.warn(f"{path} cannot be read ({reason}); {where}; its runs count as missing", RuntimeWarning, stacklevel=3)
