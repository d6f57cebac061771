"""What the networks of a stack read, a row an example: the embeddings of its ids first, then its numbers.

Tables work on all runs of a seed at once, an id's rows side by side; a network reads and differentiates the rows of
one run. Here is where one layout becomes the other, in two ways. On a CPU, the rows that a batch touches are read once,
few enough to stay in the cache, and a run's inputs are picked from them, and its gradients summed into theirs, one run
after the other. On a GPU, a batch is read and differentiated as a whole, and no number is asked of the device.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, F id features, E embedding dimension,
D numbers, I = F * E + D inputs, N = B * F ids, U touched ids, C runs at a time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from study.embeddings import Tables, Touched, touched_by_groups


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of what a stack reads."""

    groups: int
    runs_of_group: int
    batch: int
    features: int
    dim: int
    numbers: int
    dtype: torch.dtype
    device: torch.device


class Inputs(ABC):
    """A batch's inputs, and the gradient by its embeddings; buffers that live as long as the stack.

    numbers_GBD: set for each batch. weight_U: the touched rows of the tables, (U, K * E), as they were when the batch
    was read, where they are at hand.
    """

    def __init__(self, sizes: Sizes) -> None:
        self.groups, self.runs_of_group, self.batch = sizes.groups, sizes.runs_of_group, sizes.batch
        self.runs = sizes.groups * sizes.runs_of_group
        self.features, self.dim, self.numbers = sizes.features, sizes.dim, sizes.numbers
        self.embedded_width = sizes.features * sizes.dim
        self.width = self.embedded_width + sizes.numbers
        self.dtype, self.device = sizes.dtype, sizes.device
        self.numbers_GBD = torch.zeros(self.groups, self.batch, self.numbers, dtype=self.dtype, device=self.device)
        self.weight_U: Tensor | None = None

    @abstractmethod
    def read(self, tables: Tables, positions: Tensor) -> None:
        """Take the embeddings of a batch. positions: as `Tables.positions`, which see."""

    @abstractmethod
    def rows(self) -> Tensor:
        """The inputs of every run, (R, B, I), anew."""

    @abstractmethod
    def take_gradient(self, gradient_RBI: Tensor) -> None:
        """Keep the gradient by the embeddings."""

    @abstractmethod
    def gradients(self, tables: Tables) -> tuple[Tensor, Tensor]:
        """Touched rows (U,), in ascending order, and their summed gradients (U, K * E)."""


class WholeInputs(Inputs):
    """All embeddings of a batch at once, as `Tables` reads them, for all runs.

    fixed: see `Tables.gradients`.
    """

    def __init__(self, sizes: Sizes, *, fixed: bool) -> None:
        super().__init__(sizes)
        self.fixed = fixed
        shape = (self.groups, self.batch, self.features, self.runs_of_group, self.dim)
        self.embedded_GBFKE = torch.zeros(shape, dtype=self.dtype, device=self.device)
        self.gradient_GBFKE = torch.zeros_like(self.embedded_GBFKE)
        self.positions = torch.zeros(0, dtype=torch.int64)

    def read(self, tables: Tables, positions: Tensor) -> None:
        """As `Inputs.read`."""
        self.positions = positions
        tables.read(positions, self.embedded_GBFKE)

    def rows(self) -> Tensor:
        """As `Inputs.rows`."""
        rows_RBI = empty_rows(self.runs, self.batch, self.width, dtype=self.dtype, device=self.device)
        if self.features:
            copy_words(self.embedded_GBFKE.permute(0, 3, 1, 2, 4), self._embedded(rows_RBI))
        if self.numbers:
            numbers = rows_RBI[:, :, self.embedded_width :].unflatten(0, (self.groups, self.runs_of_group))
            numbers.copy_(self.numbers_GBD.unsqueeze(1).expand_as(numbers))
        return rows_RBI

    def take_gradient(self, gradient_RBI: Tensor) -> None:
        """As `Inputs.take_gradient`."""
        copy_words(self._embedded(gradient_RBI).permute(0, 2, 3, 1, 4), self.gradient_GBFKE)

    def gradients(self, tables: Tables) -> tuple[Tensor, Tensor]:
        """As `Inputs.gradients`."""
        return tables.gradients(self.positions, self.gradient_GBFKE, fixed=self.fixed)

    def _embedded(self, rows_RBI: Tensor) -> Tensor:
        """A view (G, K, B, F, E) of the embedded columns."""
        columns = rows_RBI[:, :, : self.embedded_width]
        return columns.unflatten(2, (self.features, self.dim)).unflatten(0, (self.groups, self.runs_of_group))


