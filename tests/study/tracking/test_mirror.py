"""Each curve, cell and study is in MLflow exactly once, even if writing was interrupted."""

import contextlib
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow_view import Killed, View, answers_of, assert_exactly_once, mirror_curves, shown_answers, study_run, write
from simulated_record import simulated_definition, write_simulated_study

from study.record.definition import RecordError
from study.record.tables import read_runs
from study.tracking.client import DATABASE, open_client
from study.tracking.writing import KEY


def test_answers_are_written_once_when_the_study_is_finished(folder: Path, watch: Any) -> None:
    mirror_curves(folder, finished=False)
    before = {run.info.run_id for run in View(folder).curves}
    assert shown_answers(folder) == {}
    with watch() as writes:
        mirror_curves(folder)
    assert writes == ["log_batch", "log_batch"]
    assert {run.info.run_id for run in View(folder).curves} == before
    assert shown_answers(folder) == answers_of(folder)
    with watch() as writes:
        mirror_curves(folder, finished=False)
        mirror_curves(folder)
    assert writes == []


def test_changed_answers_make_new_runs_of_curves(folder: Path) -> None:
    mirror_curves(folder)
    first = shown_answers(folder)
    write(folder, seeds=6)
    mirror_curves(folder)
    assert shown_answers(folder) == answers_of(folder) != first
    view = View(folder)
    assert_exactly_once(folder, view)
    for run in view.curves:
        for metric, value in answers_of(folder).get(run.info.run_name, {}).items():
            assert view.history(run, metric) == {0: value}


def test_second_mirror_writes_nothing(folder: Path, watch: Any) -> None:
    first = mirror_curves(folder)
    with watch() as writes:
        assert mirror_curves(folder) == first
    assert writes == []


def test_rebuild_in_an_empty_database_gives_the_same_view(folder: Path, empty_database: Path) -> None:
    mirror_curves(folder)
    before = View(folder).content()
    write(folder.parent / "other")  # a copy of the database that no open connection still knows
    moved = folder.with_name("other")
    shutil.copy(folder / "study.json", moved)  # it holds when the plan was fixed
    for path in (folder / "runs").iterdir():
        shutil.copystat(path, moved / "runs" / path.name)
    shutil.copy(empty_database, moved)
    mirror_curves(moved)
    assert View(moved).content() == before


def test_a_cell_takes_three_calls_and_a_curve_four(folder: Path, watch: Any) -> None:
    with watch() as writes:
        mirror_curves(folder)
    study = ["create_experiment", "create_run", "log_batch", "log_artifact", "set_terminated", "log_batch"]
    cell = ["create_run", "log_batch", "set_terminated"]
    curve = ["create_run", "log_batch", *cell * 3, "set_terminated", "set_tag"]
    assert writes == [study[0], *curve, *curve, *study[1:]]


@pytest.mark.parametrize("grown", [False, True], ids=["first", "grown"])
def test_mirror_after_a_kill_at_any_write_is_complete_without_duplicates(
    tmp_path: Path, empty_database: Path, watch: Any, grown: bool
) -> None:
    shutil.copy(empty_database, tmp_path)
    write(tmp_path, seeds=2, lrs=(0.8,))
    if grown:
        mirror_curves(tmp_path)
        write(tmp_path, seeds=3, lrs=(0.8,))
    found = answers_of(tmp_path)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database,
        contextlib.closing(sqlite3.connect(":memory:")) as start,
    ):
        database.backup(start)
        with watch() as undisturbed:
            mirror_curves(tmp_path)
        assert len(undisturbed) >= 20
        for last in range(1, len(undisturbed) + 1):
            start.backup(database)
            with watch(last), pytest.raises(Killed):
                mirror_curves(tmp_path)
            mirror_curves(tmp_path)
            assert_exactly_once(tmp_path, View(tmp_path))
            assert shown_answers(tmp_path) == found
            with watch() as writes:
                mirror_curves(tmp_path)
            assert writes == []


