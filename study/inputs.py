"""What the networks of a stack read, a row an example: the embeddings of its ids first, then its numbers.

Tables work on all runs of a seed at once, an id's rows side by side; a network reads and differentiates the rows of
one run. Here is where one layout becomes the other.

Shape letters: R runs, G groups of K runs that share a seed (R = G * K), B batch, F id features, E embedding dimension,
D numbers, I = F * E + D inputs.
"""

from collections.abc import Iterator

import torch
from torch import Tensor


class Inputs:
    """A batch's inputs, and the gradient by its embeddings; buffers that live as long as the stack.

    embedded_GBFKE, gradient_GBFKE: as the tables write and read them. numbers_GBD: set for each batch.
    """

    def __init__(
        self,
        *,
        groups: int,
        runs_of_group: int,
        batch: int,
        features: int,
        dim: int,
        numbers: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.groups, self.runs_of_group, self.batch = groups, runs_of_group, batch
        self.runs = groups * runs_of_group
        self.features, self.dim, self.numbers = features, dim, numbers
        self.embedded_width = features * dim
        self.width = self.embedded_width + numbers
        self.dtype, self.device = dtype, device
        self.embedded_GBFKE = torch.zeros(groups, batch, features, runs_of_group, dim, dtype=dtype, device=device)
        self.gradient_GBFKE = torch.zeros_like(self.embedded_GBFKE)
        self.numbers_GBD = torch.zeros(groups, batch, numbers, dtype=dtype, device=device)

    def rows(self) -> Tensor:
        """The inputs of every run, (R, B, I), anew."""
        rows_RBI = empty_rows(self.runs, self.batch, self.width, dtype=self.dtype, device=self.device)
        if self.features:
            copy_words(self.embedded_GBFKE.permute(0, 3, 1, 2, 4), self._embedded(rows_RBI))
        if self.numbers:
            numbers = rows_RBI[:, :, self.embedded_width :].unflatten(0, (self.groups, self.runs_of_group))
            numbers.copy_(self.numbers_GBD.unsqueeze(1).expand_as(numbers))
        return rows_RBI

    def take_gradient(self, gradient_RBI: Tensor) -> None:
        """Keep the gradient by the embeddings."""
        copy_words(self._embedded(gradient_RBI).permute(0, 2, 3, 1, 4), self.gradient_GBFKE)

    def rows_of_runs(self) -> Iterator[Tensor]:
        """The inputs (B, P) of one run after the other, filled up with zeros to whole words; each in the place of the
        one before."""
        rows_BP = torch.zeros(self.batch, whole_words(self.width), dtype=self.dtype, device=self.device)
        for embedded_BFKE, numbers_BD in zip(self.embedded_GBFKE, self.numbers_GBD, strict=True):
            rows_BP[:, self.embedded_width : self.width] = numbers_BD
            if not self.features:
                yield from [rows_BP] * self.runs_of_group
                continue
            source, target = words(embedded_BFKE, self._embedded_of_run(rows_BP))
            for embedded in source.unbind(2):
                target.copy_(embedded)
                yield rows_BP

    def take_gradient_of_run(self, run: int, gradient_BP: Tensor) -> None:
        """The same for one run. Columns after the embedded ones are not read."""
        group, k = divmod(run, self.runs_of_group)
        source, target = words(self._embedded_of_run(gradient_BP), self.gradient_GBFKE[group])
        target[:, :, k].copy_(source)

    def _embedded_of_run(self, rows_BP: Tensor) -> Tensor:
        """A view (B, F, E)."""
        return rows_BP[:, : self.embedded_width].unflatten(1, (self.features, self.dim))

    def _embedded(self, rows_RBI: Tensor) -> Tensor:
        """A view (G, K, B, F, E) of the embedded columns."""
        columns = rows_RBI[:, :, : self.embedded_width]
        return columns.unflatten(2, (self.features, self.dim)).unflatten(0, (self.groups, self.runs_of_group))


def empty_rows(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An empty tensor whose rows begin at multiples of 4 elements, so that whole words of them can be moved."""
    *leading, width = shape
    return torch.empty(*leading, whole_words(width), dtype=dtype, device=device)[..., :width]


def whole_words(width: int) -> int:
    """The next multiple of 4."""
    return -(-width // 4) * 4


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
