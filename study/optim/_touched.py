"""The part of a parameter that one step changes: all of it, or the rows of a sparse gradient."""

import torch
from torch import Tensor

from study.optim import _shards
from study.transforms import Chain, Leaf


class TouchedPart:
    """A parameter, or the rows of it that a sparse gradient touches, as a leaf with one run; `keys` names its state."""

    def __init__(
        self, parameter: Tensor, state: dict[str, Tensor], chain: Chain, keys: set[str], maximize: bool
    ) -> None:
        self.rows, gradient = gradient_of(parameter, maximize)
        self.parameter = _shards.local_part(parameter.detach())
        dtype = wide(parameter.dtype)
        if any(key not in state for key in keys):  # at the first step, or once there is a momentum
            new = chain.init(self.parameter.to(dtype).unsqueeze(0))
            state |= {k: _shards.sharded_like(new[k].squeeze(0), parameter) for k in keys if k not in state}
        self.state = {key: _shards.local_part(value) for key, value in state.items()}
        gradient = gradient.unsqueeze(0)
        weight = self._rows_of(self.parameter).to(dtype).unsqueeze(0)
        self.taken = {key: self._rows_of(value).unsqueeze(0) for key, value in self.state.items()}
        self.leaf = Leaf(weight, gradient, gradient, dict(self.taken), parts=_shards.parts_of(parameter))

    def write_back(self) -> None:
        """Apply the update and store the new state."""
        if self.rows is None and self.leaf.weight.dtype == self.parameter.dtype:
            self.parameter.sub_(self.leaf.update.squeeze(0))
        else:
            # of rows, or of another type, the weight is a copy
            self._put(self.parameter, self.leaf.weight.sub_(self.leaf.update).squeeze(0))
        for key, taken in self.taken.items():
            value = self.leaf.state[key]
            if value is not taken or self._is_by_row(self.state[key]):
                self._put(self.state[key], value.squeeze(0))

    def _is_by_row(self, tensor: Tensor) -> bool:
        return self.rows is not None and tensor.shape == self.parameter.shape

    def _rows_of(self, tensor: Tensor) -> Tensor:
        if self.rows is None or not self._is_by_row(tensor):
            return tensor
        return rows_of(tensor, self.rows)

    def _put(self, target: Tensor, value: Tensor) -> None:
        if self.rows is None or not self._is_by_row(target):
            target.copy_(value)
        elif len(self.rows) == 1:
            target.index_copy_(0, self.rows[0], value.to(target.dtype))
        else:
            target[self.rows] = value.to(target.dtype)


def gradient_of(parameter: Tensor, maximize: bool) -> tuple[tuple[Tensor, ...] | None, Tensor]:
    """Return the touched rows (None: all) and the gradient there, in at least float32."""
    gradient = parameter.grad
    assert gradient is not None
    if gradient.layout not in (torch.strided, torch.sparse_coo):
        raise ValueError(f"need dense or sparse COO gradients, got {gradient.layout}")
    gradient = _shards.local_gradient(parameter).to(wide(parameter.dtype))
    rows = None
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        rows = tuple(gradient.indices())
        gradient = gradient.values()
    return rows, gradient.neg() if maximize else gradient


def rows_of(tensor: Tensor, rows: tuple[Tensor, ...] | None) -> Tensor:
    """Return the touched rows of a tensor, in a copy; None is the tensor itself."""
    if rows is None:
        return tensor
    return tensor.index_select(0, rows[0]) if len(rows) == 1 else tensor[rows]


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a parameter is computed in: at least float32."""
    return torch.float32 if dtype.itemsize < 4 else dtype
