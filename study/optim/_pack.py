"""Small tensors of one dtype side by side, so that an operation takes them all at once."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SMALL = 1 << 15
"""Largest number of elements of a packed tensor. From here on, torch splits an operation between threads."""
PACK = 1 << 18
"""Largest number of elements of a pack."""
PADDING = 1.25
"""Largest size of a pack, padding included, in units of its tensors."""


@dataclass(frozen=True)
class Layout:
    """Rows of one width for the elements of some tensors. A row belongs to one tensor; its last row is padded.

    Attributes:
        members: The index of each tensor in the caller's list.
        tensor_of_row: (rows,), the position in `members` of each row's tensor.
        width: Elements of a row.
    """

    members: tuple[int, ...]
    tensor_of_row: Tensor
    width: int

    @classmethod
    def of(cls, members: Sequence[int], weights: Sequence[Tensor]) -> "Layout":
        sizes = [weights[i].numel() for i in members]
        width = _width(sizes)
        rows = torch.tensor([-(-size // width) for size in sizes])
        return cls(tuple(members), torch.arange(len(rows)).repeat_interleave(rows), width)

    def flat(self, like: Tensor, fill: float = 0.0) -> Tensor:
        """Return a tensor for all elements, (rows * width,), in `like`'s dtype."""
        return like.new_full((len(self.tensor_of_row) * self.width,), fill)

    def views(self, flat: Tensor, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return each member's part of `flat`, in its shape."""
        rows = self.tensor_of_row.bincount(minlength=len(self.members)).tolist()
        parts = zip(self.members, flat.split([count * self.width for count in rows]), strict=True)
        return [part[: weights[i].numel()].view(weights[i].shape) for i, part in parts]

    def least(self, x: Tensor) -> Tensor:
        """Return the minimum of each member: (rows * width,) -> (members,). The padding takes part."""
        least = x.view(len(self.tensor_of_row), -1).amin(1)
        return least.new_full((len(self.members),), torch.inf).scatter_reduce_(0, self.tensor_of_row, least, "amin")

    def multiply(self, x: Tensor, factor: Tensor) -> None:
        """Multiply each member's part of `x` by its factor, (members,)."""
        x.view(len(self.tensor_of_row), -1).mul_(factor.index_select(0, self.tensor_of_row).unsqueeze(1))

    def spread(self, value: Tensor) -> Tensor:
        """Return each member's value for each of its elements: (members,) -> (rows * width,)."""
        return value.index_select(0, self.tensor_of_row).repeat_interleave(self.width)


@dataclass(frozen=True)
class Plan:
    """Which weights form a pack, and which are large, as long as the weights stay the same.

    Attributes:
        weights: The caller's list.
        dtypes: Of the weights, when the plan was made.
        large: The index of each weight that is in no pack.
        packs: The indices of small weights of one dtype, by pack.
    """

    weights: Sequence[Tensor] = ()
    dtypes: Sequence[torch.dtype] = ()
    large: Sequence[int] = ()
    packs: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, weights: Sequence[Tensor]) -> "Plan":
        dtypes, packs = [w.dtype for w in weights], []
        for dtype in dict.fromkeys(dtypes):
            packs += _parts({i: w.numel() for i, w in enumerate(weights) if w.dtype is dtype})
        return cls(list(weights), dtypes, [i for i, w in enumerate(weights) if w.numel() > SMALL], packs)

    def holds(self, weights: Sequence[Tensor]) -> bool:
        """Return whether these are the weights of the plan, of the same dtypes, and the large ones contiguous."""
        return (
            len(weights) == len(self.weights)
            and all(map(operator.is_, weights, self.weights))
            and [w.dtype for w in weights] == self.dtypes
            and all(weights[i].is_contiguous() for i in self.large)
        )


def _parts(sizes: dict[int, int]) -> list[list[int]]:
    """Return the keys of small sizes in their order, in parts whose sizes sum to at most PACK."""
    found: list[list[int]] = []
    total = PACK
    for i, size in sizes.items():
        if size > SMALL:
            continue
        if total + size > PACK:
            found.append([])
            total = 0
        found[-1].append(i)
        total += size
    return found


def _width(sizes: Sequence[int]) -> int:
    """Return the widest row, a power of 2, within PADDING: minima of long rows are cheaper."""
    width = 1
    while width < SMALL and sum(-(-size // (2 * width)) * 2 * width for size in sizes) <= PADDING * sum(sizes):
        width *= 2
    return width
