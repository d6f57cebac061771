"""One step of a chain, and tensors in float64."""

import torch

from study.transforms import Chain, Leaf

F64 = torch.float64


def t(*rows) -> torch.Tensor:
    """Return a float64 tensor with these rows, one for each run."""
    return torch.tensor(rows, dtype=F64)


def one_step(chain: Chain, gradient: torch.Tensor, weight: torch.Tensor, *, watched: bool = False) -> Leaf:
    """Return the leaf after one step from a fresh state; `watched` records its factor."""
    leaf = Leaf(weight=weight, gradient=gradient, update=gradient, state=chain.init(weight))
    if watched:
        leaf.factor = torch.ones(weight.shape[0], dtype=weight.dtype)
    chain.updates([leaf])
    return leaf
