"""Words that several parts print."""

import pytest

from study.text.console import joined_lines
from study.text.wording import count
from study.tracking.mirror import MirrorResult


@pytest.mark.parametrize(("n", "text"), [(0, "0 runs"), (1, "1 run"), (1.0, "1 run"), (12345, "12,345 runs")])
def test_a_count_has_a_plural(n: float, text: str) -> None:
    assert count(n, "run") == text


@pytest.mark.parametrize(
    ("text", "line"),
    [("a  b", "a  b"), (" a \n\t b\x1f c\n", "a b c"), ("a\n \u2028 \nb", "a b"), ("", ""), ("\n \n", "")],
)
def test_lines_are_joined_by_one_blank(text: str, line: str) -> None:
    assert joined_lines(text) == line


def test_long_runs_of_blanks_stay_in_a_name() -> None:
    assert joined_lines("a" + " " * 20_000 + "b\n" + " " * 20_000 + "c") == "a" + " " * 20_000 + "b c"


def test_a_view_of_one_curve_has_a_singular() -> None:
    result = MirrorResult(experiment_id="1", uri="sqlite:///here", curves=1, cells=1, url_path="")
    assert str(result) == "MLflow: 1 curve, 1 cell in sqlite:///here"
