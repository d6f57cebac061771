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
_USER = re.compile(r"\b((?!sqlite:///|file:///)[a-z][\w+.-]*://)[^\s'\"<>]*@", re.I)
_QUERY = re.compile(
    r"([?&;][\w.-]*(?:token|key|secret|password|passwd|pwd|sig|signature|credential)[\w.-]*=)[^&;\s'\"#]+", re.I
)
_BEARER = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.I)


def redacted(text: str) -> str:
    """Return the text with each secret replaced by `***`."""
    # _USER matches up to the last @, since an unquoted password may contain one.
    text = _BEARER.sub(r"\1 ***", _QUERY.sub(r"\1***", _USER.sub(r"\1***@", text)))
    for secret in _secrets():
        text = text.replace(secret, "***")
    return text


def _secrets() -> Iterator[str]:
    for name, value in os.environ.items():
        if _NAME.search(name) and not _PLACE.search(name) and len(value) >= MIN_SECRET_LENGTH:
            yield value
