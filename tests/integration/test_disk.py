"""Disks that are full, read-only or rotten: one line, nothing half-written counts, nothing recorded is lost."""

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import A0, B0, B1, make_definition, make_losses, make_row, row_id, write_two_trials
from simulated_record import simulated_definition, write_simulated_study
from small_disk import Disk

from study.cli.main import main
from study.commands.report import report
from study.config import Arm
from study.record import tables
from study.record.confirmations import Confirmation, read_confirmations, write_confirmation
from study.record.definition import RecordError, open_study, read_definition
from study.record.failures import read_failures, write_failure
from study.record.repair import set_bad_files_aside
from study.storage.lock import locked
from study.storage.stores import StorageError
from study.tracking import mirror
from study.tracking.client import TrackingError

RUNS = {A0, B0, B1}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "disk", 4096) as disk:
        yield disk


def hidden(folder: Path) -> list[Path]:
    """What a write that failed may have left: none of it counts, but it takes up the disk."""
    return [path for path in folder.rglob(".*") if path.is_file() and path.stat().st_size]


# Full ----------------------------------------------------------------------------------------------------------------

CONFIRMATION = Confirmation(
    lr=0.1, seeds=(5, 6), models=("small",), arms=(Arm(method="none"),), number=0, study_seeds=2
)
LOSSES = make_losses({row_id(0.3, i): i for i in range(200)})
WRITES: dict[str, Callable[[Path], object]] = {
    "study.json": lambda folder: open_study(folder, make_definition(seeds=tuple(range(2000)))),
    "losses": lambda folder: tables.write_trial(folder, "c", [make_row(0.3, i) for i in range(200)], LOSSES),
    "failures": lambda folder: write_failure(folder, "d", [f"d{i}" * 8 for i in range(900)], "out of memory"),
    "confirm": lambda folder: write_confirmation(folder, dataclasses.replace(CONFIRMATION, seeds=tuple(range(2000)))),
}


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_is_one_line_and_leaves_the_record_as_it_was(disk: Disk, what: str) -> None:
    folder = disk.folder / "study"
    write_two_trials(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    table = tables.read_runs(folder)
    for left in (0, 1):
        disk.full(left)
        with pytest.raises(StorageError, match=rf"^cannot write to {folder} \(No space left on device\)$"):
            WRITES[what](folder)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        pd.testing.assert_frame_equal(tables.read_runs(folder), table)
        disk.free()
    WRITES[what](folder)
    assert set(tables.read_runs(folder)["run_id"]) >= RUNS


def test_a_disk_that_is_full_between_losses_and_rows_leaves_no_half_run(disk: Disk) -> None:
    folder = disk.folder / "study"
    write_two_trials(folder)
    rows = [make_row(0.3, i) for i in range(200)]
    losses_blocks = 0
    for left in range(1, 60):  # until the losses fit, and the rows do not
        disk.full(left)
        with pytest.raises(StorageError, match="No space left on device"):
            tables.write_trial(folder, "c", rows, LOSSES)
        disk.free()
        assert not (folder / "runs" / "c.parquet").exists()
        assert tables.recorded_ids(folder) == RUNS
        if (folder / "losses" / "c.parquet").exists():
            losses_blocks = left
            break
    assert losses_blocks, "the disk was never full between the two"
    assert not hidden(folder)
    tables.write_trial(folder, "c", rows, LOSSES)
    assert len(tables.recorded_ids(folder)) == 203


def test_a_study_does_not_begin_on_a_full_disk(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from study.tune import cluster, node_check, runner

    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cluster, "connected", lambda *_a, **_k: contextlib.nullcontext(cluster.Cluster(workers=1)))
    monkeypatch.setattr(node_check, "check_nodes", lambda *_a: None)
    monkeypatch.setattr(runner, "run", lambda *_a: pytest.fail("something was trained"))
    folder = disk.folder / "study"
    disk.full()
    words = ["run", "quick", "--set", "data.rows=2000", "--set", "batch=64", "--set", "models=small"]
    assert main([*words, "--out", str(folder)]) == 2
    assert capsys.readouterr().err == f"study: cannot write to {folder} (No space left on device)\n"
    disk.free()
    with disk.read_only():
        assert main([*words, "--out", str(folder)]) == 2
    assert capsys.readouterr().err == f"study: cannot write to {folder} (Read-only file system)\n"


def test_a_report_on_a_full_disk_is_one_line_and_keeps_the_old_one(
    disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = disk.folder / "study"
    write_simulated_study(folder, simulated_definition(models=("small",), lrs=(0.1, 0.4), seeds=(0, 1), steps=20))
    report(folder)
    before = (folder / "report.html").read_bytes()
    disk.full(1)
    monkeypatch.chdir(disk.folder)
    assert main(["report", str(folder)]) == 2
    said = capsys.readouterr()
    assert said.err == f"study: cannot write the report to {folder} (No space left on device)\n"
    assert (folder / "report.html").read_bytes() == before
    assert not hidden(folder)


def test_mlflow_on_a_full_disk_is_one_line_and_catches_up(disk: Disk) -> None:
    folder = disk.folder / "study"
    write_simulated_study(folder, simulated_definition(models=("small",), lrs=(0.1, 0.4), seeds=(0, 1), steps=20))
    disk.full(20)
    with pytest.raises(TrackingError, match=rf"^cannot write {folder / 'mlflow.db'} \(") as error:
        mirror.mirror(folder)
    assert "\n" not in str(error.value)
    disk.free()
    assert mirror.mirror(folder).curves == 5
    again = mirror.mirror(folder)
    assert (again.curves, again.cells) == (5, 10)


# Read-only -----------------------------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_written_can_be_read(disk: Disk, capsys: pytest.CaptureFixture[str]) -> None:
    folder = disk.folder / "study"
    write_simulated_study(folder, simulated_definition(models=("small",), lrs=(0.1, 0.4), seeds=(0, 1), steps=20))
    broken = folder / "runs" / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with disk.read_only(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            pytest.raises(StorageError, match=rf"^cannot write to {folder} \(Read-only file system\)$"),
            locked(folder),
        ):
            pass
        assert main(["status", str(folder)]) == 0
        assert main(["recommend", str(folder)]) == 0
        capsys.readouterr()
        assert main(["report", str(folder)]) == 2
    assert "study: cannot write the report to" in capsys.readouterr().err
    assert broken.exists(), "left where it is, and not used"


# Rotten --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    write_two_trials(folder)
    write_failure(folder, "f", ["f0"], "out of memory")
    write_confirmation(folder, CONFIRMATION)
    return folder


@contextlib.contextmanager
def damaged(folder: Path, name: str, content: bytes) -> Iterator[list[warnings.WarningMessage]]:
    """The record with one file of other content; then as it was."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / name).write_bytes(content)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield said
        finally:
            for path in folder.rglob("*"):
                if path.is_file() and path not in before:
                    path.unlink()
            for path, whole in before.items():
                path.write_bytes(whole)


def harm(data: st.DataObject, content: bytes) -> bytes:
    """Cut, or with bits that flipped, or a block of zeros as after a power failure."""
    kind = data.draw(st.sampled_from(["cut", "flip", "zeros"]))
    at = data.draw(st.integers(0, len(content) - 1))
    if kind == "cut":
        return content[:at]
    if kind == "zeros":
        harmed = content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]
        return harmed if harmed != content else content[:at]
    harmed = bytearray(content)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=5, unique=True)):
        harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


HARMS = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", ["runs", "losses"])
@HARMS
@given(data=st.data())
def test_whatever_happens_to_a_file_of_runs_they_are_missing_and_said(
    recorded: Path, kind: str, data: st.DataObject
) -> None:
    whole = tables.read_runs(recorded)
    name = f"{kind}/b.parquet"
    with damaged(recorded, name, harm(data, (recorded / name).read_bytes())) as said:
        set_bad_files_aside(recorded)
        assert tables.recorded_ids(recorded) == {A0}
        assert any("its runs count as missing" in str(warning.message) for warning in said)
        aside = list((recorded / "set_aside").iterdir())
        assert len(aside) >= 1, "kept as it was found"
        # Trained again, the table is what it was.
        rows = [make_row(0.1, 0), make_row(0.1, 1)]
        tables.write_trial(recorded, "b", rows, make_losses({B0: 0, B1: 1}))
        pd.testing.assert_frame_equal(tables.read_runs(recorded), whole)


@HARMS
@given(data=st.data())
def test_a_definition_is_what_was_written_or_is_refused(recorded: Path, data: st.DataObject) -> None:
    whole = read_definition(recorded)
    with damaged(recorded, "study.json", harm(data, (recorded / "study.json").read_bytes())):
        try:
            found = read_definition(recorded)
        except RecordError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either is right
        else:
            assert found == whole


@HARMS
@given(data=st.data())
def test_a_confirmation_is_what_was_written_or_is_refused(recorded: Path, data: st.DataObject) -> None:
    name = f"confirm/{CONFIRMATION.name}.json"
    with damaged(recorded, name, harm(data, (recorded / name).read_bytes())):
        try:
            found = read_confirmations(recorded)
        except RecordError as error:
            assert "cannot be read" in str(error)  # noqa: PT017 - either is right
        else:
            assert found == [CONFIRMATION]


@HARMS
@given(data=st.data())
def test_a_failure_is_what_was_written_or_is_set_aside(recorded: Path, data: st.DataObject) -> None:
    with damaged(recorded, "failures/f.json", harm(data, (recorded / "failures/f.json").read_bytes())):
        assert read_failures(recorded) in ({"f0": "out of memory"}, {})


def test_a_definition_that_was_damaged_comes_back_with_its_runs(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    path = tmp_path / "study.json"
    path.write_text(path.read_text().replace("0.2", "0.3"))
    with pytest.raises(RecordError, match=r"changed since it was written\); move it away"):
        read_definition(tmp_path)
    path.rename(tmp_path / "study.json.damaged")
    open_study(tmp_path, make_definition())
    assert tables.recorded_ids(tmp_path) == RUNS


def test_files_from_before_there_were_hashes_read(tmp_path: Path) -> None:
    write_two_trials(tmp_path)
    whole = tables.read_runs(tmp_path)
    for path in (*(tmp_path / "runs").iterdir(), *(tmp_path / "losses").iterdir()):
        import pyarrow.parquet as pq

        pq.write_table(pq.read_table(path), path, compression="zstd")
    path = tmp_path / "study.json"
    content = json.loads(path.read_text())
    del content["sha256"]
    path.write_text(json.dumps(content))
    pd.testing.assert_frame_equal(tables.read_runs(tmp_path), whole)
    assert np.isfinite(tables.read_losses(tmp_path, [B0])["loss"][0]).all()
