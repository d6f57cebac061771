"""Ticks of logarithmic axes."""

import pytest
from matplotlib.figure import Figure

from analysis.figures.axes import figure_style, log_ticks, lr_axis, paper


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


def test_the_label_of_a_narrow_axes_is_not_cut() -> None:
    with figure_style(paper(3.3)):
        figure = Figure(figsize=(3.3, 1.6), layout="constrained")
        for ax in (figure.add_subplot(1, 3, i + 1) for i in range(3)):
            lr_axis(ax, (0.01, 10))
            ax.set_ylabel("P(divergence)")
        figure.draw_without_rendering()
        for ax in figure.axes:
            box = ax.xaxis.label.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert [ax.get_xlabel() for ax in figure.axes] == ["learning\nrate"] * 3
        wide = Figure().subplots()
        lr_axis(wide, (0.01, 10))
        assert wide.get_xlabel() == "learning rate"
