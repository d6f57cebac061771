"""Gains over the constant predictor, and their trailing median."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from study.outcomes.gains import gains, trailing_median


def test_gains_by_hand() -> None:
    loss = np.array([[[0.5, 3.0], [1.0, 2.0]]], np.float32)
    constant = np.array([[[1.0, 2.0], [0.5, 2.5]]], np.float32)
    # Sums: loss 3.5, 3; constant 3, 3; in units of 0.8 + 2 = 2.8.
    d = gains(loss, constant, np.array([0.8, 2.0]))
    assert d.dtype == np.float64
    np.testing.assert_allclose(d[0], [[-0.5 / 2.8, 0.625, -0.5], [0.0, -0.625, 0.25]])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_nonfinite_loss_gains_minus_infinity(bad: float) -> None:
    d = gains(np.array([[[bad, 0.5]]]), np.ones((1, 1, 2)), np.ones(2))
    assert d[0, 0].tolist() == [-math.inf, -math.inf, 0.5]


def test_trailing_median_by_hand() -> None:
    gain = np.array([4.0, 2.0, 9.0, 1.0, -math.inf, -math.inf, 5.0])
    expected = [4.0, 3.0, 4.0, 2.0, 1.0, -math.inf, -math.inf]
    assert trailing_median(gain, 3).tolist() == expected
    assert trailing_median(gain, 1).tolist() == gain.tolist()
    stacked = trailing_median(np.stack([gain, -gain[::-1]])[:, :, None], 3)
    assert stacked.shape == (2, 7, 1)
    assert stacked[0, :, 0].tolist() == expected


@given(st.integers(1, 60), st.integers(0, 12), st.integers(0, 2**32 - 1))
def test_trailing_median_is_the_median_of_each_window(steps: int, half: int, seed: int) -> None:
    gain = np.random.default_rng(seed).normal(size=(2, steps, 3))
    window = 2 * half + 1
    found = trailing_median(gain, window)
    for t in range(steps):
        np.testing.assert_allclose(found[:, t], np.median(gain[:, max(0, t + 1 - window) : t + 1], axis=1))


def test_trailing_median_of_a_long_run_is_exact_at_block_borders() -> None:
    gain = np.random.default_rng(0).normal(size=400_000)
    found = trailing_median(gain, 25)
    for t in (159_999, 160_000, 160_023, 160_024, 160_025, 320_024, 399_999):
        assert found[t] == np.median(gain[t - 24 : t + 1])
