"""No step of an optimizer waits for a device: every one on every base, on a device without numbers."""

import inspect
from typing import Any

import pytest
import torch
from fake_device import DEVICE, computing_nothing
from optimizer_steps import OPTIMIZERS
from torch import nn

from study.methods import _bases
from study.optim import Clippy, ClipUpdates

RULES = ("clippy", "agc", "update_rms_clip", "lamb", "layer_clip", "global_clip")

SHAPES = ((3, 4), (4,), (200, 200))


def parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(shape, dtype=dtype, device=DEVICE)) for shape in SHAPES]


def three_steps(optimizer: torch.optim.Optimizer, params: list[nn.Parameter]) -> None:
    for _ in range(3):
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")  # by a copy of a state
@pytest.mark.parametrize("base", _bases.BASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda kind: kind.__name__)
def test_no_optimizer_on_any_base_waits(optimizer: Any, dtype: torch.dtype, base: str) -> None:
    with computing_nothing():
        params = parameters(dtype)
        options = {"weight_decay": 0.01} | ({"momentum": 0.9} if base in ("sgd", "rmsprop") else {})
        own = optimizer(params, lr=0.1, base=base, record_clip_factors=True, **options)
        three_steps(own, params)
        factors = own.clip_factors()
        own.load_state_dict(own.state_dict())
        three_steps(own, params)
    assert all(factor.device == DEVICE for factor in factors.values())
    assert all(p.device == DEVICE for p in params)


@pytest.mark.parametrize("options", [{"delayed_accumulator": True, "clip_accumulator": True}, {"norm": "rms"}])
def test_no_option_of_clippy_waits(options: dict[str, Any]) -> None:
    assert options.keys() <= inspect.signature(Clippy.__init__).parameters.keys()
    with computing_nothing():
        params = parameters(torch.float32)
        three_steps(Clippy(params, lr=torch.ones((), device=DEVICE), **options), params)


@pytest.mark.parametrize("rule", RULES)
def test_no_clip_around_another_optimizer_waits(rule: str) -> None:
    with computing_nothing():
        params = parameters(torch.float32)
        three_steps(ClipUpdates(torch.optim.SGD(params, lr=0.1, momentum=0.9), rule), params)
