"""How far the suggestions of range tests lie from the edge, on rows made by hand."""

from pathlib import Path

import pandas as pd
import pytest
from range_rows import write_range_rows

from analysis.findings import range_tests
from analysis.stats.range_rules import RULES

PUBLISHED = Path(__file__).parents[3] / "docs" / "results"
EDGE = 0.6
"""LR50 of untreated `small` in docs/results/lr_small is about this."""


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Two curves of `small`, of which one has no edge."""
    write_range_rows(tmp_path, "small", {"none": EDGE, "clippy": float("inf")})
    return [tmp_path, PUBLISHED / "lr_small"]


def test_suggestions_are_given_over_the_edge(folders: list[Path]) -> None:
    _, _, none, clippy = range_tests.suggestions(folders).splitlines()
    cells = [cell.strip() for cell in none.split("|")[1:-1]]
    assert cells[:3] == ["small", "none", "0.60"]
    assert cells[3] == "2.0 (2.0 to 2.0)"
    assert cells[4] == "1/100 (1/100 to 1/100)"
    assert "| not reached | never | lr 0.0060 (0.0060 to 0.0060) |" in clippy


def test_ramps_and_spans_name_what_never_explodes(folders: list[Path]) -> None:
    by_ramp = range_tests.ramps(folders).splitlines()[2:]
    assert [line.split("|")[5].strip() for line in by_ramp] == ["1.2", "> 1"]
    spans = range_tests.span(folders).splitlines()[2:]
    assert [line.split("|")[3].strip() for line in spans] == ["2.0 to 2.0", "never"]
    assert all(line.split("|")[4].strip() == "1/100 to 1/100" for line in spans)


def test_the_default_suggestions_stand_beside_what_was_trained_there(tmp_path: Path) -> None:
    write_range_rows(tmp_path, "small", {"none": EDGE, "clippy": float("inf")})
    at = pd.read_csv(tmp_path / range_tests.FILE)
    around = at["lr_from"] == range_tests.SHORT["lr_from"]
    at.loc[around, ["valley", "explosion"]] = [0.13, 1.2]
    at.loc[around, "lr_steps"] = range_tests.SHORT["lr_steps"]
    at.to_csv(tmp_path / range_tests.FILE, index=False)
    _, _, *rows = range_tests.trained([tmp_path, PUBLISHED / "lr_small"]).splitlines()
    far = "- | - | - | 0.3 | 0.6842 | 50 |"
    assert rows == [
        f"| small | 1e-08 to 1 | Lightning | 0.0060 | {far}",
        f"| small | 1e-08 to 1 | fastai | 0.0060 | {far}",
        f"| small | 0.001 to 10 | Lightning | 0.0060 | {far}",
        "| small | 0.001 to 10 | fastai | 0.13 | 0.1 | 0 of 16 | 0.6802 | 0.3 | 0.6842 | 2.3 |",
    ]


def test_the_figure_marks_what_never_explodes(folders: list[Path]) -> None:
    left, right = range_tests.figure(folders).axes
    assert left.get_title() == "lr 0.001 to 10 in 400 steps"
    arrows = [line for line in right.lines if line.get_marker() == ">" and len(line.get_xdata())]
    (x,) = arrows[0].get_xdata()
    assert x == pytest.approx(1 / EDGE, rel=0.05)
    assert len([line for line in left.lines if line.get_marker() == "o" and len(line.get_xdata())]) == len(RULES)


@pytest.mark.parametrize(
    ("factor", "text"), [(2.16, "2.2"), (1.0, "1.0"), (0.5, "1/2.0"), (1 / 229.0, "1/230"), (1 / 9.46e6, "1/9,500,000")]
)
def test_factors(factor: float, text: str) -> None:
    assert range_tests.factor_text(factor) == text
