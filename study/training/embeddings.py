"""The embedding tables of a stack: one gather for all runs of a seed, and updates of touched rows only.

Runs of a seed read the same batches, so their rows of one id are side by side. The table is (groups * ids, runs of a
group * dim), and a batch is one `index_select`. The gradients of an id are summed in the order of its occurrences in
the batch, column by column, so a run's bits do not depend on its neighbours. On a GPU one thread sums a column, so the
sum is deterministic there too.

Shape letters: G groups (one seed each), K runs of a group, R = G * K runs, B batch, F features, E embedding
dimension, V ids of all features, U touched ids.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from study.streams import stream
from study.training.packed_copy import words

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
        starts = np.concatenate([[0], np.cumsum(vocabulary)[:-1]]) if self.features else np.zeros(0)
        self.starts_F = torch.as_tensor(starts, dtype=torch.int64, device=device)
        self.has_lists = bool(lengths)
        of_columns = np.repeat(starts, lengths) if lengths else starts
        self.starts_C = torch.as_tensor(of_columns, dtype=torch.int64, device=device)
        # One row more than ids means "no row" where the number of touched rows is not read back.
        self.no_row = self.groups * self.ids
        self.weight = torch.zeros(self.no_row + 1, self.runs * dim, dtype=dtype, device=device)
        weight = self._by_id(self.weight)
        for group, seed in enumerate(seeds):
            for f, (name, first, codes) in enumerate(zip(names, starts.tolist(), vocabulary, strict=True)):
                rows = _normal(stream(seed, "embeddings", name), codes, dim).mul_(std) if start is None else start[f]
                weight[group, int(first) : int(first) + codes] = rows.to(device, dtype).unsqueeze(1)
        self.accumulator = torch.full_like(self.weight, initial_accumulator)
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

    def gradients(self, positions: Tensor, gradient_GBFKE: Tensor, *, fixed: bool = False) -> tuple[Tensor, Tensor]:
        """Return the touched rows (U,), in ascending order, and their summed gradients (U, K * E).

        Args:
            positions: As `positions` returned them.
            gradient_GBFKE: The gradient by each embedding of the batch.
            fixed: Whether U is always the number of positions, so that nothing is read back from the device. The last
                rows are then `no_row`, with a gradient of zero.
        """
        rows_U, order, offsets_U = touched_or_none(positions, self.no_row) if fixed else touched(positions)
        occurrences = gradient_GBFKE.view(len(positions), -1)
        return rows_U, functional.embedding_bag(order, occurrences, offsets_U, mode="sum")

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
        starts = [*self.starts_F.tolist(), self.ids]
        rows = self.of_run(table)
        return [rows[:, :, first:stop] for first, stop in itertools.pairwise(starts)]

    def segments(self, rows_U: Tensor) -> list[tuple[int, int, slice]]:
        """Return (group, feature, its rows among the touched) for each table that the batch touched.

        It reads sizes back from the device, so it is for methods that act on embeddings only.
        """
        tables = (rows_U // self.ids) * self.features
        tables = tables + torch.searchsorted(self.starts_F, rows_U % self.ids, right=True) - 1
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


@dataclass(frozen=True, kw_only=True)
class TouchedRows:
    """The rows of a group that a batch touches.

    Args:
        rows: int64 (U,), in ascending order.
        order: (N,), the places in the batch, sorted by row; a stable sort.
        offsets: (U,), where each row begins in that order.
        places: (N,), for each id of the batch, its row among those touched.
    """

    rows: Tensor
    order: Tensor
    offsets: Tensor
    places: Tensor


def touched_by_groups(positions: Tensor, groups: int, ids: int) -> list[TouchedRows]:
    """Return the rows that a batch touches, by group, on CPU.

    Args:
        positions: As `EmbeddingTables.positions` returned them.
        groups: G.
        ids: Ids of one group.
    """
    found: list[TouchedRows] = []
    own, own_values = _touched(np.zeros(0, np.int64)), np.zeros(0, np.int64)
    for group, positions_N in enumerate(positions.view(groups, -1).numpy()):
        values = positions_N - group * ids
        # Groups share held-out batches, and all batches if they share a seed.
        if not np.array_equal(values, own_values):
            own, own_values = _touched(values), values
        found.append(dataclasses.replace(own, rows=own.rows + group * ids))
    return found


def touched_rows(values: np.ndarray, first: int) -> TouchedRows:
    """Return the rows that ids touch, as places after the row `first`."""
    found = _touched(values)
    return dataclasses.replace(found, rows=found.rows + first)


def _touched(values: np.ndarray) -> TouchedRows:
    # One integer of value and place: numpy sorts integers with vector instructions, and int32 twice as fast.
    bits = max(len(values) - 1, 1).bit_length()
    small = int(values.max(initial=0)).bit_length() + bits < 32
    keys = values.astype(np.int32 if small else np.int64) << bits
    keys |= np.arange(len(values), dtype=keys.dtype)
    keys.sort()
    order, ordered = keys & ((1 << bits) - 1), keys >> bits
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])[: len(values)]
    offsets = np.flatnonzero(begins).astype(order.dtype)
    places = np.empty_like(order)
    places[order] = np.cumsum(begins, dtype=order.dtype) - 1
    return TouchedRows(
        rows=torch.from_numpy(ordered[offsets].astype(np.int64)),
        order=torch.from_numpy(order),
        offsets=torch.from_numpy(offsets),
        places=torch.from_numpy(places),
    )


def touched(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct values (U,), the stable order that sorts `positions`, and where each value begins (U,)."""
    ordered, order = torch.sort(positions, stable=True)
    rows_U, counts = torch.unique_consecutive(ordered, return_counts=True)
    return rows_U, order, counts.cumsum(0) - counts


def touched_or_none(positions: Tensor, none: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `touched`, padded to the length of `positions` with the value `none`, which has no places."""
    count = len(positions)
    ordered, order = torch.sort(positions, stable=True)
    places = torch.arange(count, device=positions.device)
    begins = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=begins[1:])
    of_value = begins.cumsum(0) - 1
    rows_U = torch.full_like(ordered, none).scatter_(0, of_value, ordered)
    offsets_U = torch.full_like(ordered, count).scatter_reduce_(0, of_value, places, "amin")
    return rows_U, order, offsets_U


def _put(table: Tensor, rows_U: Tensor, values: Tensor) -> None:
    table, values = words(table, values)
    table.index_copy_(0, rows_U, values)


def _normal(seed: int, rows: int, dim: int) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
