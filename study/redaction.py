"""Prints what a command says, without terminal control characters; removes secrets from messages and logs.

    https://user:password@host/x?token=abc  ->  https://***@host/x?token=***

The value of an environment variable counts as a secret if the variable's name says so (TOKEN, PASSWORD, SECRET, ...).
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO

MIN_SECRET_LENGTH = 6
"""Shorter values occur in ordinary words."""

MAX_LINE_LENGTH = 300

_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY|CREDENTIAL", re.I)
_PLACE = re.compile(r"(_PATH|_FILE|_DIR|_URI|_URL)$", re.I)
_USER = re.compile(r"\b((?!sqlite:///|file:///)[a-z][\w+.-]*://)[^\s'\"<>]*@", re.I)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|password|passwd|pwd|sig|signature|credential)[\w.-]*=)[^&;\s'\"#]+", re.I
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I)


def show(text: object, *, end: str = "\n", file: TextIO | None = None) -> None:
    """Print a text at once, `printable`. Whatever a command says goes through here. file: None is stdout."""
    print(printable(str(text)), end=end, file=file or sys.stdout, flush=True)


def redacted(text: str) -> str:
    """Return the text with each secret replaced by `***`."""
    # _USER matches up to the last @, since an unquoted password may contain one.
    text = _BEARER.sub(r"\1 ***", _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text)))
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


def printable(text: str) -> str:
    """Return the text with control characters escaped, except line breaks and tabs.

    A name from a record must not move a cursor, set a colour or turn the direction of writing.
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """Return a message as it may be shown: one line, printable, without secrets."""
    return printable(redacted(" ".join(text.split())))


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


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAME.search(name) and not _PLACE.search(name) and len(value) >= MIN_SECRET_LENGTH:
            yield value
