"""The embedding tables of a stack: one gather for all runs of a seed, and updates of touched rows only.

Runs of a seed read the same batches, so their rows of one id are side by side. The table is (groups * ids, runs of a
group * dim), and a batch is one `index_select`. The gradients of an id are summed in the order of its occurrences in
the batch, column by column, so a run's bits do not depend on its neighbours. On a GPU one thread sums a column, so the
sum is deterministic there too.

Shape letters: G groups (one seed each), K runs of a group, R = G * K runs, B batch, F features, E embedding
dimension, V ids of all features, U touched ids.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.streams import stream
from study.training.packed_copy import words
from study.training.touched_rows import TableBlocks, touched_or_none

IDS_AT_A_TIME = 2**13
"""Ids whose rows are checked together at the end, so that memory does not grow with the table."""


class EmbeddingTables:
    """Embedding rows and their Adagrad accumulators for G groups of K runs.

    Args:
        vocabulary: Codes of each of the F id features.
        names: Of the features.
        seeds: One per group.
        runs_of_group: K.
        dim: E.
        std: Standard deviation of the initial rows N(0, std), drawn by seed and feature.
        initial_accumulator: Adagrad's G0.
        start: Initial rows (codes, dim) of each feature, the same for all runs, instead of random ones.
        start_accumulator: Initial accumulators, likewise.
        lengths: Columns of ids of each feature, where some are lists; the end of a list is -1.
    """

    def __init__(
        self,
        vocabulary: Sequence[int],
        names: Sequence[str],
        seeds: Sequence[int],
        runs_of_group: int,
        *,
        dim: int,
        std: float,
        initial_accumulator: float,
        dtype: torch.dtype,
        device: torch.device,
        start: Sequence[Tensor] | None = None,
        start_accumulator: Sequence[Tensor] | None = None,
        lengths: Sequence[int] = (),
    ) -> None:
        self.groups, self.runs, self.dim = len(seeds), runs_of_group, dim
        self.features = len(vocabulary)
        self.ids = int(sum(vocabulary))
        self.starts = [0, *np.cumsum(vocabulary, dtype=np.int64).tolist()]
        """The first id of each feature, and after them the number of all ids."""
        self.lengths = list(lengths) if lengths else [1] * self.features
        self.has_lists = bool(lengths)
        starts_C = np.repeat(np.array(self.starts[:-1], dtype=np.int64), self.lengths)
        self.starts_C = torch.from_numpy(starts_C).to(device)
        # One row more than ids means "no row" where the number of touched rows is not read back.
        self.no_row = self.groups * self.ids
        self.weight = torch.zeros(self.no_row + 1, self.runs * dim, dtype=dtype, device=device)
        weight = self._by_id(self.weight)
        for group, seed in enumerate(seeds):
            for f, (name, first, codes) in enumerate(zip(names, self.starts[:-1], vocabulary, strict=True)):
                rows = _normal(stream(seed, "embeddings", name), codes, dim).mul_(std) if start is None else start[f]
                weight[group, first : first + codes] = rows.to(device, dtype).unsqueeze(1)
        self.accumulator = torch.full_like(self.weight, initial_accumulator)
        self.accumulator[self.no_row] = 1.0  # so that its update is 0, whatever G0 and eps are
        if start_accumulator is not None:
            for rows, initial in zip(self.of_feature(self.accumulator), start_accumulator, strict=True):
                rows.copy_(initial)

    def positions(self, ids_GBF: Tensor) -> Tensor:
        """Return the rows of the table, int64 (G * B * F,), for a batch of ids; `no_row` after the end of a list."""
        groups_G11 = torch.arange(self.groups, device=ids_GBF.device).view(-1, 1, 1)
        rows_GBF = ids_GBF + (self.starts_C + groups_G11 * self.ids)
        return (rows_GBF.masked_fill_(ids_GBF < 0, self.no_row) if self.has_lists else rows_GBF).view(-1)

    def read(self, positions: Tensor, out_GBFKE: Tensor) -> None:
        """Copy the rows of a batch, for all runs of each group."""
        torch.index_select(self.weight, 0, positions, out=out_GBFKE.view(len(positions), -1))

    def gradients(
        self, positions: Tensor, gradient_GBFKE: Tensor, blocks: TableBlocks | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the touched rows (N,), and their summed gradients (N, K * E), with nothing read back from the device.

        There are as many rows as positions. Those that are too many are `no_row`, with a gradient of zero.

        Args:
            positions: As `positions` returned them.
            gradient_GBFKE: The gradient by each embedding of the batch.
            blocks: Gives the rows of each table a block of their own. None: they are in ascending order.
        """
        rows_N, order, offsets_N = blocks.touched(positions) if blocks else touched_or_none(positions, self.no_row)
        occurrences = gradient_GBFKE.view(len(positions), -1)
        return rows_N, functional.embedding_bag(order, occurrences, offsets_N, mode="sum")

    def adagrad(
        self, rows_U: Tensor, gradient: Tensor, lr_GK: Tensor, eps: float, weight: Tensor | None = None
    ) -> None:
        """Update the touched rows: `G += g * g ; w -= lr * g / sqrt(G + eps)`.

        Args:
            rows_U: The touched rows.
            gradient: Their gradients (U, K * E).
            lr_GK: The lr of each run.
            eps: Inside the root.
            weight: The touched rows (U, K * E), if they were read already. They are overwritten.
        """
        work = gradient * gradient
        accumulator = self.accumulator.index_select(0, rows_U).add_(work)
        _put(self.accumulator, rows_U, accumulator)
        update = torch.div(gradient, accumulator.add_(eps).sqrt_(), out=work)
        # One lr for each number: a broadcast over few numbers costs six times as much.
        lr = lr_GK.repeat_interleave(self.dim, dim=1).index_select(0, self._groups(rows_U))
        weight = self.weight.index_select(0, rows_U) if weight is None else weight
        _put(self.weight, rows_U, weight.sub_(update.mul_(lr)))

    def without(self, rows_U: Tensor, gradient: Tensor, runs_GK: Tensor) -> Tensor:
        """Return the gradient with zeros for these runs, which Adagrad then does not change."""
        out = runs_GK.index_select(0, self._groups(rows_U)).unsqueeze(-1)
        return gradient.view(-1, self.runs, self.dim).masked_fill(out, 0.0).flatten(1)

    def of_run(self, table: Tensor) -> Tensor:
        """Return a view (G, K, V, E) of the weight or the accumulator."""
        return self._by_id(table).transpose(1, 2)

    def of_feature(self, table: Tensor) -> list[Tensor]:
        """Return a view (G, K, codes, E) of the weight or the accumulator for each feature."""
        rows = self.of_run(table)
        return [rows[:, :, first:stop] for first, stop in itertools.pairwise(self.starts)]

    def segments(self, rows_U: Tensor) -> list[tuple[int, int, slice]]:
        """Return (group, feature, its rows among the touched) for each table that the batch touched.

        Its sizes depend on the rows, so it is for the CPU.
        """
        tables = (rows_U // self.ids) * self.features
        tables = tables + torch.searchsorted(torch.tensor(self.starts), rows_U % self.ids, right=True) - 1
        counts = torch.bincount(tables, minlength=self.groups * self.features).tolist()
        stops = np.cumsum(counts)
        return [
            (table // self.features, table % self.features, slice(int(stop - count), int(stop)))
            for table, (count, stop) in enumerate(zip(counts, stops, strict=True))
            if count
        ]

    def finite(self) -> Tensor:
        """Return whether all embedding rows of each run are finite, bool (R,)."""
        blocks = self._by_id(self.weight).split(IDS_AT_A_TIME, dim=1)
        finite = [block.isfinite().all(dim=3).all(dim=1) for block in blocks]
        return torch.stack(finite).all(0).flatten()

    def _groups(self, rows_U: Tensor) -> Tensor:
        """The group of each row; that of `no_row` is the last."""
        return (rows_U // self.ids).clamp_(max=self.groups - 1)

    def _by_id(self, rows: Tensor) -> Tensor:
        """A view (G, V, K, E) of all rows except `no_row`."""
        return rows[: self.no_row].view(self.groups, self.ids, self.runs, self.dim)


def _put(table: Tensor, rows_U: Tensor, values: Tensor) -> None:
    table, values = words(table, values)
    table.index_copy_(0, rows_U, values)


def _normal(seed: int, rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
