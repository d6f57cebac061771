"""What `study plan` says of the runs that are left."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from study.commands.plan import _outlook


@pytest.mark.parametrize("recorded", [True, False])
def test_a_plan_without_runs_takes_no_time(tmp_path: Path, recorded: bool) -> None:
    limits = SimpleNamespace(notes=())
    plan = SimpleNamespace(stacks=(), limits=limits)
    work: Any = SimpleNamespace(
        control=(), plan=plan, source=SimpleNamespace(left={"small": 0} if recorded else {}), confirmation_runs=0
    )
    trainer: Any = SimpleNamespace(expected_seconds=lambda _: ({"small": 60.0}, "as measured"))
    assert _outlook(work, 8, tmp_path, trainer, None)[0] == "  expected  nothing is left to train"