class TouchedInputs(Inputs):
    """The rows that a batch touches, from which each run's inputs are picked; on CPU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.word = widest_word(self.dim, self.dtype)
        self.touched: list[Touched] = []
        self.rows_U = torch.zeros(0, dtype=torch.int64)
        self.weights: list[Tensor] = []
        """Of each group, (K, U, words of E): a run's own rows lie together, and in the cache while it is at work."""
        self.gradients_of: list[Tensor] = []
        self.rows_CBI = torch.zeros(0, self.batch, self.width, dtype=self.dtype)

    def read(self, tables: Tables, positions: Tensor) -> None:
        """As `Inputs.read`."""
        self.touched = touched_by_groups(positions, self.groups, tables.ids)
        self.rows_U = torch.cat([found.rows for found in self.touched])
        self.weight_U = tables.weight.index_select(0, self.rows_U)
        weight_UKE = self.weight_U.view(-1, self.runs_of_group, self.dim).view(self.word)
        parts = weight_UKE.split([len(found.rows) for found in self.touched])
        self.weights = [part.transpose(0, 1).contiguous() for part in parts]
        self.gradients_of = [torch.empty_like(weight_KUE) for weight_KUE in self.weights]

    def rows(self) -> Tensor:
        """As `Inputs.rows`."""
        rows_RBI = torch.empty(self.runs, self.batch, self.width, dtype=self.dtype)
        self._pick(range(self.runs), rows_RBI)
        return rows_RBI

    def rows_of(self, runs: range) -> Tensor:
        """The inputs (C, B, I) of some runs, in the place of the last ones."""
        if len(runs) > len(self.rows_CBI):
            self.rows_CBI = self.rows_CBI.new_empty(len(runs), self.batch, self.width)
        rows_CBI = self.rows_CBI[: len(runs)]
        self._pick(runs, rows_CBI)
        return rows_CBI

    def _pick(self, runs: range, rows_CBI: Tensor) -> None:
        for run, rows_BI in zip(runs, rows_CBI, strict=True):
            group, k = divmod(run, self.runs_of_group)
            if self.numbers:
                rows_BI[:, self.embedded_width :] = self.numbers_GBD[group]
            if self.features:
                own = self.weights[group][k]
                own = own.squeeze(1) if own.shape[1] == 1 else own  # torch picks single ones in a third of the time
                picked = own.index_select(0, self.touched[group].places).view(self.dtype)
                rows_BI[:, : self.embedded_width] = picked.view(self.batch, -1)

    def take_gradient(self, gradient_RBI: Tensor) -> None:
        """As `Inputs.take_gradient`."""
        self.take_gradient_of(range(self.runs), gradient_RBI[:, :, : self.embedded_width])

    def take_gradient_of(self, runs: range, gradient_CBI: Tensor) -> None:
        """The same for some runs. gradient_CBI: by the embedded columns alone, without the numbers."""
        for run, gradient_BI in zip(runs, gradient_CBI, strict=True):
            group, k = divmod(run, self.runs_of_group)
            found = self.touched[group]
            occurrences_NE = gradient_BI.reshape(-1, self.dim)
            summed_UE = torch.embedding_bag(occurrences_NE, found.order, found.offsets)[0]
            self.gradients_of[group][k] = summed_UE.view(self.word)

    def gradients(self, tables: Tables) -> tuple[Tensor, Tensor]:
        """As `Inputs.gradients`."""
        parts = [gradient_KUE.transpose(0, 1).flatten(1) for gradient_KUE in self.gradients_of]
        return self.rows_U, torch.cat(parts).view(self.dtype)


def empty_rows(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor whose rows begin at multiples of 4 elements, so that whole words of them can be moved."""
    *leading, width = shape
    return torch.empty(*leading, whole_words(width), dtype=dtype, device=device)[..., :width]


def whole_words(width: int) -> int:
    """The next multiple of 4."""
    return -(-width // 4) * 4


def widest_word(width: int, dtype: torch.dtype) -> torch.dtype:
    """The widest unit, up to 16 bytes, of which so many elements consist: to move one costs the same for each."""
    for unit in (torch.complex128, torch.complex64):
        if unit.itemsize > dtype.itemsize and width * dtype.itemsize % unit.itemsize == 0:
            return unit
    return dtype


def words(*tensors: Tensor) -> list[Tensor]:
    """Views of the same memory in the widest units, up to 16 bytes, that the last dimension of all of them consists
    of: a permuted copy costs the same for each unit."""
    for unit in (torch.complex128, torch.complex64):
        floats = unit.itemsize // tensors[0].element_size()
        if floats > 1 and all(
            x.stride(-1) == 1 and not any(n % floats for n in (x.shape[-1], x.storage_offset(), *x.stride()[:-1]))
            for x in tensors
        ):
            return [x.view(unit) for x in tensors]
    return list(tensors)


def copy_words(source: Tensor, target: Tensor) -> None:
    """Copy, in the widest units."""
    source, target = words(source, target)
    target.copy_(source)
