"""Words that several parts print."""


def count(n: float, word: str) -> str:
    """Return `1 run`, or `2 runs`."""
    return f"{n:.0f} {word}" + ("" if n == 1 else "s")
