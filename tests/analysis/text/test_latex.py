"""Edges as a table of LaTeX say what the report says."""

import math

import pandas as pd

from analysis.stats.edges import BELOW, NOT_REACHED, REACHED
from analysis.text.latex import edges_table

ROW = {"model": "small", "curve": "none", "level": 0.05, "seeds": 8, "lrs": 5, "n_min": 8, "n_max": 8}


def cells(**row: object) -> str:
    tried = {"lr_min": 0.1, "lr_max": 3.2}
    return edges_table(pd.DataFrame([ROW | tried | row])).splitlines()[4]


def test_intervals_are_those_of_the_report_with_three_digits() -> None:
    undecided = {"low": 0.0, "high": math.inf}
    assert "none & 1.90 & undecided & 8" in cells(edge=1.9, status=REACHED, **undecided)
    assert "none & -- & undecided & 8" in cells(edge=math.inf, status=NOT_REACHED, **undecided)
    assert "none & -- & above 3.20 & 8" in cells(edge=math.inf, status=NOT_REACHED, low=3.2, high=math.inf)
    assert "none & -- & above 0.760 & 8" in cells(edge=math.inf, status=NOT_REACHED, low=0.76, high=math.inf)
    assert "none & -- & below 0.100 & 8" in cells(edge=math.nan, status=BELOW, low=0.0, high=0.1)
    assert "none & 0.600 & 0.400 to 0.800 & 8" in cells(edge=0.6, status=REACHED, low=0.4, high=0.8)
    assert "none & 123 & 99.5 to 1230 & 8" in cells(edge=123.4, status=REACHED, low=99.5, high=1234.0)
    assert "none & 0.487 & 0.439 to 0.530 & 8" in cells(edge=0.4871, status=REACHED, low=0.4391, high=0.53)
    assert "none & 0.150 & below 0.212 & 8" in cells(edge=0.15, status=REACHED, low=0.0, high=0.2123)
