"""Sparse gradients: a step changes the touched rows alone."""

import warnings
from typing import Any

import pytest
import torch
from optimizer_steps import F64, each_optimizer, parameters
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from study import methods
from study.optim import Clippy, ClipUpdates, GlobalClip, MethodOptimizer


@each_optimizer
@pytest.mark.parametrize("base", methods.BASES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_sparse_step_is_a_dense_step_of_the_touched_rows(optimizer, base, weight_decay):
    (table,) = parameters((20, 3))
    rows = torch.tensor([2, 3, 11])
    part = nn.Parameter(table.detach()[rows].clone())
    before = table.detach().clone()
    sparse = optimizer([table], 0.5, base=base, weight_decay=weight_decay)
    dense = optimizer([part], 0.5, base=base, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        gradient = torch.randn(3, 3, generator=generator, dtype=F64)
        doubled = torch.cat([rows.flip(0), rows]).unsqueeze(0)
        halves = torch.cat([(gradient / 4).flip(0), gradient * 3 / 4])
        table.grad = torch.sparse_coo_tensor(doubled, halves, table.shape)
        part.grad = gradient
        sparse.step()
        dense.step()
    torch.testing.assert_close(table.detach()[rows], part.detach(), rtol=1e-12, atol=0.0)
    assert not torch.equal(part.detach(), before[rows])
    untouched = torch.ones(20, dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(table.detach()[untouched], before[untouched])
    for key, value in sparse.state[table].items():
        if value.shape == table.shape:
            start = 0.1 if key == "accumulator" else 0.0
            assert torch.equal(value[untouched], torch.full_like(value[untouched], start)), key
            torch.testing.assert_close(value[rows], dense.state[part][key], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_coalesced_gradient_is_used_as_it_is(wrapped):
    """To coalesce, a step would wait for the device: it reads how many rows there are."""
    (table,) = parameters((20, 3))
    rows = torch.tensor([[2, 3, 11]])
    table.grad = torch.sparse_coo_tensor(rows, torch.ones(3, 3, dtype=F64), table.shape, is_coalesced=True)
    own = ClipUpdates(torch.optim.SGD([table], lr=0.5), "global_clip") if wrapped else GlobalClip([table], lr=0.5)
    with Operations() as seen:
        own.step()
    assert "_coalesce" not in seen.names
    table.grad = torch.sparse_coo_tensor(rows, torch.ones(3, 3, dtype=F64), table.shape)
    with Operations() as seen:
        own.step()
    assert "_coalesce" in seen.names


class Operations(TorchDispatchMode):
    """Remembers the names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.__name__.split(".")[0])
        return func(*args, **(kwargs or {}))


def test_a_zero_row_freezes_only_batches_that_touch_it():
    embedding = nn.Embedding(10, 2, sparse=True)
    with torch.no_grad():
        embedding.weight[4].zero_()
    optimizer = Clippy(embedding.parameters(), 1.0, absolute_threshold=0.0)
    for ids, moves in (([1, 2], True), ([1, 4], False)):
        before = embedding.weight.detach().clone()
        optimizer.zero_grad()
        embedding(torch.tensor(ids)).square().add(embedding(torch.tensor(ids))).sum().backward()
        optimizer.step()
        assert torch.equal(embedding.weight.detach(), before) is not moves


def test_a_sparse_gradient_without_rows_changes_nothing():
    (p,) = parameters((5, 2))
    before = p.detach().clone()
    optimizer = Clippy([p], 1.0, record_clip_factors=True)
    p.grad = torch.sparse_coo_tensor(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(0, 2, dtype=F64), (5, 2))
    optimizer.step()
    assert torch.equal(p.detach(), before)
    assert optimizer.clip_factors()[p].item() == 1.0


def test_a_gradient_with_two_sparse_dims():
    (p,) = parameters((4, 5))
    before = p.detach().clone()
    at = torch.tensor([[0, 3, 0], [1, 2, 1]])
    p.grad = torch.sparse_coo_tensor(at, torch.tensor([1.0, -2.0, 2.0], dtype=F64), (4, 5))
    MethodOptimizer([p], 0.5, "none", {"base": "sgd"}).step()
    before[0, 1] -= 1.5
    before[3, 2] += 1.0
    torch.testing.assert_close(p.detach(), before)


def test_bfloat16_sparse_gradients_are_summed_in_float32():
    p = nn.Parameter(torch.zeros(2, 1, dtype=torch.bfloat16))
    rows, values = torch.zeros(1, 257, dtype=torch.int64), torch.ones(257, 1, dtype=torch.bfloat16)
    p.grad = torch.sparse_coo_tensor(rows, values, (2, 1))
    MethodOptimizer([p], 1 / 257, "none", {"base": "sgd"}).step()
    assert p.flatten().tolist() == [-1.0, 0.0]  # in bfloat16, 256 + 1 is 256


def test_gradients_of_other_layouts_are_refused():
    with warnings.catch_warnings(action="ignore"):  # torch calls this layout a beta
        p = nn.Parameter(torch.eye(3).to_sparse_csr())
        p.grad = p.detach().clone()
    with pytest.raises(ValueError, match=r"need dense or sparse COO gradients, got torch\.sparse_csr"):
        Clippy([p], 0.1).step()
