"""Whatever a study's driver or its own Ray is killed by, the last line is ours, and says how to go on; a stop that
reaches all processes of the command at once, as a scheduler sends it, keeps what trains."""

import os
import signal
from pathlib import Path

import faults
import pytest
from studies import Studies, kill_tree, recorded, send, tree
from waiting_for import LONG, wait_until

from study.tune import lifeline


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"))


def kill(kind: str, driver: int) -> None:
    if kind == "driver":
        send(driver, signal.SIGKILL)
        return
    found = [pid for pid in tree(driver) if faults._is(kind, faults.command(pid))]
    assert found, f"there is no {kind}"
    send(found[0], signal.SIGKILL)


NAMED = {
    "gcs": "Ray's head on this machine (GCS) has died",
    "raylet": "Ray's process on this machine (raylet) has died",
    "agent": "Ray's agent on this machine has died",
    "driver": "its process was ended from outside",
}
UNNAMED = NAMED["driver"]
"""Ray may be quicker than we are to see a death, and ends us."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMED)
def test_the_last_line_is_ours_whatever_was_killed(studies: Studies, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    child = studies.start(*LONG, "--out", folder)
    try:
        wait_until(child, lambda: len(recorded(folder)) > 0)
        kill(kind, child.pid)
        printed, _ = child.communicate(timeout=60)
    finally:
        if child.poll() is None:
            kill_tree(child)
    assert child.returncode == (-signal.SIGKILL if kind == "driver" else lifeline.EXIT_STATUS), printed
    last = printed.rstrip().splitlines()[-1]
    whys = [NAMED[kind], UNNAMED] if kind in ("raylet", "agent") else [NAMED[kind]]
    if kind == "agent":
        whys.append(NAMED["raylet"])  # which ends with it, and both may be dead when we look
    there = os.path.relpath(folder, studies.folder)
    how = f"what was recorded stays, and `python -m study resume {min(there, str(folder), key=len)}` trains the rest"
    assert last in [f"study: {why}; {how}" for why in whys]
    assert recorded(folder)
