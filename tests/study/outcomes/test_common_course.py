"""A change of the data makes all of the control fall alike. It is no instability, and hides none."""

from typing import Any

import numpy as np
import pytest
from loss_curves import RULE, STEPS, rising

from study.config import CONTROL_LRS, CONTROL_SEEDS
from study.outcomes.judge import judge
from study.outcomes.reference import Reference, control_reference

TOPS = dict(zip(CONTROL_LRS, (0.05, 0.1, 0.15, 0.2, 0.25, 0.3), strict=True))
"""What the control learns at each lr, where nothing falls."""


def fall(start: int, left: float, stop: int = STEPS) -> np.ndarray:
    """Return what is left of a gain, (STEPS,): `left` from `start` to `stop`."""
    share = np.ones(STEPS)
    share[start:stop] = left
    return share


DIP, FALL = fall(90, 0.1, 130), fall(120, 0.3)
"""A change of the data that the runs learn, and one that stays."""


def gains_of(common: np.ndarray, noise: float = 0.002) -> np.ndarray:
    """Return the gains (lrs, seeds, STEPS) of a control on data that change."""
    draws = np.random.default_rng(0)
    clean = np.array([top * rising() * common for top in TOPS.values()])[:, None]
    return clean * (1 + draws.normal(0, 0.02, (6, 4, 1))) + draws.normal(0, noise, (6, 4, STEPS))


def reference_of(gains: np.ndarray, **more: Any) -> Reference:
    lrs, seeds = np.repeat(CONTROL_LRS, 4), np.tile(CONTROL_SEEDS, 6)
    loss = 1 - gains.reshape(24, STEPS, 1)
    return control_reference(lrs, seeds, loss, np.ones_like(loss), np.ones(1), RULE, **more)


@pytest.mark.parametrize(("common", "gain"), [(DIP, 0.3), (FALL, 0.09)])
def test_a_fall_of_all_lrs_and_seeds_is_no_instability(common: np.ndarray, gain: float) -> None:
    found = reference_of(gains_of(common))
    assert found.lr == 0.16
    assert found.gain == pytest.approx(gain, rel=0.05)


def test_noise_at_low_lrs_does_not_hide_that_the_data_changed() -> None:
    """What the lowest lrs lose is within their noise, so by their own course they seem to be the only safe ones."""
    assert reference_of(gains_of(DIP, noise=0.03)).lr == 0.16


def test_what_falls_to_less_than_nothing_in_common_is_no_instability() -> None:
    """The data turn around for a while: what was learned is worse than a constant."""
    assert reference_of(gains_of(fall(90, -0.5, 130))).lr == 0.16


@pytest.mark.parametrize("common", [DIP, FALL])
@pytest.mark.parametrize(("start", "stop"), [(60, 85), (95, 125), (150, 180)])
def test_a_run_that_falls_further_makes_its_lr_unsafe(common: np.ndarray, start: int, stop: int) -> None:
    gains = gains_of(common)
    gains[5, 2, start:stop] -= 0.3
    assert reference_of(gains).lr == 0.08


def test_lrs_that_diverge_excuse_no_other() -> None:
    gains = gains_of(DIP)
    gains[3:, :, 100:] = 0
    assert reference_of(gains).lr == 0.02
    gains = gains_of(DIP)
    gains[4:, :, 60:] = -np.inf
    assert reference_of(gains).lr == 0.04


@pytest.mark.parametrize("fallen", [np.s_[:, :2], np.s_[3:, :], np.s_[1:, :]], ids=["seeds", "high lrs", "all but one"])
def test_a_fall_of_a_part_of_the_control_is_not_common(fallen: Any) -> None:
    gains = gains_of(np.ones(STEPS))
    gains[fallen] *= DIP
    if fallen == np.s_[:, :2]:
        with pytest.raises(ValueError, match=r"the gain falls by more than 0.25 of what is learned \(least at lr="):
            reference_of(gains)
    else:
        assert reference_of(gains).lr == CONTROL_LRS[fallen[0].start - 1]


def test_a_ladder_that_diverges_everywhere_is_refused_with_what_to_set() -> None:
    gains = gains_of(np.ones(STEPS))
    for i in range(6):
        gains[i] *= fall(150 - 20 * i, 0.2, 165 - 20 * i)
    with pytest.raises(ValueError, match=r"least at lr=\S+, by 0\.\d+\); set lower control_lrs, a larger rule.control"):
        reference_of(gains)


def test_a_gain_that_is_lost_for_good_is_not_learnable_and_said() -> None:
    with pytest.raises(
        ValueError,
        match=r"gain after 200 steps is -0.0\d+, at lr=0.005; it was 0.3\d+ at step \d+\); set steps that end",
    ):
        reference_of(gains_of(fall(120, -0.1)))


def test_runs_fall_in_common_though_some_steps_apart() -> None:
    gains = gains_of(np.ones(STEPS))
    for seed in range(4):
        for i in range(6):
            gains[i, seed] *= fall(100 + 4 * seed - i, 0.2, 150 + 2 * i)
    assert reference_of(gains).lr == 0.16


def test_runs_that_log_other_steps_are_compared_at_the_same_steps() -> None:
    gains = gains_of(DIP).reshape(24, STEPS)
    step_R = [np.arange(r % 5, STEPS, 1 + r % 3) for r in range(24)]
    loss = [1 - gain[step][:, None] for gain, step in zip(gains, step_R, strict=True)]
    constant, lrs = [np.ones_like(one) for one in loss], np.repeat(CONTROL_LRS, 4)
    found = control_reference(lrs, np.tile(CONTROL_SEEDS, 6), loss, constant, np.ones(1), RULE, step_RT=step_R)
    assert found.lr == 0.16


def test_no_healthy_run_is_called_diverged_since_the_data_changed() -> None:
    """What is kept is relative to what the control has at the end."""
    for common in (DIP, FALL):
        reference = reference_of(gains_of(common))
        healthy = gains_of(common)[:, 0]
        collapsed = healthy[5] * fall(140, 0.1)
        loss = 1 - np.stack([*healthy, collapsed])[:, :, None]
        found = judge(loss, np.ones_like(loss), np.ones(1), [True] * 7, reference, RULE)
        assert [run.outcome for run in found[1:6]] == ["completed"] * 5
        assert found[5].kept == pytest.approx(1, abs=0.1)
        assert (found[6].outcome, found[6].reason) == ("diverged", "collapsed")
