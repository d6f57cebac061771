"""One driver at a time: a second one is refused while the holder lives, and takes over after its death."""

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
from stores import settings

from study.storage import lease, object_store, stores
from study.storage.lock import LockedError, locked


@pytest.fixture(params=["s3", "memory", "no flock"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stores without file locks, with a short lease."""
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
    """Make the holder look like a process of another machine."""
    store = stores.store_for(folder)
    (name,) = store.names("lease")
    content = json.loads(store.get(f"lease/{name}") or b"")
    store.put(f"lease/{name}", json.dumps(content | {"process": ["other", 1, "2"], "host": "far"} | changes).encode())


def test_a_second_driver_is_refused_and_told_who_holds_the_study(folder: Path) -> None:
    with locked(folder):
        began = time.monotonic()
        who = rf"is in use by \S+, process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d \S+$"
        with pytest.raises(LockedError, match=who), locked(folder):
            pass
        assert time.monotonic() - began < 1.5, "the first sign of life is enough"
    with locked(folder):
        pass


def test_an_error_releases_the_lease_at_once(folder: Path) -> None:
    with contextlib.suppress(KeyError), locked(folder):
        raise KeyError
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began < 1


def test_an_expired_lease_is_taken_over(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("content", ["[" * 200_000, "[]", "\udcff"])
def test_a_damaged_lease_is_named_and_taken_over(
    folder: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    stores.store_for(folder).put("lease/00000007", content.encode(errors="surrogateescape"))
    with locked(folder):
        assert stores.store_for(folder).names("lease") == ["00000008"]
    assert "lease/00000007 cannot be read (" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["readme.txt", "00000001.tmp", "7", "\u0663"])
def test_a_file_of_others_is_no_lease(folder: Path, name: str) -> None:
    stores.store_for(folder).put(f"lease/{name}", b"theirs")
    began = time.monotonic()
    for number in ("00000001", "00000002"):
        with locked(folder):
            assert {number, name} >= set(stores.store_for(folder).names("lease")) >= {number}
    assert time.monotonic() - began < 1.5
    assert stores.store_for(folder).get(f"lease/{name}") == b"theirs"


@pytest.mark.parametrize("years", [-10, 10])
def test_clock_jumps_do_not_affect_the_lease(folder: Path, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder ten years ahead or behind holds as long as it renews its lease, and no longer."""
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


def test_only_one_of_several_drivers_takes_over(folder: Path) -> None:
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


def test_a_driver_stops_when_another_has_taken_over(folder: Path) -> None:
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


@contextlib.contextmanager
def held_by_another(folder: Path) -> Iterator[int]:
    """Have a process hold the study inside the block, and kill it. Yields its id."""
    words = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder.pid
        finally:
            os.kill(holder.pid, signal.SIGKILL)
            holder.wait()


def test_a_killed_process_of_this_machine_is_replaced_at_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (settings(server) | {"STUDY_CACHE": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    object_store.open_filesystem.cache_clear()
    folder = stores.folder_of(f"s3://studies/{tmp_path.name}")
    with held_by_another(folder) as pid, pytest.raises(LockedError, match=f"process {pid} on"), locked(folder):
        pass
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began < 5


def test_a_number_that_was_released_meanwhile_does_not_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others took, released and deleted higher numbers between its read and its PUT."""
    store, look, looks = stores.store_for(folder), lease.read_lease, []

    def late(store: stores.Store) -> tuple[int, dict]:
        looks.append(None)
        return (3, {"released": True}) if len(looks) == 1 else look(store)

    store.put("lease/00000009", b"{}")
    monkeypatch.setattr(lease, "read_lease", late)
    with locked(folder):
        assert store.names("lease") == ["00000010"]


def test_the_lock_names_its_holder_and_ends_with_its_process(tmp_path: Path) -> None:
    with held_by_another(tmp_path) as pid:
        who = rf"is in use by \S+, process {pid} on \S+ since \S+ \S+ \S+$"
        with pytest.raises(LockedError, match=who), locked(tmp_path):
            pass
    with locked(tmp_path):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert (tmp_path / "lock").read_text() == ""


def test_an_error_releases_the_lock(tmp_path: Path) -> None:
    with contextlib.suppress(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path), pytest.raises(LockedError, match=r"is in use by .*, process"), locked(tmp_path):
        pass
