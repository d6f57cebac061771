"""A study whose Ray dies ends with exit code 1 and a line that says how to continue."""

import os
import signal
from pathlib import Path

import pandas as pd
import pytest
from faults import is_kind
from processes import command, send, tree
from studies import CONTROL, Studies, kill_child, recorded, table
from waiting_for import LONG, wait_until

from study.tune import liveness


def end_by_killing(kind: str, studies: Studies, folder: Path, *words: str) -> str:
    """Start a study, kill a process of its Ray once runs are recorded, and return what the study printed."""
    child = studies.start(*LONG, *words, "--out", folder)
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
    return printed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gcs", "raylet"])
def test_a_study_whose_ray_dies_says_how_to_continue(studies: Studies, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    printed = end_by_killing(kind, studies, folder)
    shown = min(os.path.relpath(folder, studies.folder), str(folder), key=len)
    lines = [line for line in printed.splitlines() if line.startswith("study: ")]
    assert "has ended" in lines[-1]
    assert f"`python -m study resume {shown}`" in lines[-1]
    assert recorded(folder)


@pytest.mark.slow
def test_a_study_whose_agent_dies_says_so_and_resumes(studies: Studies, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    printed = end_by_killing("agent", studies, folder, "--set", "steps=300")
    # Ray ends the driver from native code some 30 ms after the agent's death. On a busy machine that may be before our
    # line, and then Ray's message is the last one.
    ours = [line for line in printed.splitlines() if line.startswith("study: ")]
    if ours:
        assert "has ended" in ours[-1]
        assert "study resume" in ours[-1]
    else:
        assert "has been marked dead" in printed
    before = table(folder)
    assert len(before)
    studies("resume", folder)
    runs = recorded(folder)
    assert len(runs) == len(set(runs)) == CONTROL + 4
    after = table(folder).set_index("run_id").loc[before["run_id"]].reset_index()
    pd.testing.assert_frame_equal(after[before.columns], before)
