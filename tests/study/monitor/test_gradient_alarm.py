"""The gradient alarm. `tests/analysis/stats/test_signals.py` compares it with the rule that was measured."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from study.monitor import GradientAlarm


def test_a_norm_that_is_not_finite_rings() -> None:
    alarm = GradientAlarm()
    for step in range(9):
        alarm.watch(math.nan if step == 7 else 1.0)
    assert alarm.rang_at() == 7


def test_an_alarm_without_steps_has_not_rung() -> None:
    assert GradientAlarm().rang_at() is None


def test_a_factor_of_one_or_less_is_refused() -> None:
    with pytest.raises(ValueError, match="times > 1, got times=1"):
        GradientAlarm(times=1)


def test_the_example_works_with_a_frozen_layer() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    network[0].requires_grad_(False)
    alarm = GradientAlarm()
    for step in range(12):
        network.zero_grad()
        (network(torch.ones(1, 3)).sum() * (100 if step == 10 else 1)).backward()
        alarm.watch(nn.utils.get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
    assert alarm.rang_at() == 10
    alarm.reset()
    assert alarm.rang_at() is None
    for _ in range(12):
        alarm.watch(100.0)
    assert alarm.rang_at() is None


@pytest.mark.parametrize("unscaled", [False, True])
def test_steps_that_a_grad_scaler_skips_do_not_ring(unscaled: bool) -> None:
    """The scale starts at 2^24, and 13 steps overflow. Later it doubles, and a step overflows again."""
    weight, alarm, plain = nn.Parameter(torch.ones(4)), GradientAlarm(times=1.5), GradientAlarm(times=1.5)
    scaler, optimizer = torch.amp.GradScaler("cpu", 2.0**24, growth_interval=20), torch.optim.SGD([weight], 1e-6)
    scales = []
    for _ in range(60):
        optimizer.zero_grad()
        scaler.scale((weight.half() * 30).sum().float()).backward()
        scales.append(scaler.get_scale())
        if unscaled:
            scaler.unscale_(optimizer)
        assert weight.grad is not None
        norm = weight.grad.norm()
        alarm.watch(norm, scale=scales[-1], unscaled=unscaled)
        plain.watch(norm)
        scaler.step(optimizer)
        scaler.update()
    assert scales.index(2.0**11) == 13
    assert scales.count(2.0**12) > 1
    assert alarm.rang_at() is None
    assert plain.rang_at() == 6


def test_a_gradient_that_is_lost_rings_once_the_scale_is_down() -> None:
    alarm, scale = GradientAlarm(), 2.0**4
    for _ in range(20):
        alarm.watch(scale, scale)
    for _ in range(9):
        alarm.watch(torch.tensor(math.nan), torch.tensor(scale))
        scale /= 2
    assert alarm.rang_at() == 24  # the scale is 1


@pytest.mark.parametrize("kind", [float, torch.tensor, np.float32])
@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_divides_nothing_is_refused_at_once(scale: float, kind: Callable[[float], Any]) -> None:
    """A scale of 0 raised a ZeroDivisionError much later."""
    alarm = GradientAlarm()
    for unscaled in (False, True):
        with pytest.raises(ValueError, match="need scale > 0, got scale="):
            alarm.watch(1.0, scale=kind(scale), unscaled=unscaled)
    assert alarm.rang_at() is None


def test_a_wrong_scale_on_a_device_is_refused_when_it_is_read() -> None:
    class OnDevice:
        def detach(self) -> "OnDevice":
            return self

        clone = detach

        def cpu(self) -> float:
            return 0.0

    alarm = GradientAlarm()
    alarm.watch(1.0, scale=OnDevice())
    with pytest.raises(ValueError, match="need scale > 0, got scale=0"):
        alarm.rang_at()
    alarm.reset()
    assert alarm.rang_at() is None


def test_what_is_not_one_number_is_refused() -> None:
    alarm = GradientAlarm()
    with pytest.raises(ValueError, match=r"need one number, got a tensor of shape \(2,\)"):
        alarm.watch(torch.ones(2))
    with pytest.raises(ValueError, match="need one number, got None"):
        alarm.watch(1.0, scale=None)
    assert alarm.rang_at() is None


@pytest.mark.parametrize(("wrong", "named"), [({"times": "16"}, "times='16'"), ({"start": "6"}, "start='6'")])
def test_settings_that_are_text_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"^need a number as {named[:5]}, got {named}"):
        GradientAlarm(**wrong)
