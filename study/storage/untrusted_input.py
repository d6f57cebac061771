"""Checks of values and files that may come from someone else, or be damaged.

A value must have its type, be finite and of a sensible size; names hold no control characters. A bad one raises a
ValueError that says what is wrong.
"""

import math
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 1 << 30
"""Largest file, unpacked."""

MAX_DESCRIPTION_BYTES = 1 << 20
"""Longest description in a file of arrays: 15,000 runs of a stack, or 10,000 features of weights."""

MAX_NAME_LENGTH = 500

LINKED_FOLDERS = ("runs", "losses", "failures", "confirm", "init")
"""Folders of a study that may be links: those of a rescored view are."""


def refuse_links(folder: Path) -> None:
    """Raise ValueError if something that we write to in a study's folder is a link."""
    if not folder.is_dir():
        return
    for part in (folder, *(folder / name for name in ("tables", "figures", "rescored", "set_aside"))):
        for path in part.iterdir() if part.is_dir() else ():
            if path.is_symlink() and not (part == folder and path.name in LINKED_FOLDERS):
                raise ValueError(f"{path} is a link, and no study makes one there: remove it first")


def check_name(value: Any, what: str) -> str:
    """Return a name: printable, not empty, and at most `MAX_NAME_LENGTH` characters."""
    require(isinstance(value, str), f"{what} is {shorten(value)}")
    require(0 < len(value) <= MAX_NAME_LENGTH, f"{what} has {len(value):,} characters")
    require(value.isprintable(), f"{what} holds control characters: {shorten(value)}")
    return value


def check_number(value: Any, what: str) -> float:
    """Return a finite number as a float."""
    require(isinstance(value, int | float) and not isinstance(value, bool), f"{what} is {shorten(value)}")
    require(abs(value) < 1e300, f"{what} is {shorten(value)}")
    return float(value)


def check_integer(value: Any, what: str) -> int:
    """Return an integer that fits in 64 bits."""
    require(isinstance(value, int) and not isinstance(value, bool), f"{what} is {shorten(value)}")
    require(abs(value) < 1 << 62, f"{what} is {shorten(value)}")
    return value


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
