"""Checks of values and files that may come from someone else, or be damaged.

A value must have its type, be finite and of a sensible size; names hold no control characters. A bad one raises a
ValueError that says what is wrong. A record's files are regular files of its own folder: no link in it is followed.
"""

import errno
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import IO, Any

from study.storage.errors import StorageError

MAX_FILE_BYTES = 1 << 30
"""Largest file, unpacked."""

MAX_DESCRIPTION_BYTES = 1 << 20
"""Longest description in a file of arrays: 15,000 runs of a stack, or 10,000 features of weights."""

MAX_NAME_LENGTH = 500

FOLDERS = (
    *("runs", "losses", "failures", "confirm", "init", "rescored", "tables", "figures", "set_aside", "checkpoints"),
    *("training", "lease", "replay", "signals", "weights", "mlflow-artifacts", "range_tests"),
)
"""Folders of a study in which we write. A user's loop may keep links in `loops/`."""

VIEW_FOLDERS = ("losses", "failures", "confirm", "init")
"""Folders that a rescored view shares with its study. Earlier versions put links to them into the view."""

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

FILE_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: to open a pipe would wait for its writer."""


def refuse_links(folder: Path) -> None:
    """Raise ValueError if a study's folder holds something else than files and folders where we read or write.

    A file in place of one of FOLDERS would stop a command after it has written or trained. A link could lead anywhere,
    and to open a pipe may wait forever.
    """
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        try:
            entries = list(os.scandir(at))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_file(follow_symlinks=False) and at == folder and entry.name in FOLDERS:
                raise StorageError(_not_ours(Path(entry)))
            if entry.is_dir(follow_symlinks=False):
                waiting += [Path(entry)] if at != folder or entry.name in FOLDERS else []
            elif not entry.is_file(follow_symlinks=False) and not _is_link_of_view(Path(entry)):
                raise StorageError(_not_ours(Path(entry)))


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a folder, to write to. Raises StorageError if a link is on the way."""
    path = folder
    for part in Path(name).parts:
        path /= part
        if path.is_symlink():
            raise StorageError(_not_ours(path))
    return path


def open_file(folder: Path, name: str, max_bytes: int | None = MAX_FILE_BYTES) -> IO[bytes]:
    """Open a file in a folder to read it. No link below the folder is followed, and nothing is waited for.

    Args:
        folder: the folder.
        name: of the file, relative to it.
        max_bytes: the largest size that is accepted; None accepts every size.

    Raises:
        StorageError: it is too large, or no regular file, or behind a link.
        OSError: it cannot be opened now.
    """
    *parents, last = Path(name).parts
    at = os.open(folder, FOLDER_FLAGS)
    try:
        for part in parents:
            outer, at = at, os.open(part, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=at)
            os.close(outer)
        number = os.open(last, FILE_FLAGS | os.O_NOFOLLOW, dir_fd=at)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            inside(folder, name)
        raise
    finally:
        os.close(at)
    state, wrong = os.fstat(number), ""
    if not stat.S_ISREG(state.st_mode):
        wrong = _not_ours(folder / name)
    elif max_bytes is not None and state.st_size > max_bytes:
        wrong = f"{folder / name} has {state.st_size:,} bytes; the most is {max_bytes:,}"
    if wrong:
        os.close(number)
        raise StorageError(wrong)
    return os.fdopen(number, "rb")


def open_named(path: Path, max_bytes: int | None = MAX_FILE_BYTES) -> io.BufferedReader:
    """Open a file that the user named, to read it. Links are followed, and nothing is waited for.

    Args:
        path: the file.
        max_bytes: the largest size that is accepted; None accepts every size.

    Raises:
        OSError: it cannot be opened now, is no regular file, or is too large. A device may have no end.
    """
    number = os.open(path, FILE_FLAGS)
    state, wrong = os.fstat(number), None
    if stat.S_ISDIR(state.st_mode):
        wrong = OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    elif not stat.S_ISREG(state.st_mode):
        wrong = OSError(errno.EINVAL, "no regular file")
    elif max_bytes is not None and state.st_size > max_bytes:
        wrong = OSError(errno.EFBIG, f"it has {state.st_size:,} bytes, and at most {max_bytes:,} are read")
    if wrong:
        os.close(number)
        raise wrong
    return os.fdopen(number, "rb")


def _is_link_of_view(path: Path) -> bool:
    in_view = path.parent.parent.name == "rescored" and path.name in VIEW_FOLDERS
    return in_view and path.is_symlink() and os.readlink(path) == os.path.join("..", "..", path.name)


def _not_ours(path: Path) -> str:
    kinds = {"a link": path.is_symlink(), "a folder": path.is_dir(), "a file": path.is_file()}
    kind = next((kind for kind, is_kind in kinds.items() if is_kind), "no regular file")
    return f"{path} is {kind}, and no study makes one there: remove it first"


def check_name(value: Any, what: str) -> str:
    """Return a name: printable, not empty, and at most `MAX_NAME_LENGTH` characters."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is {shorten(value)}")
    require(0 < len(value) <= MAX_NAME_LENGTH, f"{what} has {len(value):,} characters")
    if not value.isprintable():
        raise ValueError(f"{what} holds control characters: {shorten(value)}")
    return value


def check_number(value: Any, what: str) -> float:
    """Return a finite number as a float."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e300:
        raise ValueError(f"{what} is {shorten(value)}")
    return float(value)


def check_integer(value: Any, what: str) -> int:
    """Return an integer that fits in 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 62:
        raise ValueError(f"{what} is {shorten(value)}")
    return value


def json_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object that a text holds. Raises ValueError if it holds none."""
    try:
        found = json.loads(text, parse_constant=_reject_constant)
    except RecursionError:
        raise ValueError("nested too deep") from None
    require(isinstance(found, dict), "not a JSON object")
    return found


def _reject_constant(word: str) -> None:
    raise ValueError(f"{word} is not allowed in JSON")


def check_json(value: Any) -> None:
    """Check that every number in a JSON value is finite, and every text printable."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item
        elif isinstance(item, str):
            require(item.isprintable(), f"it holds control characters: {shorten(item)}")
        elif isinstance(item, float):
            require(math.isfinite(item), f"it holds {item}")


def shorten(value: Any) -> str:
    """Return a value's `repr`, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message, unless the condition holds."""
    if not condition:
        raise ValueError(message)
