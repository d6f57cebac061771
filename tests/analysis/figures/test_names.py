"""Names in figures cover no point, arrow or other name, and stay inside their axes."""

import math
from pathlib import Path

import numpy as np
import pytest
from drawing import check_names, drawn, names_of
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from threshold_runs import star

import analysis
from analysis.figures.axes import REPORT, figure_style, paper
from analysis.figures.frontier import draw_frontier
from analysis.figures.names import Name, _mark_artists, _Squares, write_names
from analysis.figures.palette import KNOWN
from analysis.figures.panels import threshold_lines
from analysis.figures.tradeoff import draw_tradeoff, tradeoff
from study.record.definition import read_definition

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"


def shared(panels: int, draw) -> Figure:
    """A figure of a column of a paper, as a user makes it."""
    with figure_style(paper(3.3)):
        figure = Figure(figsize=(3.3, 2.5 if panels == 1 else 3.0), layout="constrained", dpi=200)
        for ax in np.atleast_1d(figure.subplots(*((1, 1) if panels == 1 else (2, 2)))).ravel():
            draw(ax)
        return drawn(figure)


def places(ax) -> dict[str, tuple[float, ...]]:
    return {text: box.bounds for text, box in names_of(ax).items()}


@pytest.fixture(scope="module")
def dcn():
    folder = PUBLISHED / "lr_small_dcn"
    return analysis.tradeoff(analysis.load(folder), read_definition(folder))


@pytest.mark.parametrize("panels", [1, 4])
def test_names_of_the_tradeoff_cover_no_point_on_paper(dcn, panels):
    names = [check_names(ax) for ax in shared(panels, lambda ax: draw_tradeoff(ax, dcn)).axes]
    assert min(names) >= (5 if panels == 1 else 1)


def test_names_of_the_tradeoff_cover_no_point_in_the_report(dcn):
    with figure_style(REPORT):
        (ax,) = drawn(tradeoff(dcn)).axes
        assert check_names(ax) == 5


@pytest.mark.parametrize("panels", [1, 4])
def test_bounds_of_edges_that_were_not_reached_lie_inside(panels):
    table = analysis.frontier(star())
    _, line = next((key, line) for key, line in threshold_lines(table) if line["status"].iloc[0] == "not reached")
    none = table.loc[table["curve"] == "none"]
    figure = shared(panels, lambda ax: draw_frontier(ax, line, none, KNOWN["agc"]))
    for ax in figure.axes:
        check_names(ax)
        assert sorted(name.split()[0] for name in names_of(ax)) == [">", "none"]


def test_the_reference_lies_within_the_axis():
    table = analysis.frontier(star())
    _, line = next(iter(threshold_lines(table)))
    none = table.loc[table["curve"] == "none"].assign(edge=1e-3, low=1e-3, high=2e-3)
    (ax,) = shared(1, lambda ax: draw_frontier(ax, line, none, KNOWN["agc"])).axes
    assert ax.get_ylim()[0] < 1e-3
    check_names(ax)


def test_many_points_are_marked_at_once(monkeypatch):
    figure = Figure(figsize=(3.3, 2.5), dpi=100)
    ax = figure.add_subplot()
    ax.plot(*np.random.default_rng(0).uniform(0, 1, (2, 200_000)) * [[0.5], [1.0]], ".", ms=2)
    ax.set_xlim(0, 1)
    write_names(ax, [Name(text="one", x=0.4, y=0.5)])
    monkeypatch.setattr(_Squares, "fill", lambda self, *_: calls.append(self))
    calls = []
    drawn(figure)
    assert len(calls) < 10, "those of the name and of titles, and none for each point"
    (text,) = ax.texts
    assert text.get_visible()
    assert Text.get_window_extent(text).x0 > ax.transData.transform((0.5, 0.5))[0]


def test_a_line_of_many_points_crosses_all_squares():
    x, y = np.random.default_rng(0).uniform(0, 1, (2, 100_000))
    for kind in ("line", "bars"):
        ax = Figure(figsize=(3.3, 2.5), dpi=100).add_subplot()
        _ = ax.plot(x, y) if kind == "line" else ax.vlines(x, 0, y)
        write_names(ax, [Name(text="one", x=0.5, y=0.5)])
        squares = _Squares(ax.bbox, 3.0)
        _mark_artists(squares, ax, ax.figure._get_renderer(), 100.0)
        assert squares.crossed[1:-1, 1:-1].all()


