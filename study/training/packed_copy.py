"""Copies rows of numbers in units of up to 16 bytes, since permuting a unit costs the same however wide it is."""

import torch
from torch import Tensor


def empty_rows(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return an empty tensor whose rows begin at multiples of 4 elements, so that they can be copied in whole words."""
    *leading, width = shape
    return torch.empty(*leading, whole_words(width), dtype=dtype, device=device)[..., :width]


def whole_words(width: int) -> int:
    """Return the next multiple of 4."""
    return -(-width // 4) * 4


def widest_word(width: int, dtype: torch.dtype) -> torch.dtype:
    """Return the widest type, up to 16 bytes, that divides `width` elements of `dtype`."""
    for unit in (torch.complex128, torch.complex64):
        if unit.itemsize > dtype.itemsize and width * dtype.itemsize % unit.itemsize == 0:
            return unit
    return dtype


def words(*tensors: Tensor) -> list[Tensor]:
    """Return views of the tensors in the widest type, up to 16 bytes, that divides the last dimension of all."""
    for unit in (torch.complex128, torch.complex64):
        floats = unit.itemsize // tensors[0].element_size()
        if floats > 1 and all(
            x.stride(-1) == 1 and not any(n % floats for n in (x.shape[-1], x.storage_offset(), *x.stride()[:-1]))
            for x in tensors
        ):
            return [x.view(unit) for x in tensors]
    return list(tensors)


def copy_words(source: Tensor, target: Tensor) -> None:
    """Copy `source` to `target` in the widest units."""
    source, target = words(source, target)
    target.copy_(source)
