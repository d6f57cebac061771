"""Words that several parts print."""

from collections.abc import Iterable
from typing import Any


def quoted(names: Iterable[Any]) -> str:
    """Return `'none', 'agc'`: a method may be called `none`. Numbers are as they are."""
    return ", ".join(repr(name) if isinstance(name, str) else str(name) for name in names)


def count(n: float, word: str) -> str:
    """Return `1 run`, or `2,000 runs`."""
    return f"{n:,.0f} {word}" + ("" if n == 1 else "s")
