"""The rows of a log on the device of a stack.

Shape letters: G groups of runs that share a seed, B batch, F id features, D numbers, T tasks, N rows.
"""

import itertools
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from study.config import Recipe
from study.data._dataset import Log
from study.training.pooling import lists_of
from study.training.rng import batches


class DeviceLog:
    """A log as tensors, in the precision of its files: only the rows of a batch are converted to that of the runs."""

    def __init__(self, log: Log, device: torch.device) -> None:
        self.tasks, self.train_rows, self.device = log.tasks, log.train_rows, device
        self.lists = lists_of(log.lengths, log.pools)
        self.ids_NF = _tensor(log.ids).to(device)
        self.numbers_ND = _tensor(log.numbers).to(device)
        self.labels_NT = _tensor(log.labels).to(device)
        self.heldout_labels = np.asarray(log.labels[log.train_rows :])
        """Labels (N, T) of the held-out rows, on the host."""
        self.labels_are_missing = bool(np.isnan(log.labels).any())

    def ids(self, rows_GB: Tensor) -> Tensor:
        """Return the ids (G, B, F) of a batch."""
        return _rows(self.ids_NF, rows_GB)

    def numbers(self, rows_GB: Tensor) -> Tensor:
        """Return the numbers (G, B, D) of a batch."""
        return _rows(self.numbers_ND, rows_GB)

    def labels(self, rows_GB: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the labels (G, T, B) of a batch, NaN where missing."""
        return _rows(self.labels_NT, rows_GB).mT.contiguous().to(dtype)

    def batches(self, seeds: Sequence[int], recipe: Recipe, steps: int, first: int = 0) -> Iterator[Tensor]:
        """Yield the row numbers (G, B) of each step.

        Args:
            seeds: One per group.
            recipe: Its batch and window.
            steps: Steps of the whole training.
            first: The first step to yield.
        """
        streams = {
            seed: batches(seed, rows=self.train_rows, batch=recipe.batch, window=recipe.window, steps=steps)
            for seed in dict.fromkeys(seeds)
        }
        for rows_of_seed in itertools.islice(zip(*streams.values(), strict=True), first, None):
            rows = dict(zip(streams, rows_of_seed, strict=True))
            rows_GB = torch.from_numpy(np.stack([rows[seed] for seed in seeds]))
            if self.device.type == "cuda":
                rows_GB = rows_GB.pin_memory()  # a copy of other memory may wait for the stream
            yield rows_GB.to(self.device, non_blocking=True)


def _rows(values: Tensor, rows_GB: Tensor) -> Tensor:
    return values.index_select(0, rows_GB.flatten()).view(*rows_GB.shape, values.shape[1])


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():
        # torch warns of memory maps and Ray's shared arrays, which are read-only. Nothing here writes to them.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
