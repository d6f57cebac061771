"""A study whose Ray dies ends with exit code 1 and a line that says how to continue."""

import os
import signal
from pathlib import Path

import pytest
from faults import is_kind
from processes import command, send, tree
from studies import Studies, kill_child, recorded
from waiting_for import LONG, wait_until

from study.tune import liveness


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gcs", "raylet", "agent"])
def test_a_study_whose_ray_dies_says_how_to_continue(studies: Studies, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    child = studies.start(*LONG, "--out", folder)
    try:
        wait_until(child, lambda: len(recorded(folder)) > 0)
        victims = [pid for pid in tree(child.pid) if is_kind(kind, command(pid))]
        assert victims, f"there is no {kind}"
        send(victims[0], signal.SIGKILL)
        printed, _ = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            kill_child(child)
    assert child.returncode == liveness.EXIT_STATUS, printed
    shown = min(os.path.relpath(folder, studies.folder), str(folder), key=len)
    lines = [line for line in printed.splitlines() if line.startswith("study: ")]
    assert "has died" in lines[-1]
    assert f"`python -m study resume {shown}`" in lines[-1]
    assert recorded(folder)