class RepeatingClient:
    """An MLflow client whose server always dies between doing what it is asked and answering: MLflow asks again."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = getattr(self.client, name)

        def twice(*args: Any, **kwargs: Any) -> Any:
            if name != "log_artifact":
                call(*args, **kwargs)
            return call(*args, **kwargs)

        return twice


@pytest.mark.parametrize(("runs", "grown"), [("none", False), ("none", True), ("all", True)])
def test_repeated_requests_leave_no_duplicates(
    tmp_path: Path, folder: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, runs: str, grown: bool
) -> None:
    """Of a shared server, which only differs from this database in its address."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of such a one in the current folder
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'shared.db')}"
    if grown:
        mirror_curves(folder, uri, runs=runs)
        write(folder, seeds=8)
    monkeypatch.setattr("study.tracking.mirror.open_client", lambda uri: RepeatingClient(open_client(uri)))
    result = mirror_curves(folder, uri, runs=runs)
    monkeypatch.undo()
    assert (result.curves, result.cells) == (2, 6)
    assert_exactly_once(folder, View(folder, uri, experiment=result.experiment_id))
    if runs == "all":
        trained = View(folder, uri, experiment=str(int(result.experiment_id) + 1)).runs
        assert sorted(run.data.tags[KEY] for run in trained) == sorted(read_runs(folder)["run_id"])


def test_incomplete_curve_is_shown_only_when_the_study_is_finished(tmp_path: Path, empty_database: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write(folder, leave_out=[("small", "clippy", 0.4, 1), ("small", "clippy", 1.6, 1)])
    assert mirror_curves(folder, finished=False).curves == 1
    assert [run.info.run_name for run in View(folder).curves] == ["small · none"]
    assert mirror_curves(folder, finished=True).curves == 2
    view = View(folder)
    assert view.curve("small · clippy").data.tags["missing"] == "2"
    assert view.curve("small · none").data.tags["missing"] == "0"
    assert view.history(view.curve("small · clippy"), "divergence/runs") == {5000: 4, 5602: 3, 6204: 3}
    assert study_run(folder).data.tags["missing"] == "2"


def test_new_seeds_replace_a_curve_once_complete(folder: Path) -> None:
    mirror_curves(folder)
    before = {run.info.run_id for run in View(folder).curves}
    write(folder, seeds=5, leave_out=[("small", "none", 0.4, 4), ("small", "clippy", 0.4, 4)])
    mirror_curves(folder, finished=False)
    assert {run.info.run_id for run in View(folder).curves} == before
    write(folder, seeds=5)
    mirror_curves(folder, finished=False)
    view = View(folder)
    assert not {run.info.run_id for run in view.curves} & before
    assert view.history(view.curve("small · none"), "divergence/runs") == {5000: 5, 5602: 5, 6204: 5}
    assert_exactly_once(folder, view)


def test_deleted_runs_are_restored_and_runs_of_the_user_stay(folder: Path) -> None:
    result = mirror_curves(folder)
    view = View(folder)
    own = view.client.create_run(result.experiment_id, run_name="my own")
    view.client.delete_run(view.cells[0].info.run_id)
    mirror_curves(folder)
    view = View(folder)
    assert own.info.run_id in {run.info.run_id for run in view.tops}
    view.client.delete_run(own.info.run_id)
    assert_exactly_once(folder, View(folder))
    view.client.delete_experiment(result.experiment_id)
    assert mirror_curves(folder).experiment_id == result.experiment_id
    view = View(folder)  # bringing an experiment back brings all of its deleted runs back
    view.client.delete_run(own.info.run_id)
    assert_exactly_once(folder, View(folder))


def test_reads_more_runs_than_one_page(folder: Path, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_curves(folder)
    monkeypatch.setattr("study.tracking.writing.PAGE", 2)
    with watch() as writes:
        mirror_curves(folder)
    assert writes == []


def test_writes_more_metrics_than_one_call_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.tracking.writing.METRICS_PER_BATCH", 4)
    mirror_curves(folder)
    view = View(folder)
    assert len(view.history(view.curve("small · none"), "quality/rmse_play")) == 3


def test_folder_without_a_study_raises(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no study"):
        mirror_curves(tmp_path)


@pytest.mark.slow
def test_four_hundred_cells_take_seconds(tmp_path: Path) -> None:
    lrs = tuple(0.01 * i for i in range(1, 41))
    write_simulated_study(tmp_path, simulated_definition(lrs=lrs, seeds=range(2)), with_losses=False)
    began = time.process_time()  # a busy disk is not ours to test
    assert mirror_curves(tmp_path).cells == 400
    assert time.process_time() - began < 20
