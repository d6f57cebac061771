"""The onset of a divergence is found where it was put, and never in a healthy run."""

import numpy as np
import pytest

from study.config import Rule
from study.outcomes.onset import Moments, centred_median, control_curve, floor, moments

RULE = Rule()
CONTROL = np.clip((np.arange(200) - 10) / 15, 0, 1)
"""The control begins to learn at step 10 and has learned everything at step 25."""


def healthy(seed: int, noise: float = 0.05) -> np.ndarray:
    """Return gains in units of G: the control's with batch noise, after four steps of scores that are too large."""
    draws = noise * np.random.default_rng(seed).standard_normal(200)
    return CONTROL + draws + np.where(np.arange(200) < 4, -10.0, 0.0)


def moments_of(gain: np.ndarray) -> Moments:
    found = moments(gain, CONTROL, RULE)
    assert found is not None
    return found


@pytest.mark.parametrize("depth", [3.0, 1e6, np.inf])
@pytest.mark.parametrize("at", [11, 14, 19, 40, 120, 180])
def test_the_onset_is_the_step_where_the_fall_begins(at: int, depth: float) -> None:
    for seed in range(20):
        gain = healthy(seed)
        gain[at:] = -depth
        found = moments_of(gain)
        assert found.rising == at
        assert at <= found.gone <= at + 12, "half of the trailing median's window has fallen after 12 steps"
        assert 0 <= found.healthy <= at - 5
        gain = healthy(seed, noise=0.12)
        gain[at:] = -depth
        assert at - 2 <= moments_of(gain).rising <= at, "under noise, the median of 5 may fall a step or two early"


def test_the_onset_of_a_network_that_died_in_warm_up_is_its_explosion() -> None:
    """Dead from step 15, and no worse than the constant after the explosion: most divergences look so."""
    for seed in range(20):
        gain = healthy(seed)
        gain[15:20] = -1e4
        gain[20:] -= CONTROL[20:]
        assert moments_of(gain).rising == 15


def test_only_a_fall_that_does_not_recover_has_an_onset() -> None:
    gain = healthy(0)
    gain[60:100] = -5
    assert moments(gain, CONTROL, RULE) is None
    gain[150:] = -5
    assert moments_of(gain).rising == 150


def test_a_run_that_was_never_healthy_has_its_onset_at_step_0() -> None:
    found = moments_of(np.full(200, -3.0))
    assert (found.healthy, found.rising, found.gone) == (0, 0, 0)


def test_healthy_and_slower_runs_have_no_onset() -> None:
    assert all(moments(healthy(seed, 0.2), CONTROL, RULE) is None for seed in range(50))
    assert moments(0.6 * np.roll(healthy(1), 10), CONTROL, RULE) is None


def test_the_floor_rises_with_the_control_from_a_quarter_below_zero_to_a_quarter_above() -> None:
    assert floor(np.array([-2.0, 0.0, 0.5, 1.0, 3.0]), RULE).tolist() == [-0.25, -0.25, 0.0, 0.25, 0.25]


def test_centred_median_equals_values_by_hand() -> None:
    values = np.array([5.0, 1.0, 4.0, -np.inf, 2.0, 9.0])
    assert centred_median(values, 3).tolist() == [1.0, 4.0, 1.0, 2.0, 2.0, 2.0]
    assert control_curve(np.array([[0.0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [1, 2, 3, 4, 5]])).tolist() == [2, 2, 3, 3, 4]
