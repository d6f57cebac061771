"""The onset of a divergence: found where it was put, at any step, and nowhere in what stayed healthy."""

import numpy as np
import pytest

from study.config import Rule
from study.outcomes.onset import centred_median, control_curve, floor, moments

RULE = Rule()
CONTROL = np.clip((np.arange(200) - 10) / 15, 0, 1)
"""The control begins to learn at step 10 and has learned all at step 25."""


def healthy(seed: int, noise: float = 0.05) -> np.ndarray:
    """In units of G: as the control, with a batch's noise; the first scores are too large."""
    draws = noise * np.random.default_rng(seed).standard_normal(200)
    start = np.where(np.arange(200) < 4, -10.0, 0.0)
    return CONTROL + draws + start


@pytest.mark.parametrize("depth", [3.0, 1e6, np.inf])
@pytest.mark.parametrize("at", [11, 14, 19, 40, 120, 180])
def test_a_fall_is_found_where_it_begins(at: int, depth: float) -> None:
    for seed in range(20):
        gain = healthy(seed)
        gain[at:] = -depth
        found = moments(gain, CONTROL, RULE)
        assert found is not None
        assert found.rising == at
        assert at <= found.gone <= at + 12, "the trailing median of 25 has half of its window after 12 steps"
        assert 0 <= found.healthy <= at - 5
        gain = healthy(seed, noise=0.12)
        gain[at:] = -depth
        found = moments(gain, CONTROL, RULE)
        assert found is not None
        assert at - 2 <= found.rising <= at, "noise may make it a step or two early, as a median of 5 can"


def test_a_network_that_died_in_warm_up_is_followed_to_where_it_died() -> None:
    """Dead from step 15, after the explosion no worse than the constant: most divergences look so."""
    for seed in range(20):
        gain = healthy(seed)
        gain[15:20] = -1e4
        gain[20:] -= CONTROL[20:]
        found = moments(gain, CONTROL, RULE)
        assert found is not None
        assert found.rising == 15


def test_a_fall_that_heals_is_none_and_the_last_one_counts() -> None:
    gain = healthy(0)
    gain[60:100] = -5
    assert moments(gain, CONTROL, RULE) is None
    gain[150:] = -5
    found = moments(gain, CONTROL, RULE)
    assert found is not None
    assert found.rising == 150


def test_what_never_rose_above_the_floor_has_nothing_before_it() -> None:
    found = moments(np.full(200, -3.0), CONTROL, RULE)
    assert found is not None
    assert (found.healthy, found.rising, found.gone) == (0, 0, 0)


def test_the_healthy_stay_healthy_and_so_does_a_slower_one() -> None:
    assert all(moments(healthy(seed, 0.2), CONTROL, RULE) is None for seed in range(50))
    assert moments(0.6 * np.roll(healthy(1), 10), CONTROL, RULE) is None


def test_the_floor_is_a_quarter_of_what_is_learned_and_as_much_below_nothing() -> None:
    assert floor(np.array([-2.0, 0.0, 0.5, 1.0, 3.0]), RULE).tolist() == [-0.25, -0.25, 0.0, 0.25, 0.25]


def test_medians_by_hand() -> None:
    values = np.array([5.0, 1.0, 4.0, -np.inf, 2.0, 9.0])
    assert centred_median(values, 3).tolist() == [1.0, 4.0, 1.0, 2.0, 2.0, 2.0]
    assert control_curve(np.array([[0.0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [1, 2, 3, 4, 5]])).tolist() == [2, 2, 3, 3, 4]
