"""Tensors side by side in one, so that an operation starts once for all of them.

Shape letters: R runs, L tensors, P numbers of all tensors of a run.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """The places of L tensors in (R, P).

    Args:
        sizes: Numbers of each tensor, in their order. Tensors of one size are best neighbours.
        tensor_of_number: The tensor of each number (P,).
    """

    sizes: Sequence[int]
    tensor_of_number: Tensor

    @classmethod
    def of(cls, sizes: Sequence[int], device: torch.device, beyond: int = 0) -> "Segments":
        """Return the places of tensors of these sizes, and so many numbers beyond them."""
        last = [len(sizes) - 1] * beyond
        tensor_P = np.concatenate(
            [np.repeat(np.arange(len(sizes), dtype=np.int32), sizes), np.array(last, dtype=np.int32)]
        )
        return cls(sizes, torch.from_numpy(tensor_P).to(device))

    def norm(self, x_RP: Tensor) -> Tensor:
        """Return the Euclidean norm of each tensor (R, L)."""
        return self._of_each(x_RP, lambda x: torch.linalg.vector_norm(x, dim=2))

    def least(self, x_RP: Tensor) -> Tensor:
        """Return the smallest number of each tensor (R, L); NaN if it has one."""
        return self._of_each(x_RP, lambda x: x.amin(2))

    def greatest(self, x_RP: Tensor) -> Tensor:
        """Return the largest number of each tensor (R, L); NaN if it has one."""
        return self._of_each(x_RP, lambda x: x.amax(2))

    def sum(self, x_RP: Tensor) -> Tensor:
        """Return the sum of each tensor (R, L)."""
        return self._of_each(x_RP, lambda x: x.sum(2))

    def without_padding(self, x_RP: Tensor) -> Tensor:
        """Return the numbers that a tensor has, as a view."""
        return x_RP[:, : sum(self.sizes)]

    def spread(self, value_RL: Tensor) -> Tensor:
        """Return the value of each number's tensor (R, P); (R, 1) stays as it is."""
        return value_RL if value_RL.shape[1] == 1 else value_RL.index_select(1, self.tensor_of_number)

    def _of_each(self, x_RP: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
        of_spans, at = [], 0
        for size, equal in itertools.groupby(self.sizes):
            count = len(list(equal))
            of_spans.append(reduce(x_RP[:, at : at + count * size].unflatten(1, (count, size))))
            at += count * size
        return of_spans[0] if len(of_spans) == 1 else torch.cat(of_spans, 1)
