"""The monitor for any training loop judges as the study does, at any step, without waiting for the device."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_curves import GAIN, ONE_TASK, RULE, STEPS, judge_one, losses_of, random_runs, rising

from study.monitor import Monitor
from study.outcomes.judge import Outcome, judge


def without_tasks(outcome: Outcome) -> Outcome:
    return dataclasses.replace(outcome, task_kept=(), task_diverged=())


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 32, 4096]))
def test_the_monitor_gives_the_outcome_of_judge(seed: int, block: int) -> None:
    loss, constant = random_runs(seed, tasks=1)
    unit = np.full(1, 0.9)
    judged = judge(loss, constant, unit, np.ones(5, bool), ONE_TASK, RULE)
    for r, outcome in enumerate(judged):
        monitor = Monitor(0.9, GAIN)
        monitor.BLOCK = block
        for step, (value, base) in enumerate(zip(loss[r, :, 0].tolist(), constant[r, :, 0].tolist(), strict=True)):
            monitor.watch(value, base)
            if step in (0, 30, 31):
                so_far = (x[r : r + 1, : step + 1] for x in (loss, constant))
                assert monitor.outcome() == without_tasks(judge(*so_far, unit, [True], ONE_TASK, RULE)[0])
        assert monitor.outcome() == without_tasks(outcome)
        state = monitor.state()
        assert state.kept == outcome.kept
        with np.errstate(invalid="ignore"):  # infinite losses
            excess = loss[r, :, 0] * constant[r, 0, 0] - RULE.slow_loss * loss[r, 0, 0] * constant[r, :, 0]
        exploded = bool(np.median(excess[-RULE.median_steps :].astype(float)) > 0)
        assert state.diverged == (outcome.reason in ("nonfinite", "collapsed", "exploded") or exploded)
        assert (state.steps, state.episodes, state.spikes) == (90, outcome.episodes, outcome.spikes)


@pytest.mark.parametrize("reference_gain", [None, GAIN])
def test_a_loss_that_explodes_has_diverged_at_once(reference_gain: float | None) -> None:
    """Also in a run that had learned nothing before, of which nothing else is known."""
    monitor = Monitor(0.69, reference_gain)
    for _ in range(RULE.median_steps):
        monitor.watch(0.69)
    assert not monitor.state().diverged
    for step in range(RULE.median_steps):
        monitor.watch(500.0)
        assert monitor.state().diverged == (step >= RULE.median_steps // 2)
    state = monitor.state()
    assert (state.reason, state.diverged_at_step) == ("exploded", RULE.median_steps + RULE.median_steps // 2)


class DeviceNumber:
    """A tensor on a device. It counts how often its value is copied to the host, and refuses any other access."""

    copies = 0

    def __init__(self, value: float, detached: bool = False) -> None:
        self.value, self.detached = value, detached

    def detach(self) -> "DeviceNumber":
        return DeviceNumber(self.value, True)

    def clone(self) -> "DeviceNumber":
        return DeviceNumber(self.value, self.detached)

    def cpu(self) -> float:
        assert self.detached, "the autograd graph would be kept alive"
        DeviceNumber.copies += 1
        return self.value

    def item(self) -> float:
        raise AssertionError("waits for the device")

    __float__ = __bool__ = __lt__ = __le__ = __gt__ = __ge__ = __array__ = item  # pyright: ignore[reportAssignmentType]


def test_watching_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceNumber, "copies", 0)
    monitor = Monitor(1.0, GAIN)
    curve = losses_of(rising())
    for value in curve:
        monitor.watch(DeviceNumber(float(value)), DeviceNumber(1.0))
    assert DeviceNumber.copies == 0
    assert monitor.state().kept == 1.0
    assert DeviceNumber.copies == 2 * STEPS
    assert monitor.outcome() == without_tasks(judge_one(curve))
    assert DeviceNumber.copies == 2 * STEPS, "each value is copied once"


def test_a_monitor_holds_at_most_a_block_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    held = most = 0

    class Counted(DeviceNumber):
        def clone(self) -> "DeviceNumber":
            nonlocal held, most
            held += 1
            most = max(most, held)
            return Counted(self.value, True)

        def detach(self) -> "DeviceNumber":
            return self

        def cpu(self) -> float:
            nonlocal held
            held -= 1
            return self.value

    monkeypatch.setattr(Monitor, "BLOCK", 64)
    monitor = Monitor(1.0, GAIN)
    for value in losses_of(rising(total=1000)):
        monitor.watch(Counted(float(value)))
    assert (most, held) == (64, 1000 % 64)
    assert monitor.state().steps == 1000


def test_a_monitor_copies_tensors() -> None:
    monitor = Monitor(1.0, GAIN)
    weight = torch.ones((), requires_grad=True)
    buffer = torch.zeros(())
    for value in losses_of(rising()):
        buffer.copy_(torch.tensor(value))
        monitor.watch(buffer * weight if monitor.state().steps % 2 else buffer)
    assert monitor.outcome() == without_tasks(judge_one(losses_of(rising())))


def test_a_monitor_without_steps_has_no_gain_and_no_outcome() -> None:
    monitor = Monitor(1.0, GAIN)
    state = monitor.state()
    assert (state.steps, state.gain, state.kept, state.diverged) == (0, None, None, False)
    with pytest.raises(ValueError, match="no step"):
        monitor.outcome()


def test_the_state_follows_a_run_that_collapses_recovers_and_turns_nonfinite() -> None:
    monitor = Monitor(1.0, GAIN)
    for value in losses_of(rising())[:40]:
        monitor.watch(value)
    early = monitor.state()
    assert early.gain == pytest.approx(27 / 50 * GAIN)
    assert early.kept == pytest.approx(27 / 50)
    assert not early.diverged
    for _ in range(13):
        monitor.watch(1.0)
    late = monitor.state()
    assert (late.diverged, late.reason, late.diverged_at_step) == (True, "collapsed", 52)
    for _ in range(30):
        monitor.watch(0.75)
    assert not monitor.state().diverged
    monitor.watch(math.nan)
    lost = monitor.state()
    assert (lost.diverged, lost.reason, lost.diverged_at_step) == (True, "nonfinite", 83)


def test_a_run_that_has_learned_nothing_is_diverged_only_at_its_end() -> None:
    monitor = Monitor(1.0, GAIN)
    for _ in range(100):
        monitor.watch(1.0)
    assert not monitor.state().diverged
    assert monitor.outcome().reason == "never_learned"


def test_without_a_reference_gain_the_best_gain_so_far_is_used() -> None:
    monitor = Monitor(1.0)
    for value in losses_of(rising(0.8)):
        monitor.watch(value)
    state = monitor.state()
    assert state.reference_gain == state.gain == pytest.approx(0.8 * GAIN)
    assert state.kept == 1.0
    for _ in range(20):
        monitor.watch(1.0)
    assert monitor.state().reason == monitor.outcome().reason == "collapsed"


def test_noise_does_not_become_the_reference_gain() -> None:
    monitor = Monitor(1.0)
    rng = np.random.default_rng(0)
    for step in range(200):
        monitor.watch(1.0 + rng.normal(0.01, 0.1))
        if step % 10 == 0:
            state = monitor.state()
            assert (state.reference_gain, state.kept, state.diverged) == (None, None, False)
    outcome = monitor.outcome()
    assert (outcome.outcome, outcome.reason, outcome.kept) == ("diverged", "never_learned", None)
    monitor.watch(math.inf)
    assert monitor.outcome().reason == "nonfinite"


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf])
def test_a_constant_loss_or_reference_gain_that_is_not_positive_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="constant_loss > 0"):
        Monitor(bad)
    with pytest.raises(ValueError, match="reference_gain > 0"):
        Monitor(1.0, bad)


@pytest.mark.parametrize("wrong", ["0.69", torch.ones(3), [0.69]])
def test_a_constant_loss_or_reference_gain_that_is_not_one_number_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^need one number as constant_loss, got "):
        Monitor(wrong)
    with pytest.raises(ValueError, match=r"^need one number as reference_gain, got "):
        Monitor(1.0, wrong)


def test_a_constant_loss_may_be_a_tensor() -> None:
    monitor = Monitor(torch.tensor(2.0), np.float32(0.5))  # pyright: ignore[reportArgumentType]
    monitor.watch(1.0)
    state = monitor.state()
    assert (state.gain, state.reference_gain, state.kept) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("wrong", [torch.ones(32), torch.ones(0), torch.ones((), device="meta"), [1.0], None, "1.0"])
def test_what_is_not_one_number_is_refused_at_once_and_nothing_is_lost(wrong: object) -> None:
    monitor = Monitor(1.0, GAIN)
    monitor.watch(torch.ones(1, 1))
    with pytest.raises(ValueError, match="need one number, got"):
        monitor.watch(wrong)
    if wrong is not None:
        with pytest.raises(ValueError, match="need one number, got"):
            monitor.watch(1.0, constant=wrong)
    monitor.watch(np.float32(0.5))
    assert monitor.state().steps == 2


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_number_of_numpy_or_torch_may_have_any_shape(shape: tuple[int, ...]) -> None:
    monitor = Monitor(np.full(shape, 2.0), torch.full(shape, 0.5))  # pyright: ignore[reportArgumentType]
    monitor.watch(np.full(shape, 1.0), constant=torch.full(shape, 2.0))
    monitor.watch(np.full(shape, 1), constant=np.full(shape, 2, np.int32))
    state = monitor.state()
    assert (state.steps, state.gain, state.kept) == (2, 0.5, 1.0)
    for wrong in (np.full((*shape, 2), 1.0), np.full(shape, "1"), np.full(shape, 1j), np.full((*shape, 0), 1.0)):
        with pytest.raises(ValueError, match="need one number, got"):
            monitor.watch(wrong)


def test_a_copy_to_the_host_that_fails_loses_nothing() -> None:
    class Failing(DeviceNumber):
        fails = True

        def clone(self) -> "DeviceNumber":
            return self

        detach = clone

        def cpu(self) -> float:
            if Failing.fails:
                raise RuntimeError("the device is busy")
            return self.value

    monitor = Monitor(1.0, GAIN)
    monitor.watch(1.0)
    monitor.watch(Failing(0.5))
    with pytest.raises(RuntimeError, match="busy"):
        monitor.state()
    Failing.fails = False
    assert monitor.state().steps == 2
