"""Prints what a command says, and makes text from outside printable: no control characters, no secrets, one line."""

import re
import sys
from collections.abc import Iterable
from typing import TextIO

from study.text.redaction import redacted

MAX_LINE_LENGTH = 300


def show(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text at once, `printable`. Whatever a command says goes through here. file: None is stdout."""
    print(printable(str(text)), end=end, file=file or sys.stdout, flush=True)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and type(ipython.get_ipython()).__name__ == "ZMQInteractiveShell"


def printable(text: str) -> str:
    """Return the text with control characters escaped, except line breaks and tabs.

    A name from a record must not move a cursor, set a colour or turn the direction of writing.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def joined_lines(text: str) -> str:
    """Return the lines of a text as one. A name with two blanks keeps them."""
    return " ".join(part for line in re.split(r"[^\S ]+", text) if (part := line.strip()))


def one_line(text: str) -> str:
    """Return a message as it may be shown: one line, printable, without secrets."""
    return printable(redacted(joined_lines(text)))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, as it may be shown."""
    return _shown_line(error, str(error).splitlines())


def kind_and_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, as they may be shown."""
    return ": ".join(dict.fromkeys((type(error).__name__, first_line(error))))


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message, as it may be shown. Ray puts a traceback before it."""
    return _shown_line(error, reversed(str(error).splitlines()))


def _shown_line(error: BaseException, lines: Iterable[str]) -> str:
    filled = (line.strip() for line in lines if line.strip())
    return one_line(next(filled, type(error).__name__))[:MAX_LINE_LENGTH]
