"""The order in which a seed reads the log: the same batches for every method, learning rate and threshold."""

from collections.abc import Iterator

import numpy as np

from study.streams import stream


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
