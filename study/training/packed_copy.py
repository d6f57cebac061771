"""Rows of numbers, moved in units of up to 16 bytes: permuting or placing one costs the same for each, however wide."""

import torch
from torch import Tensor


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
