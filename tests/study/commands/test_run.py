"""What `study run` advises at its end."""

import dataclasses
from pathlib import Path

import pytest

from search_spaces.quick import study as quick
from study.commands.run import _next_steps


@pytest.mark.parametrize(
    ("changes", "advised"),
    [({}, True), ({"data": "kuairand"}, False), ({"data": "my_pkg.my_log"}, False), ({"trainer": "loop"}, False)],
)
def test_real_data_are_advised_after_synthetic_ones_alone(
    tmp_path: Path, changes: dict[str, str], advised: bool
) -> None:
    steps = _next_steps(dataclasses.replace(quick, **changes), tmp_path)
    assert ("the same on real data" in steps) == advised
    assert " ui " in steps
