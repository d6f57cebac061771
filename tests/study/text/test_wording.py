"""Words that several parts print."""

import pytest

from study.text.wording import count
from study.tracking.mirror import MirrorResult


@pytest.mark.parametrize(("n", "text"), [(0, "0 runs"), (1, "1 run"), (1.0, "1 run"), (12345, "12345 runs")])
def test_a_count_has_a_plural(n: float, text: str) -> None:
    assert count(n, "run") == text


def test_a_view_of_one_curve_has_a_singular() -> None:
    result = MirrorResult(experiment_id="1", uri="sqlite:///here", curves=1, cells=1, url_path="")
    assert str(result) == "MLflow: 1 curve, 1 cell in sqlite:///here"
