"""Studies that meet a full disk, rotten files and an object store, end where an undisturbed one does: bit for bit."""

import contextlib
import os
import warnings
from pathlib import Path

import pandas as pd
import pytest
from small_disk import Disk
from stores import BUCKET, settings
from studies import SMALL, Studies, kill_child, losses, table
from waiting_for import wait_until

from study.record import tables
from study.record.failures import read_failures
from study.storage import stores
from study.storage.lock import locked

pytestmark = pytest.mark.slow
WORDS = ["run", "quick", *SMALL, "--seeds", "0-3", "--stack", "3"]


@pytest.fixture(scope="module")
def undisturbed(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "out"
    studies(*WORDS, "--out", folder)
    return folder


def assert_same(folder: Path, undisturbed: Path) -> None:
    pd.testing.assert_frame_equal(table(folder), table(undisturbed), check_exact=True)
    assert losses(folder) == losses(undisturbed)
    assert not read_failures(folder)


def test_a_disk_that_fills_up_and_files_that_rot(undisturbed: Path, studies: Studies, tmp_path: Path) -> None:
    with Disk(tmp_path / "disk", 16384) as disk:
        folder = disk.folder / "out"
        elsewhere = ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
        child = studies.start(*WORDS, *elsewhere, "--out", folder)
        try:
            wait_until(child, lambda: len(list((folder / "runs").glob("*.parquet"))) >= 10)
            with contextlib.suppress(OSError):
                disk.full()
            printed, _ = child.communicate(timeout=300)
        finally:
            kill_child(child)
        assert child.returncode == 2, printed
        # Ray may print lines of its own after ours: the workers that failed were ended.
        ours = [line for line in printed.splitlines() if line.startswith("study: ")]
        assert len(ours) == 1, printed
        assert f"cannot write to {folder} (No space left on device)" in ours[0]
        assert "Traceback" not in printed
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing half-written: nothing is set aside
            survived = tables.recorded_ids(folder)
        assert 0 < len(survived) < len(table(undisturbed))
        disk.free()

        # Before it goes on, one file of runs is cut, and a bit flips in the middle of the losses of another.
        cut, flipped = sorted((folder / "runs").glob("*.parquet"))[:2]
        cut.write_bytes(cut.read_bytes()[:-100])
        rotten = folder / "losses" / flipped.name
        content = bytearray(rotten.read_bytes())
        content[len(content) // 3] ^= 4
        rotten.write_bytes(content)
        printed = studies("resume", folder, *elsewhere)
        assert printed.count("cannot be read") >= 2, printed
        assert len(list((folder / "set_aside").iterdir())) == 3, "the cut one, the losses, and their runs"
        assert_same(folder, undisturbed)
        assert (folder / "report.html").stat().st_size > 1000


def test_a_study_in_an_object_store_that_was_killed(
    undisturbed: Path, studies: Studies, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in one place, resumed in another with an empty cache, and looked at from a third."""
    url = f"s3://{BUCKET}/teams/stability"
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "third"))
    for name, value in settings(server).items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(studies.environment, name, value)
    child = studies.start(*WORDS, "--out", url)
    store = stores.store_for(url)
    try:
        wait_until(child, lambda: len(store.names("runs")) >= 9)
    finally:
        kill_child(child)
    with locked(stores.folder_of(url)):
        refused = studies.start("resume", url)
        printed, _ = refused.communicate(timeout=120)
        assert refused.returncode == 2, printed
        assert f"{url} is in use by " in printed.splitlines()[-1]
        assert f"process {os.getpid()} on " in printed.splitlines()[-1]
    survived = set(store.names("runs"))
    assert store.get("report.html") is None

    monkeypatch.setitem(studies.environment, "STUDY_CACHE", str(tmp_path / "elsewhere"))
    printed = studies("resume", url)
    assert f"{url}/report.html" in printed
    assert survived < set(store.names("runs"))
    assert store.get("report.html")

    mirror = stores.folder_of(url)
    assert_same(mirror, undisturbed)
    assert tables.recorded_ids(mirror) == tables.recorded_ids(undisturbed)
    assert f"36 of 36 runs recorded, 0 failed, in {url}" in studies("status", url)
    assert [name for name in os.listdir(mirror) if name.startswith("set_aside")] == []
