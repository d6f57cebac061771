"""What may be said in a message or a log, or on a command line: no secret, and nothing that steers a terminal.

    https://user:password@host/x?token=abc  ->  https://***@host/x?token=***

Values of this process's settings that are secrets (a name with TOKEN, PASSWORD, SECRET or KEY in it) are left out
wherever they stand.
"""

import os
import re
from collections.abc import Iterator

SHORTEST = 6
"""Letters of a setting's value that counts as a secret: shorter ones stand in ordinary words."""

_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY|CREDENTIAL", re.I)
_NO_SECRET = re.compile(r"(_PATH|_FILE|_DIR|_URI|_URL)$", re.I)
_USER = re.compile(r"\b((?!sqlite:///|file:///)[a-z][\w+.-]*://)[^\s'\"<>]*@", re.I)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|password|passwd|pwd|sig|signature|credential)[\w.-]*=)[^&;\s'\"#]+", re.I
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I)


def redacted(text: str) -> str:
    """The text without the secrets that it may hold."""
    # Up to the last @, since a password that nobody has quoted may hold any of the others.
    text = _BEARER.sub(r"\1 ***", _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text)))
    for secret in _settings():
        text = text.replace(secret, "***")
    return text


def printable(text: str) -> str:
    """The text with control characters written out, but for line breaks and tabs: a name must not move a cursor, set
    a colour or a title, or turn the direction of writing."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """A message as it may be shown: on one line, printable, without secrets."""
    return printable(redacted(" ".join(text.split())))


def _settings() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAME.search(name) and not _NO_SECRET.search(name) and len(value) >= SHORTEST:
            yield value
