"""The fast path of Clippy equals the chain."""

import copy
import math

import pytest
import torch
from optimizer_steps import F64, parameters, steps
from torch import nn

from study.optim import AGC, LAMB, Clippy, GlobalClip, LayerClip, MethodOptimizer, _foreach_clippy, _pack

FAST_SHAPES = ((4, 3), (3,), (), (0, 2), (1, 5), (16,), (41, 40), (60, 50), (2000,))


@pytest.fixture
def small_chunks(monkeypatch):
    """Several packs and chunks in small tensors; their ends do not fill a vector register."""
    for module, name, size in ((_pack, "SMALL", 1700), (_pack, "PACK", 1800), (_foreach_clippy, "CHUNK", 701)):
        monkeypatch.setattr(module, name, size)


def chain_of(monkeypatch, optimizer, params, *args, **kwargs):
    with monkeypatch.context() as patch:
        patch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
        return steps(optimizer, params, *args, **kwargs)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("lr", [0.3, torch.tensor([0.3])])
def test_fast_steps_equal_the_chain(small_chunks, monkeypatch, dtype, maximize, lr):
    """From the same start, one step has equal accumulators, and updates that differ in a few last bits."""
    fast, slow = (parameters(*FAST_SHAPES, dtype=dtype) for _ in range(2))
    a, b = (Clippy(p, lr, maximize=maximize, record_clip_factors=True) for p in (fast, slow))
    smallest = 1.0
    for t in range(12):
        steps(a, fast, 1, start=t)
        chain_of(monkeypatch, b, slow, 1, start=t)
        assert a.clip_factors().keys() == set(fast)
        for p, q in zip(fast, slow, strict=True):
            assert torch.equal(a.state[p]["accumulator"], b.state[q]["accumulator"])
            eps = torch.finfo(dtype).eps
            torch.testing.assert_close(p.detach(), q.detach(), rtol=eps, atol=8 * eps)
            factor = b.clip_factors()[q]
            torch.testing.assert_close(a.clip_factors()[p], factor, rtol=8 * eps, atol=0.0)
            smallest = min(smallest, factor.item())
            p.data.copy_(q.data)
    assert smallest < 0.1


def test_a_tensor_has_the_same_bits_in_any_pack(small_chunks):
    together = parameters(*FAST_SHAPES, dtype=torch.float32)
    optimizer = Clippy(together, 0.3)
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    single = [Clippy([p], 0.3) for p in alone]
    for t in range(6):
        steps(optimizer, together, 1, start=t)
        for p, q, own in zip(together, alone, single, strict=True):
            q.grad = p.grad
            own.step()
    assert all(torch.equal(p, q) for p, q in zip(together, alone, strict=True))


def test_accumulators_follow_changing_parameters(small_chunks, monkeypatch):
    """Parameters lose their gradients for a while, a state is loaded, and the dtype changes."""
    fast, slow = (parameters(*FAST_SHAPES, dtype=torch.float32) for _ in range(2))
    a, b = Clippy(fast, 0.3), Clippy(slow, 0.3)
    for t in range(9):
        for p, q in zip(fast, slow, strict=True):
            p.data.copy_(q.data)
        for optimizer, params in ((a, fast), (b, slow)):
            generator = torch.Generator().manual_seed(t)
            for i, p in enumerate(params):
                gradient = torch.randn(p.shape, generator=generator, dtype=F64).to(p.dtype)
                p.grad = None if (i + t) % 4 == 0 else gradient
            if t == 4:
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            if t == 6:
                for p in params:
                    p.data, p.grad = p.data.double(), None if p.grad is None else p.grad.double()
        a.step()
        with monkeypatch.context() as patch:
            patch.setattr(_foreach_clippy, "is_plain", lambda *_: False)
            b.step()
        for p, q in zip(fast, slow, strict=True):
            assert (p in a.state) == (q in b.state)
            if p in a.state:
                torch.testing.assert_close(
                    a.state[p]["accumulator"].float(), b.state[q]["accumulator"].float(), rtol=2e-7, atol=0.0
                )
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)


def test_a_model_converted_to_double_is_computed_in_double():
    model = nn.Linear(3, 2)
    optimizer = Clippy(model.parameters(), 0.3, relative_threshold=1e6)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(1, 3, dtype=model.weight.dtype)).sum().backward()
        before = model.bias.detach().clone()
        optimizer.step()
        model.double()
    accumulator = optimizer.state[model.bias]["accumulator"]
    step = 0.3 / (accumulator + 1e-7).sqrt()
    torch.testing.assert_close(before - model.bias.detach(), step, rtol=1e-14, atol=0.0)


def test_only_plain_clippy_on_dense_tensors_takes_the_fast_path(monkeypatch):
    taken = []
    step = _foreach_clippy.FastClippy.step

    def watched(self, weights, *others):
        taken.extend(weights)
        return step(self, weights, *others)

    monkeypatch.setattr(_foreach_clippy.FastClippy, "step", watched)
    dense, table, narrow, turned = parameters((4, 3), (20, 3), (5,), (300, 200))
    narrow = nn.Parameter(narrow.detach().bfloat16())
    turned = nn.Parameter(turned.detach().t())
    params = [dense, table, narrow, turned]
    for p in params:
        p.grad = torch.ones_like(p)
    table.grad = torch.ones_like(table).to_sparse()
    optimizer = Clippy(params, 0.1, record_clip_factors=True)
    before = [p.detach().clone() for p in params]
    optimizer.step()
    assert [id(p) for p in taken] == [id(dense)]
    assert optimizer.clip_factors().keys() == set(params)
    assert all((p.detach() != old).all() for p, old in zip(params, before, strict=True))

    taken.clear()
    others = {
        "relative_threshold": math.inf,
        "absolute_threshold": 0.0,
        "accumulator_relative_threshold": 0.1,
        "delayed_accumulator": True,
        "norm": "rms",
        "base": "sgd",
        "weight_decay": 0.1,
    }
    for key, value in others.items():
        Clippy([dense], 0.1, **{key: value}).step()
    for other in (AGC, LAMB, LayerClip, GlobalClip):
        other([dense], 0.1).step()
    assert not taken
    MethodOptimizer([dense], 0.1, "clippy").step()
    assert len(taken) == 1


def test_a_nan_stays_in_its_tensor(small_chunks):
    params = parameters(*FAST_SHAPES, dtype=torch.float32)
    optimizer = Clippy(params, 0.3, record_clip_factors=True)
    bad = {0, 6, 7}
    for i, p in enumerate(params):
        p.grad = torch.ones_like(p)
        if i in bad:
            p.grad.view(-1)[-1] = math.nan
    optimizer.step()
    for i, p in enumerate(params):
        assert optimizer.clip_factors()[p].isnan().item() == (i in bad)
        assert p.isnan().all() if i in bad else p.isfinite().all()
