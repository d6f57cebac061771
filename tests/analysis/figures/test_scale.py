"""Edges against a size: the ticks of the axis."""

import pandas as pd
from drawing import drawn

from analysis.figures.scale import scale
from analysis.stats.scale import scale_tables

SIZES = (1, 2, 3, 4, 6)


def points(sizes: tuple[float, ...]) -> pd.DataFrame:
    edges = [size**-0.5 for size in sizes]
    table = pd.DataFrame({"size": map(float, sizes), "edge": edges})
    table = table.assign(low=table["edge"] / 1.1, high=table["edge"] * 1.1, status="reached", lr_min=0.01, lr_max=10.0)
    return table.assign(model="ranker", curve="none", method="none", level=0.5)


def test_ticks_stand_at_the_trained_sizes_and_at_the_predicted_ones() -> None:
    (ax,) = drawn(scale(scale_tables("ranker.depth", points(SIZES), (12, 24)))).axes
    assert ax.get_xlabel() == "ranker.depth"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "3", "4", "6", "12", "24"]


def test_labels_of_near_sizes_do_not_overlap() -> None:
    (ax,) = drawn(scale(scale_tables("batch", points((1000, 1010, 1024, 8192, 16384))))).axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1000", "8192", "16384"]
