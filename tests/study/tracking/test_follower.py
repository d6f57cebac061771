"""The process that updates the MLflow view while a study trains."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow_view import View, write
from paths import ROOT
from processes import wait_until

from study.tracking import follower as follower_module
from study.tracking.client import DATABASE, TrackingError
from study.tracking.follower import Follower
from study.tracking.mirror import mirror
from study.tracking.writing import STATE


def test_update_shows_complete_curves_and_finish_shows_all(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    write(folder, leave_out=[("small", "clippy", 0.4, 2)])
    with Follower(folder, None) as follower:
        follower.update()
        wait_until(lambda: any(run.data.tags.get(STATE) == "complete" for run in View(folder).curves), "a curve")
        assert [run.info.run_name for run in View(folder).curves] == ["small · none"]
        shown = follower.finish()
    assert shown is not None
    assert (shown.curves, shown.cells) == (2, 6)
    assert mirror(folder) == shown
    assert follower.process.poll() is not None


def test_updates_are_at_least_so_many_seconds_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []
    with Follower(folder, None, seconds=10) as follower:
        monkeypatch.setattr(follower, "_send", requests.append)
        for now in (100.0, 105.0, 109.9, 110.0, 115.0, 121.0):
            monkeypatch.setattr(follower_module.time, "monotonic", lambda now=now: now)
            follower.update_if_due()
    assert requests == [follower_module.UPDATE] * 3


def test_finish_returns_none_if_the_process_has_died(folder: Path) -> None:
    with Follower(folder, None) as follower:
        follower.process.kill()
        follower.process.wait()
        follower.update()
        assert follower.finish() is None
    assert not View(folder).runs


def test_password_is_not_on_the_command_line(folder: Path) -> None:
    with Follower(folder, "http://me:s3cret-word@127.0.0.1:1") as follower:
        assert "s3cret-word" not in Path(f"/proc/{follower.process.pid}/cmdline").read_text()


def test_an_unused_follower_writes_nothing(tmp_path: Path) -> None:
    with Follower(tmp_path, None):
        pass
    assert not list(tmp_path.iterdir())


def test_finish_raises_the_error_of_the_mirror(folder: Path) -> None:
    (folder / DATABASE).write_bytes(b"no database")
    with Follower(folder, None) as follower, pytest.raises(TrackingError, match=r"mlflow\.db"):
        follower.finish()


def test_the_end_does_not_wait_for_an_update_of_low_priority(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine an update of the lowest priority hardly gets on. Here it never ends."""
    stuck = "import study.tracking.follower as own, time\nown._in_background = lambda *_a, **_o: time.sleep(600)\n"
    before, call, after = follower_module.CHILD.rpartition("mirror_on_request()")
    monkeypatch.setattr(follower_module, "CHILD", before + stuck + call + after)
    monkeypatch.setattr(follower_module, "PATIENCE_SECONDS", 0.1, raising=False)
    monkeypatch.setattr(follower_module, "FINISH_SECONDS", 120.0)
    with Follower(folder, None) as follower:
        follower.update()
        shown = follower.finish()
    assert shown is not None
    assert (shown.curves, shown.cells) == (2, 6)


def test_finish_gives_up_on_a_server_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower_module, "FINISH_SECONDS", 0.2)
    began = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Follower(folder, f"http://127.0.0.1:{silent.getsockname()[1]}") as follower,
        pytest.raises(TrackingError, match="longer than"),
    ):
        follower.finish()
    assert time.monotonic() - began < 10


def test_the_process_ends_when_its_parent_is_killed(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\nfrom study.tracking.follower import Follower\n"
        "follower = Follower(Path(sys.argv[1]), None)\nfollower.update()\n"
        "print(follower.process.pid, flush=True)\ntime.sleep(600)\n"
    )
    command, env = [sys.executable, str(script), str(folder)], os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    stat = Path(f"/proc/{child}/stat")
    wait_until(lambda: not stat.exists() or "Z" in stat.read_text().split()[2], "its end")


def test_a_script_is_not_imported_again(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom study.tracking.follower import Follower\nprint('here')\n"
        "with Follower(Path(sys.argv[1]), None) as follower:\n    print(follower.finish().cells)\n"
    )
    command, env = [sys.executable, str(script), str(folder)], os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["here", "6"], done.stderr


def test_a_path_on_the_path_of_modules_is_no_reason_to_fail(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, folder])
    with Follower(folder, None) as follower:
        assert follower.finish() is not None


def test_only_updates_during_training_have_a_low_priority() -> None:
    before, found = os.getpriority(os.PRIO_PROCESS, 0), []
    follower_module._in_background(lambda: found.append(os.getpriority(os.PRIO_PROCESS, 0)))
    assert found == [19]
    assert os.getpriority(os.PRIO_PROCESS, 0) == before
