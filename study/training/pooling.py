"""Inputs of logs with lists of ids: the mean or the sum of the embeddings of each list.

The gradient of a list goes to each of its ids, divided by their number for a mean. Only rows of ids that a batch holds
are updated. A log without lists does not come here (`study.training.inputs`).

Shape letters: as in `study.training.inputs`; C columns of ids, a list takes several; N ids of a batch, without the ends
of lists; L lists of a batch, B * F.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from study.training.embeddings import EmbeddingTables
from study.training.inputs import InputSizes, TouchedInputs, WholeInputs
from study.training.touched_rows import TableBlocks, TouchedRows, touched_rows


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Which columns of ids are one list, and how its rows become one.

    Args:
        lengths: The columns of each feature.
        pools: "mean" or "sum" of each feature.
    """

    lengths: Sequence[int]
    pools: Sequence[str]

    def shares(self, real_XC: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what each id counts in its list (X, C): 0 after the end of it."""
        parts = []
        for part, pool in zip(real_XC.split(list(self.lengths), dim=-1), self.pools, strict=True):
            share = part.to(dtype)
            parts.append(share / share.sum(-1, keepdim=True).clamp_(min=1) if pool == "mean" else share)
        return torch.cat(parts, -1)

    def pool(self, rows_XCE: Tensor, share_XC: Tensor) -> Tensor:
        """Return the pooled rows (X, F, E)."""
        weighted = rows_XCE * share_XC.unsqueeze(-1)
        return torch.stack([part.sum(-2) for part in weighted.split(list(self.lengths), dim=-2)], -2)


@dataclass(frozen=True, kw_only=True)
class _Bags:
    """The lists of a batch of one group.

    Args:
        found: The touched rows.
        starts: Where each list begins among the ids.
        list_of: The list of each id, in the order of `found.order`.
        share: What each id counts, in the order of the batch.
        sorted_share: The same in the order of `found.order`.
    """

    found: TouchedRows
    starts: Tensor
    list_of: Tensor
    share: Tensor
    sorted_share: Tensor


class PooledTouchedInputs(TouchedInputs):
    """The rows that a batch touches, on CPU. Each run is pooled alone, so its bits do not depend on the stack."""

    def __init__(self, sizes: InputSizes, lists: Lists) -> None:
        super().__init__(sizes)
        self.lists, self.padded_width = lists, self.width
        self.rows_CBP = torch.zeros(0, self.batch, self.width, dtype=self.dtype)
        self.bags: list[_Bags] = []

    def _read(self, tables: EmbeddingTables, positions: Tensor) -> None:
        columns = sum(self.lists.lengths)
        by_group = positions.view(self.groups, self.batch, columns)
        self.bags = [self._bags(rows_BC, tables, group) for group, rows_BC in enumerate(by_group)]
        self.rows_U = torch.cat([bags.found.rows for bags in self.bags])
        self.weight_U = tables.weight.index_select(0, self.rows_U)
        weight_UKE = self.weight_U.view(-1, self.runs_of_group, self.dim)
        parts = weight_UKE.split([len(bags.found.rows) for bags in self.bags])
        self.picked_from = [part_UKE.transpose(0, 1).contiguous() for part_UKE in parts]
        self.gradients_of = [torch.empty_like(rows_KUE) for rows_KUE in self.picked_from]

    def _bags(self, rows_BC: Tensor, tables: EmbeddingTables, group: int) -> _Bags:
        real_BC = rows_BC != tables.no_row
        found = touched_rows(rows_BC[real_BC].numpy() - group * tables.ids, group * tables.ids)
        share_N = self.lists.shares(real_BC, self.dtype)[real_BC]
        count_L = torch.stack([part.sum(1) for part in real_BC.split(list(self.lists.lengths), dim=1)], 1).flatten()
        order = found.order.long()
        list_of = torch.repeat_interleave(torch.arange(len(count_L)), count_L)
        starts = count_L.cumsum(0) - count_L
        return _Bags(
            found=found,
            starts=starts.to(found.places.dtype),
            list_of=list_of[order].to(found.offsets.dtype),
            share=share_N,
            sorted_share=share_N[order],
        )

    def _pick(self, run: int, rows_BP: Tensor) -> None:
        group, k = divmod(run, self.runs_of_group)
        bags, rows_UE = self.bags[group], self.picked_from[group][k]
        pooled_LE = functional.embedding_bag(
            bags.found.places, rows_UE, bags.starts, mode="sum", per_sample_weights=bags.share
        )
        rows_BP[:, : self.embedded_width] = pooled_LE.view(self.batch, -1)
        rows_BP[:, self.embedded_width :] = self.numbers_GBD[group]

    def take_gradient_of(self, runs: range, gradient_CBI: Tensor) -> None:
        for run, gradient_BI in zip(runs, gradient_CBI, strict=True):
            group, k = divmod(run, self.runs_of_group)
            bags = self.bags[group]
            self.gradients_of[group][k] = functional.embedding_bag(
                bags.list_of,
                gradient_BI.reshape(-1, self.dim),
                bags.found.offsets,
                mode="sum",
                per_sample_weights=bags.sorted_share,
            )


class PooledWholeInputs(WholeInputs):
    """All embeddings of a batch at once, on a GPU."""

    def __init__(self, sizes: InputSizes, lists: Lists, *, blocks: TableBlocks | None = None) -> None:
        super().__init__(sizes, blocks=blocks)
        self.lists = lists
        self.lengths_F = torch.tensor(list(lists.lengths), device=self.device)
        self.share_GBC = torch.zeros(0)

    def _read(self, tables: EmbeddingTables, positions: Tensor) -> None:
        self.positions = positions
        rows_GBC = positions.view(self.groups, self.batch, -1)
        self.share_GBC = self.lists.shares(rows_GBC != tables.no_row, self.dtype)
        rows = tables.weight.index_select(0, positions).view(*rows_GBC.shape, -1)
        self.embedded_GBFKE.copy_(self.lists.pool(rows, self.share_GBC).view_as(self.embedded_GBFKE))

    def gradients(self, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
        columns = sum(self.lists.lengths)
        gradient = self.gradient_GBFKE.repeat_interleave(self.lengths_F, dim=2, output_size=columns)
        share = self.share_GBC[..., None, None]
        gradient = torch.where(share > 0, gradient * share, 0.0)  # the ends of lists are one row for all runs: no NaN
        return tables.gradients(self.positions, gradient, self.blocks)


def pooled(rows_NE: Tensor, positions_N: Tensor, lists: Lists, none: int) -> Tensor:
    """Return the pooled rows (B * F, E) of a batch of rows and their positions, by operations with derivatives."""
    rows_BC = positions_N.view(-1, sum(lists.lengths))
    share_BC = lists.shares(rows_BC != none, rows_NE.dtype)
    return lists.pool(rows_NE.view(*rows_BC.shape, -1), share_BC).flatten(0, 1)


def lists_of(lengths: Sequence[int], pools: Sequence[str]) -> Lists | None:
    """Return the lists of a log; None if it has none."""
    return Lists(lengths=lengths, pools=pools) if lengths else None
