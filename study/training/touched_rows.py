"""Which rows of the tables a batch touches, and where.

On CPU by sorted integers of numpy. On other devices every size is fixed, since reading one back would wait.

Shape letters: G groups, B batch, F id features, C columns of ids (a list takes several), N = G * B * C positions.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


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


def touched_or_none(positions: Tensor, none: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows that a batch touches, on any device: as many as positions, so that no size is read back.

    Args:
        positions: As `EmbeddingTables.positions` returned them, (N,).
        none: The row that stands for no row. It follows the distinct rows, and has no places.

    Returns:
        The distinct rows in ascending order, padded with `none`, (N,); the stable order that sorts `positions`; where
        each row begins in that order.
    """
    count = len(positions)
    ordered, order = torch.sort(positions, stable=True)
    places = torch.arange(count, device=positions.device)
    of_value = _begins(ordered).cumsum(0) - 1
    rows_U = torch.full_like(ordered, none).scatter_(0, of_value, ordered)
    offsets_U = torch.full_like(ordered, count).scatter_reduce_(0, of_value, places, "amin")
    return rows_U, order, offsets_U


class TableBlocks:
    """Finds the rows of each table that a batch touches, on any device.

    The table of a feature and a group has a block of fixed size: as many rows as a batch has ids of it. A block holds
    the distinct rows in ascending order, and then `no_row`.

    Args:
        starts: The first id of each feature, and after them the number of all ids.
        lengths: Columns of ids of each feature.
        groups: G.
        batch: B.
        device: Of the positions.

    Attributes:
        sizes: Rows of the block of each feature.
    """

    def __init__(
        self, starts: Sequence[int], lengths: Sequence[int], *, groups: int, batch: int, device: torch.device
    ) -> None:
        features, ids = len(lengths), starts[-1]
        self.no_row = groups * ids
        self.sizes = [batch * length for length in lengths]
        table_GF = np.arange(groups * features).reshape(groups, features)
        # One key more than ids for each table: the end of a list comes last in its block.
        end_GF = np.arange(groups)[:, None] * ids + np.array(starts[1:]) + table_GF
        sizes = np.tile(self.sizes, groups)
        stops = np.cumsum(sizes)

        def placed(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.int64)).to(device)

        self.table_G1C, self.end_G1C = (placed(x.repeat(lengths, axis=1)[:, None]) for x in (table_GF, end_GF))
        self.table_N, self.end_N = (placed(x.ravel().repeat(sizes)) for x in (table_GF, end_GF))
        self.first_N, self.stop_N = placed((stops - sizes).repeat(sizes)), placed(stops.repeat(sizes))

    def touched(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `touched_or_none` returns, with the rows of each table in its block."""
        rows_GBC = positions.view(len(self.table_G1C), -1, self.table_G1C.shape[2])
        keys = torch.where(rows_GBC == self.no_row, self.end_G1C, rows_GBC + self.table_G1C).view(-1)
        ordered, order = torch.sort(keys, stable=True)
        begins = _begins(ordered)
        value = begins.cumsum(0)
        place = self.first_N + (value - value.index_select(0, self.first_N))
        keys_N = self.end_N.scatter(0, place, ordered)
        here = torch.arange(len(ordered), device=ordered.device)
        offsets_N = self.stop_N.scatter_reduce(0, place, here, "amin")
        return torch.where(keys_N == self.end_N, self.no_row, keys_N - self.table_N), order, offsets_N


def _begins(ordered: Tensor) -> Tensor:
    """Where a value differs from the one before."""
    begins = torch.ones_like(ordered, dtype=torch.bool)
    torch.ne(ordered[1:], ordered[:-1], out=begins[1:])
    return begins
