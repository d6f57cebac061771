"""One driver at a time: refused while the holder lives, taken over once it is dead, whatever the clocks say."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from paths import ROOT
from stores import s3_server, settings

from study.storage import lease, object_store, stores
from study.storage.lock import LockedError, locked


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(params=["s3", "memory", "no flock"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Places without a lock of the system: all of them hold by a lease, here a short one."""
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    if request.param == "no flock":

        def refuse(*_args: object) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        return tmp_path / "study"
    if request.param == "memory":
        return stores.folder_of(f"memory://tests/{tmp_path.name}")
    for name, value in settings(request.getfixturevalue("server")).items():
        monkeypatch.setenv(name, value)
    object_store.open_filesystem.cache_clear()
    return stores.folder_of(f"s3://studies/{tmp_path.name}")


def on_another_machine(folder: Path, **changes: object) -> None:
    """The present holder, as if its process were not of this machine."""
    store = stores.store_for(folder)
    (name,) = store.names("lease")
    content = json.loads(store.get(f"lease/{name}") or b"")
    store.put(f"lease/{name}", json.dumps(content | {"process": ["other", 1, "2"], "host": "far"} | changes).encode())


def test_a_second_driver_is_refused_with_who_holds_it_and_since_when(folder: Path) -> None:
    with locked(folder):
        began = time.monotonic()
        who = rf"is in use by \S+, process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+$"
        with pytest.raises(LockedError, match=who), locked(folder):
            pass
        assert time.monotonic() - began < 1.5, "the first sign of life is enough"
    with locked(folder):
        pass


def test_an_error_gives_it_back_at_once(folder: Path) -> None:
    with contextlib.suppress(KeyError), locked(folder):
        raise KeyError
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began < 1


def test_a_stale_lock_is_taken_over_after_a_lease(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores.store_for(folder).put("lease/00000007", b"{}")
    on_another_machine(folder, user="ada", pid=12, since="yesterday")
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began >= 1.5
        assert stores.store_for(folder).names("lease") == ["00000008"]
    assert (
        "was in use by ada, process 12 on far since yesterday; waiting to see whether it still is"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("years", [-10, 10])
def test_clocks_that_jump_change_nothing(folder: Path, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder ten years ahead or behind lives as long as it gives signs of life, and no longer."""
    now = time.time
    with locked(folder):
        monkeypatch.setattr(time, "time", lambda: now() + years * 365 * 86400)
        on_another_machine(folder)
        with pytest.raises(LockedError, match="is in use by"), locked(folder):
            pass
    stores.store_for(folder).put("lease/00000009", b"{}")
    began = time.monotonic()
    with locked(folder):
        assert 1.5 <= time.monotonic() - began < 5


def test_of_many_that_take_over_one_succeeds(folder: Path) -> None:
    stores.store_for(folder).put("lease/00000001", b"not even JSON")
    holding, most, refused = [0], [0], []
    counting = threading.Lock()

    def drive() -> None:
        try:
            with locked(folder):
                with counting:
                    holding[0] += 1
                    most[0] = max(most[0], holding[0])
                time.sleep(3)
                with counting:
                    holding[0] -= 1
        except LockedError as error:
            refused.append(error)

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert len(refused) == 3


def test_who_was_held_up_too_long_stops_where_another_has_taken_over(folder: Path) -> None:
    def held_up() -> None:
        with locked(folder):
            stores.store_for(folder).put("lease/00000009", b'{"beat": 0}')
            time.sleep(30)  # a long training; interrupted

    began = time.monotonic()
    with pytest.raises(LockedError, match="was taken over by another driver"):
        held_up()
    assert time.monotonic() - began < 10
    assert stores.store_for(folder).get("lease/00000009") == b'{"beat": 0}', "the other's is left alone"


HOLDER = """
import sys, time
from pathlib import Path
from study.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_process_of_this_machine_that_was_killed_is_not_waited_for(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (settings(server) | {"STUDY_CACHE": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    object_store.open_filesystem.cache_clear()
    folder = stores.folder_of(f"s3://studies/{tmp_path.name}")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(LockedError, match=f"process {holder.pid} on"), locked(folder):
                pass
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began < 5


def test_a_late_comer_to_a_number_that_is_long_gone_holds_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look and its PUT others came, went, and cleared away."""
    store, look, looks = stores.store_for(folder), lease.read_lease, []

    def late(store: stores.Store) -> tuple[int, dict]:
        looks.append(None)
        return (3, {"released": True}) if len(looks) == 1 else look(store)

    store.put("lease/00000009", b"{}")
    monkeypatch.setattr(lease, "read_lease", late)
    with locked(folder):
        assert store.names("lease") == ["00000010"]
