"""Ticks of logarithmic axes."""

import pytest
from matplotlib.figure import Figure

from analysis.figures.axes import log_ticks


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((0.01, 4), [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2]),
        ((1.06, 4.3), [1.5, 2, 3, 4]),
        ((0.1, 100_000), [0.1, 1, 10, 100, 1000, 10_000, 100_000]),
        ((0.41, 0.44), [0.41, 0.44]),
    ],
)
def test_ticks_are_round_numbers_where_there_are_two(limits, expected):
    axis = Figure().add_subplot().xaxis
    log_ticks(axis, *limits, limits)
    assert list(axis.get_majorticklocs()) == pytest.approx(expected)
