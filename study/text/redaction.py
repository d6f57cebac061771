"""Removes secrets from messages and logs.

    https://user:password@host/x?token=abc  ->  https://***@host/x?token=***

The value of an environment variable counts as a secret if the variable's name says so (TOKEN, PASSWORD, SECRET, ...).
"""

import os
import re
from collections.abc import Iterator

MIN_SECRET_LENGTH = 6
"""Shorter values occur in ordinary words."""

_NAME = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY|CREDENTIAL", re.I)
_PLACE = re.compile(r"(_PATH|_FILE|_DIR|_URI|_URL)$", re.I)
_WORD = re.compile(r"[^\s'\"<>]+")
# With the lookaheads, the time of _SCHEME and _QUERY is linear in the length of a text without blanks.
_SCHEME = re.compile(r"(?<![\w+.-])(?=[\w+.-]+://)[\w+.-]*?\b(?!sqlite:///|file:///)[a-z][\w+.-]*://", re.I)
_QUERY = re.compile(
    r"([?&;](?=[\w.-]*?(?:token|key|secret|password|passwd|pwd|sig|signature|credential))[\w.-]*=)[^&;\s'\"#]+", re.I
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I)


def redacted(text: str) -> str:
    """Return the text with each secret replaced by `***`."""
    text = _BEARER.sub(r"\1 ***", _QUERY.sub(r"\1***", _WORD.sub(_without_user, text)))
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


def _without_user(word: re.Match[str]) -> str:
    # Up to the last @, since an unquoted password may contain one.
    before, at, after = word[0].rpartition("@")
    scheme = _SCHEME.search(before)
    return f"{before[: scheme.end()]}***{at}{after}" if scheme else word[0]


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAME.search(name) and not _PLACE.search(name) and len(value) >= MIN_SECRET_LENGTH:
            yield value
