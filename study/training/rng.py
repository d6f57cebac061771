"""Named random streams of a run's seed, and the order in which a seed reads the log.

A stream is named by what it is for, so that adding one draw moves no other. Seed s means the same weights and the
same batches for every method, learning rate and threshold.
"""

import hashlib
from collections.abc import Iterator

import numpy as np


def stream(seed: int, *name: str) -> int:
    """A 63-bit seed for the stream of that name."""
    digest = hashlib.sha256("/".join([str(seed), *name]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def batches(seed: int, *, rows: int, batch: int, window: int, steps: int) -> Iterator[np.ndarray]:
    """Row numbers, int64 (batch,), of each of `steps` batches over `rows` time-ordered rows.

    Rows are shuffled inside consecutive windows and read in that order; a batch may span two windows. After the last
    row comes another pass, shuffled anew. Holds one window at a time.
    """
    rng = np.random.Generator(np.random.PCG64(stream(seed, "batches")))
    pending = np.empty(0, dtype=np.int64)
    start = 0
    for _ in range(steps):
        while len(pending) < batch:
            stop = min(start + window, rows)
            pending = np.concatenate([pending, start + rng.permutation(stop - start)])
            start = stop % rows
        yield pending[:batch]
        pending = pending[batch:]
