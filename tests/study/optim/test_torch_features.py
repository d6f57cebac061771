"""What torch's own optimizers live with: a GradScaler, channels-last tensors, distributed checkpoints."""

import pytest
import torch
from optimizer_steps import assert_same, each_optimizer, parameters, steps
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from study.optim._pack import SMALL

SCALE = 2.0**10


@each_optimizer
def test_a_grad_scaler_unscales_and_skips(optimizer):
    """A power of two changes no bit. A step with an infinite gradient changes nothing."""
    ours, theirs = (parameters((4, 3), (3,), dtype=torch.float32) for _ in range(2))
    us, them = optimizer(ours, 0.1), optimizer(theirs, 0.1)
    scaler = torch.amp.GradScaler("cpu", SCALE, growth_interval=1000)
    for t in range(4):
        for p in ours:
            scaler.scale((p * (t + 1)).square().sum()).backward()
        for p in theirs:
            (p * (t + 1)).square().sum().backward()
        if t == 2:
            ours[1].grad[0] = torch.inf
        before = [p.detach().clone() for p in ours]
        scaler.step(us)
        scaler.update(SCALE)
        if t == 2:
            assert all(torch.equal(p, q) for p, q in zip(ours, before, strict=True))
        else:
            them.step()
            assert not torch.equal(ours[0], before[0])
        us.zero_grad()
        them.zero_grad()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))


@each_optimizer
def test_channels_last_parameters_equal_contiguous_ones(optimizer):
    """A small one, and one that is too large for the pack of small ones."""
    ours = parameters((4, 3, 2, 2), (20, 30, 8, 8))
    assert ours[0].numel() <= SMALL < ours[1].numel()
    theirs = [nn.Parameter(p.detach().clone(memory_format=torch.channels_last)) for p in ours]
    us, them = optimizer(ours, 0.1), optimizer(theirs, 0.1)
    for t in range(5):
        expected = steps(us, ours, 1, start=t)
        for p, q in zip(ours, theirs, strict=True):
            assert p.grad is not None
            q.grad = p.grad.contiguous(memory_format=torch.channels_last)
        them.step()
        assert_same(theirs, expected)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in theirs)


@each_optimizer
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_continues_with_the_same_bits(optimizer, tmp_path):
    def network() -> tuple[nn.Module, list[nn.Parameter]]:
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double()
        return model, list(model.parameters())

    model, params = network()
    us = optimizer(params, 0.1)
    steps(us, params, 3)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, us)}
    checkpoint.save(state, checkpoint_id=tmp_path / "saved")
    expected = steps(us, params, 3, start=3)

    model, params = network()
    them = optimizer(params, 7.0)
    state = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, them)}
    checkpoint.load(state, checkpoint_id=tmp_path / "saved")
    set_optimizer_state_dict(model, them, state["optimizer"])
    for p, q in zip(steps(them, params, 3, start=3), expected, strict=True):
        assert torch.equal(p, q)
