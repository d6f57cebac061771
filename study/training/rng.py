"""Named random streams of a run's seed, and the order in which a seed reads the log.

A stream is named by its purpose, so that a new draw changes no other. A seed means the same weights and the same
batches for every method, learning rate and threshold.
"""

import hashlib
from collections.abc import Iterator

import numpy as np


def stream(seed: int, *name: str) -> int:
    """Return a 63-bit seed for the stream of that name."""
    digest = hashlib.sha256("/".join([str(seed), *name]).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def batches(seed: int, *, rows: int, batch: int, window: int, steps: int) -> Iterator[np.ndarray]:
    """Yield the row numbers, int64 (batch,), of each batch.

    Rows are shuffled inside consecutive windows and read in that order. A batch may span two windows. After the last
    row comes another pass, shuffled anew. One window is in memory at a time.

    Args:
        seed: The seed of the run.
        rows: Rows of the log, ordered by time.
        batch: Rows of a batch.
        window: Rows of a window.
        steps: Batches to yield.
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
