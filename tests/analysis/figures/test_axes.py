"""Ticks of logarithmic axes."""

import pytest
from matplotlib.figure import Figure

from analysis.figures.axes import figure_style, log_axis, log_ticks, lr_axis, paper


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


@pytest.mark.parametrize(
    "limits", [(0.55, 0.68), (0.6, 0.95), (0.5, 1.4), (2.1, 8.9), (11, 95), (0.02, 30), (2e-5, 9e-5), (1e-6, 1e5)]
)
@pytest.mark.parametrize("which", ["x", "y"])
def test_a_logarithmic_axis_has_two_numbers_or_more(limits: tuple[float, float], which: str) -> None:
    ax = Figure().add_subplot()
    log_axis(ax, which)
    ax.set(**{f"{which}lim": limits})
    axis = ax.xaxis if which == "x" else ax.yaxis
    shown = [at for at in axis.get_majorticklocs() if limits[0] <= at <= limits[1]]
    assert 2 <= len(shown) <= 8
    assert [float(axis.get_major_formatter()(at)) for at in shown] == pytest.approx(shown)


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
