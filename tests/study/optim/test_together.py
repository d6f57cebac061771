"""Tensors that are updated together have the bits of the chain."""

import pytest
import torch
from optimizer_steps import parameters, steps

from study.optim import Clippy, MethodOptimizer, _pack, _together

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
    monkeypatch.setattr(_pack, "SMALL", 1300)
    monkeypatch.setattr(_together, "CHUNK", 701)
    options = {**options}
    own = {key: options.pop(key) for key in ("base", "momentum", "weight_decay") if key in options}
    together, alone = (parameters(*SHAPES, dtype=dtype) for _ in range(2))
    a, b = (
        MethodOptimizer(p, 0.1, method, own, foreach=f, record_clip_factors=True, **options)
        for p, f in ((together, None), (alone, False))
    )
    counted = []
    step = _together.Together.step
    monkeypatch.setattr(_together.Together, "step", lambda self, w, *more: counted.extend(w) or step(self, w, *more))
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


def adamw_pair(shapes=SHAPES, **options):
    """The same parameters twice, with optimizers that update them together and one by one."""
    both = [parameters(*shapes, dtype=torch.float32) for _ in range(2)]
    made = [Clippy(p, 0.1, base="adamw", foreach=f, **options) for p, f in zip(both, (None, False), strict=True)]
    return both, made


def step_with_equal_bits(both, made, t):
    for params, optimizer in zip(both, made, strict=True):
        generator = torch.Generator().manual_seed(t)
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()
    for p, q in zip(*both, strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(made[0].state[p][key], made[1].state[q][key]) for key in made[1].state[q])


def test_betas_may_change():
    both, made = adamw_pair()
    for t in range(6):
        for optimizer in made:
            optimizer.param_groups[0]["betas"] = (0.9 - 0.05 * t, 0.99)
        step_with_equal_bits(both, made, t)


def test_a_count_may_be_set_by_hand():
    both, made = adamw_pair()
    for t in range(6):
        if t == 3:
            for params, optimizer in zip(both, made, strict=True):
                optimizer.state[params[1]]["first_share"].fill_(0.5)
        step_with_equal_bits(both, made, t)


def test_an_eps_of_0_limits_no_factor():
    both, made = adamw_pair(((3,), (5,), (40, 30)), eps=0.0)
    for t in range(3):
        step_with_equal_bits(both, made, t)
    assert not any(p.isnan().any() for p in both[0])


def test_a_state_is_saved_without_the_pack_of_others(tmp_path):
    both, made = adamw_pair()
    step_with_equal_bits(both, made, 0)
    for name, optimizer in zip(("together", "alone"), made, strict=True):
        torch.save(optimizer.state_dict(), tmp_path / name)
    assert (tmp_path / "together").stat().st_size < 2 * (tmp_path / "alone").stat().st_size
    saved = torch.load(tmp_path / "together")
    made[0].load_state_dict(saved)
    step_with_equal_bits(both, made, 1)
