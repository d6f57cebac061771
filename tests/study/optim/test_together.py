"""Tensors that are updated together have the bits of the chain."""

import pytest
import torch
from optimizer_steps import parameters, steps

from study.optim import Clippy, MethodOptimizer, _together

SHAPES = ((), (3,), (1, 5), (0, 2), (40, 30), (2000,), (41, 50))
BASES = [
    {"base": "adamw", "betas": (0.8, 0.95)},
    {"base": "adamw", "weight_decay": 0.1, "maximize": True},
    {"base": "sgd"},
    {"base": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"base": "rmsprop", "momentum": 0.5},
    {"base": "adagrad", "weight_decay": 0.1},
]


@pytest.mark.parametrize("options", BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["clippy", "none"])
def test_a_step_has_the_bits_of_the_chain(monkeypatch, options, dtype, method):
    monkeypatch.setattr(_together, "SMALL", 1300)
    monkeypatch.setattr(_together, "CHUNK", 701)
    options = {**options}
    own = {key: options.pop(key) for key in ("base", "momentum", "weight_decay") if key in options}
    together, alone = (parameters(*SHAPES, dtype=dtype) for _ in range(2))
    a, b = (
        MethodOptimizer(p, 0.1, method, own, foreach=f, record_clip_factors=True, **options)
        for p, f in ((together, None), (alone, False))
    )
    counted = []
    step = _together.Links.step
    monkeypatch.setattr(_together.Links, "step", lambda self, w, *more: counted.extend(w) or step(self, w, *more))
    for t in range(6):
        for optimizer, params in ((a, together), (b, alone)):
            steps(optimizer, params, 0)
            generator = torch.Generator().manual_seed(t)
            for i, p in enumerate(params):
                gradient = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0 ** (t % 3)
                p.grad = None if (i + t) % 4 == 0 else gradient
            if t == 3:
                optimizer.load_state_dict(optimizer.state_dict())
            optimizer.step()
        assert a.clip_factors().keys() == {p for p in together if p.grad is not None}
        for p, q in zip(together, alone, strict=True):
            assert torch.equal(p, q)
            assert p not in a.clip_factors() or torch.equal(a.clip_factors()[p], b.clip_factors()[q])
            assert a.state[p].keys() == b.state[q].keys()
            assert all(torch.equal(a.state[p][key], b.state[q][key]) for key in a.state[p])
    assert len(counted) > 6 * (len(SHAPES) - 3)


def test_a_nan_stays_in_its_tensor():
    params = parameters(*SHAPES, dtype=torch.float32)
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, float("nan") if i == 1 else 1.0)
    Clippy(params, 0.1, base="adamw").step()
    assert [bool(p.isnan().any()) for p in params] == [i == 1 for i in range(len(params))]
