"""Seeds of independent random streams, by name.

A stream is named by its purpose, so that a new draw changes no other.
"""

import hashlib


def stream(seed: int, *name: str) -> int:
    """Return a 63-bit seed for the stream of that name."""
    digest = hashlib.sha256("/".join([str(seed), *name]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
