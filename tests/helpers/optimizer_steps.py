"""The optimizers of `study.optim`, and steps on random gradients."""

import math

import pytest
import torch
from torch import nn

from study.optim import AGC, LAMB, AdaGC, AutoClip, Clippy, GlobalClip, LayerClip, UpdateRMSClip, ZClip

OPTIMIZERS = [Clippy, AGC, LAMB, LayerClip, GlobalClip, UpdateRMSClip, ZClip, AdaGC, AutoClip]
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)

F64 = torch.float64


def parameters(*shapes, dtype=F64, seed=0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=F64).to(dtype)) for shape in shapes]


def steps(optimizer, params, count, *, seed=1, sparse=False, start=0) -> list[torch.Tensor]:
    """Return the parameters after steps start ... start + count - 1, on random gradients of changing size."""
    for t in range(start, start + count):
        generator = torch.Generator().manual_seed(1000 * seed + t)
        for p in params:
            gradient = torch.randn(p.shape, generator=generator, dtype=F64) * 10.0 ** math.sin(t)
            if sparse:
                # seven draws of rows, with duplicates
                rows = torch.randint(len(p), (7,), generator=generator)
                values = gradient.new_zeros(7, *p.shape[1:]).normal_(generator=generator)
                gradient = torch.sparse_coo_tensor(rows.unsqueeze(0), values, p.shape)
            p.grad = gradient.to(p.dtype)
        optimizer.step()
    return [p.detach().clone() for p in params]


def assert_same(ours, theirs, rtol=1e-11):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=1e-14)
