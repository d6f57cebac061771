"""Temporary folders: those of killed processes are removed, and no others."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from study.storage.scratch import scratch_folder

HOLD = """
import sys
from study.storage.scratch import scratch_folder
with scratch_folder("mine-", sys.argv[1]) as folder:
    (folder / "file").write_text("x")
    print(folder, flush=True)
    sys.stdin.read()
"""

STOP_BEFORE_THE_LOCK = """
import signal, sys
from study.storage import scratch

def lock(folder):
    print(folder, flush=True)
    signal.pause()

scratch._lock = lock
with scratch.scratch_folder(sys.argv[1], sys.argv[2]):
    pass
"""


def test_folders_of_killed_processes_are_removed_at_the_next_start(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "x").mkdir(parents=True)
    (elsewhere / ".lock").touch()
    parent = tmp_path / "parent"
    parent.mkdir()
    (parent / "mine-link").symlink_to(elsewhere)
    (parent / "mine-of-someone").mkdir()
    words = [sys.executable, "-c", HOLD, str(parent)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        left = Path(child.stdout.readline().strip())
        with scratch_folder("mine-", parent) as folder:
            assert folder.stat().st_mode & 0o777 == 0o700
            assert (left / "file").exists(), "its process lives"
            with scratch_folder("mine-", parent) as other:
                assert folder.exists()
                assert folder != other
        child.send_signal(signal.SIGKILL)
    assert left.exists()
    with scratch_folder("mine-", parent) as folder:
        assert {path.name for path in parent.iterdir()} == {folder.name, "mine-link", "mine-of-someone"}
    assert not folder.exists()
    assert (elsewhere / "x").exists()


@pytest.mark.parametrize("prefix", ["mine-", ".mine-"])
def test_a_folder_that_was_never_locked_is_removed_once_its_process_is_gone(tmp_path: Path, prefix: str) -> None:
    words = [sys.executable, "-c", STOP_BEFORE_THE_LOCK, prefix, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        left = Path(child.stdout.readline().strip())
        with scratch_folder(prefix, tmp_path) as folder:
            assert left.exists(), "its process lives"
            assert folder.name.startswith(prefix)
        child.send_signal(signal.SIGKILL)
    (tmp_path / f".new-of.someone.{prefix}x").mkdir()
    with scratch_folder(prefix, tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, f".new-of.someone.{prefix}x"}