def test_a_line_runs_through_each_square_of_its_way():
    squares = _Squares(Bbox.from_bounds(10, 20, 80, 40), 10)
    nan, inf = math.nan, math.inf
    squares.draw(np.array([[15, 25], [75, 25], [75, 45], [nan, 0], [15, 55], [25, 55], [inf, 0]]), squares.crossed)
    assert squares.crossed.tolist() == [
        [1, 1, 1, 1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
    ]
    for points in (np.empty((0, 2)), np.array([[15.0, 45.0]])):
        squares.draw(points, squares.crossed)
    assert squares.crossed.sum() == 11


def test_a_name_without_a_free_place_is_left_out_and_a_far_one_has_a_line():
    figure = Figure(figsize=(2, 2), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 1), ylim=(0, 1))
    x, y = np.meshgrid(np.linspace(0, 0.6, 30), np.linspace(0, 1, 50))
    ax.plot(x.ravel(), y.ravel(), "o", ms=4)
    write_names(ax, [Name(text="far", x=0.1, y=0.5), Name(text="a text that is too long" * 2, x=0.1, y=0.5)])
    drawn(figure)
    far, long = ax.texts
    assert check_names(ax) == 1
    assert far.arrow_patch.get_visible()
    assert not long.get_visible()
    ax.lines[0].set_data([0.1], [0.5])
    drawn(figure)
    assert not far.arrow_patch.get_visible(), "beside its point"


def test_names_stay_where_they_are_after_a_second_call_into_the_same_axes(dcn):
    small = PUBLISHED / "lr_small"
    other = analysis.tradeoff(analysis.load(small), read_definition(small))

    def both(ax):
        draw_tradeoff(ax, dcn)
        draw_tradeoff(ax, other)

    figure = shared(1, both)
    (ax,) = drawn(figure).axes  # the layout has settled
    assert check_names(ax) >= 4
    first = places(ax)
    for _ in range(3):
        drawn(figure)
        assert places(ax) == first


def test_a_name_that_its_user_removes_or_hides_stays_away():
    figure = Figure(figsize=(2, 2), dpi=100)
    ax = figure.add_subplot()
    write_names(ax, [Name(text=text, x=0.5, y=0.5) for text in ("one", "two", "three")])
    drawn(figure)
    one, two, three = ax.texts
    one.remove()
    two.set_visible(False)
    drawn(figure)
    assert set(names_of(ax)) == {"three"}
    two.set_visible(True)
    three.remove()
    drawn(figure)
    assert set(names_of(ax)) == {"two"}


def test_names_cover_no_legend():
    figure = Figure(figsize=(3.3, 2.5), dpi=100, layout="constrained")
    ax = figure.add_subplot()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    corners = [(0.9, 0.9), (0.9, 0.1), (0.1, 0.1)]
    ax.plot(*zip(*corners, strict=True), ls="", marker="o", label="a method of a long name")
    ax.add_artist(ax.legend(loc="center left"))
    legend = ax.legend(loc="best")
    write_names(ax, [Name(text=f"name {i}", x=x, y=y) for i, (x, y) in enumerate([*corners, (0.1, 0.5), (0.2, 0.8)])])
    drawn(figure)
    place = legend.get_window_extent().bounds
    for _ in range(3):
        assert check_names(ax) == 5
        drawn(figure)
        assert legend.get_window_extent().bounds == place, "names do not move it"


def test_names_cover_no_point_of_a_scatter():
    figure = Figure(figsize=(3.3, 2.5), dpi=100)
    ax = figure.add_subplot()
    ax.set(xlim=(1, 10), ylim=(0, 1), xscale="log")
    x, y = np.random.default_rng(0).uniform((1, 0), (5, 1), (400, 2)).T
    ax.scatter(x, y, s=np.where(x < 4, 4, 100))
    ax.scatter(np.ma.masked_greater([1.0, 9.0], 8.0), [0.5, 0.5])
    write_names(ax, [Name(text="one", x=3, y=0.5), Name(text="two", x=9, y=0.5)])
    drawn(figure)
    assert check_names(ax) == 2
    x, y = ax.transData.transform((9, 0.5))
    assert names_of(ax)["two"].padded(4).contains(x, y), "at a point that is not drawn"


def test_artists_that_are_not_seen_take_no_place():
    figure = Figure(figsize=(3.3, 2.5), dpi=100)
    ax = figure.add_subplot()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    grid = np.meshgrid(np.linspace(0, 1, 60), np.linspace(0, 1, 60))
    for hidden in (*ax.plot(*map(np.ravel, grid), "o"), ax.scatter(*grid)):
        hidden.set_visible(False)
    write_names(ax, [Name(text="one", x=0.5, y=0.5)])
    drawn(figure)
    assert ax.texts[0].get_visible()
