"""The gradient alarm. `tests/analysis/stats/test_signals.py` compares it with the rule that was measured."""

import math

import pytest

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
