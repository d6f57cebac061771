"""The inputs of a stack's networks, one row per example: the embeddings of its ids first, then its numbers.

Tables hold the rows of all runs of a seed side by side, by id. A network reads and differentiates the rows of one run.
Inputs convert one layout into the other, in two ways:

- `TouchedInputs`, on CPU: the rows that a batch touches are read once and are few enough to stay in the cache. The
  inputs of a run are picked from them, and its gradients are summed into theirs, one run after the other. Its numbers
  are stored like rows too, so that one call picks all inputs of a batch.
- `WholeInputs`, on a GPU: a batch is read and differentiated as a whole, and no number is read back from the device.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, F id features, E embedding dimension,
D numbers, I = F * E + D inputs, P inputs padded with zeros to whole embeddings, N = B * F ids, U touched ids, C runs
at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from study.training.embeddings import EmbeddingTables
from study.training.packed_copy import copy_words, empty_rows, widest_word
from study.training.touched_rows import TableBlocks, TouchedRows, touched_by_groups


@dataclass(frozen=True, kw_only=True)
class InputSizes:
    """The sizes of what a stack reads."""

    groups: int
    runs_of_group: int
    batch: int
    features: int
    dim: int
    numbers: int
    dtype: torch.dtype
    device: torch.device


class Inputs(ABC):
    """The inputs of a batch, and the gradient by its embeddings, in buffers that live as long as the stack.

    Attributes:
        weight_U: The touched rows of the tables (U, K * E) when the batch was read, or None if they were not gathered.
    """

    def __init__(self, sizes: InputSizes) -> None:
        self.groups, self.runs_of_group, self.batch = sizes.groups, sizes.runs_of_group, sizes.batch
        self.runs = sizes.groups * sizes.runs_of_group
        self.features, self.dim, self.numbers = sizes.features, sizes.dim, sizes.numbers
        self.embedded_width = sizes.features * sizes.dim
        self.width = self.embedded_width + sizes.numbers
        self.dtype, self.device = sizes.dtype, sizes.device
        self.numbers_GBD = torch.zeros(self.groups, self.batch, self.numbers, dtype=self.dtype, device=self.device)
        self.weight_U: Tensor | None = None

    def read(self, tables: EmbeddingTables, positions: Tensor, numbers_GBD: Tensor) -> None:
        """Read a batch. `positions` are those of `EmbeddingTables.positions`; empty without id features."""
        self.numbers_GBD.copy_(numbers_GBD)
        if self.features:
            self._read(tables, positions)

    @abstractmethod
    def _read(self, tables: EmbeddingTables, positions: Tensor) -> None:
        """Read the embeddings of a batch, after its numbers."""

    @abstractmethod
    def rows(self) -> Tensor:
        """Return the inputs of every run (R, B, I), a new tensor."""

    @abstractmethod
    def take_gradient(self, gradient_RBI: Tensor) -> None:
        """Store the gradient by the embeddings."""

    @abstractmethod
    def gradients(self, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
        """Return the touched rows (U,), and their summed gradients (U, K * E)."""


class WholeInputs(Inputs):
    """All embeddings of a batch at once, for all runs, in the layout of the tables.

    Args:
        sizes: The sizes of the stack.
        blocks: As in `EmbeddingTables.gradients`.
    """

    def __init__(self, sizes: InputSizes, *, blocks: TableBlocks | None = None) -> None:
        super().__init__(sizes)
        self.blocks = blocks
        shape = (self.groups, self.batch, self.features, self.runs_of_group, self.dim)
        self.embedded_GBFKE = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.gradient_GBFKE = torch.zeros_like(self.embedded_GBFKE)
        self.positions = torch.zeros(0, dtype=torch.int64, device=self.device)

    def _read(self, tables: EmbeddingTables, positions: Tensor) -> None:
        self.positions = positions
        tables.read(positions, self.embedded_GBFKE)

    def rows(self) -> Tensor:
        rows_RBI = empty_rows(self.runs, self.batch, self.width, dtype=self.dtype, device=self.device)
        if self.features:
            copy_words(self.embedded_GBFKE.permute(0, 3, 1, 2, 4), self._embedded(rows_RBI))
        if self.numbers:
            numbers = rows_RBI[:, :, self.embedded_width :].unflatten(0, (self.groups, self.runs_of_group))
            numbers.copy_(self.numbers_GBD.unsqueeze(1).expand_as(numbers))
        return rows_RBI

    def take_gradient(self, gradient_RBI: Tensor) -> None:
        copy_words(self._embedded(gradient_RBI).permute(0, 2, 3, 1, 4), self.gradient_GBFKE)

    def gradients(self, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
        return tables.gradients(self.positions, self.gradient_GBFKE, self.blocks)

    def _embedded(self, rows_RBI: Tensor) -> Tensor:
        """A view (G, K, B, F, E) of the embedded columns."""
        columns = rows_RBI[:, :, : self.embedded_width]
        return columns.unflatten(2, (self.features, self.dim)).unflatten(0, (self.groups, self.runs_of_group))


class TouchedInputs(Inputs):
    """The rows that a batch touches, from which each run's inputs are picked; on CPU.

    Attributes:
        padded_width: P.
    """

    def __init__(self, sizes: InputSizes) -> None:
        super().__init__(sizes)
        self.word = widest_word(self.dim, self.dtype)
        self.rows_of_numbers = -(-self.numbers // self.dim) if self.features else 0
        """Rows of a table that would hold the numbers of an example."""
        self.padded_width = (self.features + self.rows_of_numbers) * self.dim if self.features else self.numbers
        self.numbers_GNE = torch.zeros(self.groups, self.batch * self.rows_of_numbers, self.dim, dtype=self.dtype)
        self.touched: list[TouchedRows] = []
        self.rows_U = torch.zeros(0, dtype=torch.int64)
        self.picked_from: list[Tensor] = []
        """By group, (K, U + rows of the batch's numbers, words of E). A run's rows are contiguous."""
        self.places: list[Tensor] = []
        """By group, the places of a batch's inputs in these rows, (B * P / E,)."""
        self.gradients_of: list[Tensor] = []
        self.rows_CBP = torch.zeros(0, self.batch, self.padded_width, dtype=self.dtype)

    def _read(self, tables: EmbeddingTables, positions: Tensor) -> None:
        self.touched = touched_by_groups(positions, self.groups, tables.ids)
        self.rows_U = torch.cat([found.rows for found in self.touched])
        self.weight_U = tables.weight.index_select(0, self.rows_U)
        weight_UKE = self.weight_U.view(-1, self.runs_of_group, self.dim).view(self.word)
        numbers_GBP = self.numbers_GNE.view(self.groups, self.batch, self.rows_of_numbers * self.dim)
        numbers_GBP[:, :, : self.numbers] = self.numbers_GBD
        numbers_GNE = self.numbers_GNE.view(self.word)
        self.picked_from, self.places, self.gradients_of = [], [], []
        touched = [len(found.rows) for found in self.touched]
        for found, part_UKE, numbers_NE in zip(self.touched, weight_UKE.split(touched), numbers_GNE, strict=True):
            count = len(part_UKE)
            rows = part_UKE.new_empty(self.runs_of_group, count + len(numbers_NE), part_UKE.shape[2])
            rows[:, :count] = part_UKE.transpose(0, 1)
            rows[:, count:] = numbers_NE
            self.picked_from.append(rows)
            after = torch.arange(count, rows.shape[1], dtype=found.places.dtype).view(self.batch, self.rows_of_numbers)
            self.places.append(torch.cat([found.places.view(self.batch, -1), after], 1).flatten())
            self.gradients_of.append(part_UKE.new_empty(self.runs_of_group, count, part_UKE.shape[2]))

    def rows(self) -> Tensor:
        rows_RBI = torch.empty(self.runs, self.batch, self.width, dtype=self.dtype)
        rows_BP = torch.empty(self.batch, self.padded_width, dtype=self.dtype)
        for run, rows_BI in enumerate(rows_RBI):
            self._pick(run, rows_BP)
            rows_BI.copy_(rows_BP[:, : self.width])
        return rows_RBI

    def rows_of(self, runs: range) -> Tensor:
        """Return the inputs of some runs (C, B, P). The next call overwrites them."""
        if len(runs) > len(self.rows_CBP):
            self.rows_CBP = self.rows_CBP.new_empty(len(runs), self.batch, self.padded_width)
        rows_CBP = self.rows_CBP[: len(runs)]
        for run, rows_BP in zip(runs, rows_CBP, strict=True):
            self._pick(run, rows_BP)
        return rows_CBP

    def _pick(self, run: int, rows_BP: Tensor) -> None:
        group, k = divmod(run, self.runs_of_group)
        if not self.features:
            rows_BP.copy_(self.numbers_GBD[group])
            return
        own = self.picked_from[group][k]
        out = rows_BP.view(-1, self.dim).view(self.word)
        if out.shape[1] == 1:  # torch selects single words in a third of the time
            own, out = own.squeeze(1), out.squeeze(1)
        torch.index_select(own, 0, self.places[group], out=out)

    def take_gradient(self, gradient_RBI: Tensor) -> None:
        self.take_gradient_of(range(self.runs), gradient_RBI[:, :, : self.embedded_width])

    def take_gradient_of(self, runs: range, gradient_CBI: Tensor) -> None:
        """Store the gradient of some runs by the embedded columns alone, without the numbers."""
        for run, gradient_BI in zip(runs, gradient_CBI, strict=True):
            group, k = divmod(run, self.runs_of_group)
            found = self.touched[group]
            occurrences_NE = gradient_BI.reshape(-1, self.dim)
            summed_UE = torch.embedding_bag(occurrences_NE, found.order, found.offsets)[0]
            self.gradients_of[group][k] = summed_UE.view(self.word)

    def gradients(self, tables: EmbeddingTables) -> tuple[Tensor, Tensor]:
        parts = [gradient_KUE.transpose(0, 1).flatten(1) for gradient_KUE in self.gradients_of]
        return self.rows_U, torch.cat(parts).view(self.dtype)
