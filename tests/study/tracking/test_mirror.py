"""The MLflow view: what it shows, and that it is there exactly once, whatever happened while it was written."""

import contextlib
import fcntl
import json
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import screenshots
from simulated_record import simulated_definition, write_simulated_study

import analysis
from analysis.stats.contrasts import contrasts
from study.config import Arm
from study.record import tables as record
from study.record.definition import RecordError, open_study, read_definition
from study.tracking import mirror
from study.tracking.mirror import KIND, PARENT, STATE, TrackingError

ARMS = (Arm(method="none"), Arm(method="clippy"))
LRS = (0.1, 0.4, 1.6)
READS = {"search_runs", "get_experiment_by_name"}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Setting one up takes MLflow a second; tests start from a copy."""
    folder = tmp_path_factory.mktemp("database")
    mirror._create_database(folder)
    return folder / mirror.DATABASE


@pytest.fixture
def folder(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write(folder)
    return folder


def write(
    folder: Path, *, seeds: int = 4, lrs: tuple[float, ...] = LRS, arms: tuple[Arm, ...] = ARMS, **how: Any
) -> None:
    definition = simulated_definition(models=["small"], arms=arms, lrs=lrs, seeds=range(seeds))
    write_simulated_study(folder, definition, with_losses=False, **how)


class View:
    """All that MLflow shows of an experiment, read with a client of its own."""

    def __init__(self, folder: Path, uri: str | None = None, experiment: str = "1") -> None:
        self.client = mirror._client(uri or mirror.default_uri(folder))
        self.runs = list(self.client.search_runs([experiment], max_results=5000))
        self.tops = [run for run in self.runs if PARENT not in run.data.tags]
        self.cells = [run for run in self.runs if PARENT in run.data.tags]
        self.curves = [run for run in self.tops if run.data.tags.get(KIND) == "curve"]

    def curve(self, name: str) -> Any:
        (run,) = [run for run in self.curves if run.info.run_name == name]
        return run

    def history(self, run: Any, metric: str) -> dict[int, float]:
        points = self.client.get_metric_history(run.info.run_id, metric)
        assert len({point.step for point in points}) == len(points)
        return {point.step: point.value for point in points}

    def content(self) -> list[Any]:
        """Everything but the ids, which MLflow draws at random."""
        names = {run.info.run_id: run.info.run_name for run in self.runs}
        return sorted(
            (
                run.info.run_name,
                run.info.status,
                run.info.start_time,
                run.info.end_time,
                sorted(run.data.metrics.items()),
                sorted(run.data.params.items()),
                sorted((k, names.get(v, v)) for k, v in run.data.tags.items()),
                [sorted(self.history(run, metric).items()) for metric in sorted(run.data.metrics)],
            )
            for run in self.runs
        )


def assert_exactly_once(folder: Path, view: View) -> None:
    """One run per curve, cell and study of the record, whole, each cell under its own curve, and nothing else."""
    runs = record.read_runs(folder)
    runs = runs[runs["role"] == "cell"]
    cells = set(zip(runs["method"], [f"{lr:.12g}" for lr in runs["lr"]], strict=True))
    assert Counter(run.data.tags["method"] for run in view.curves) == Counter(set(runs["method"]))
    assert Counter((run.data.tags["method"], run.data.tags["lr"]) for run in view.cells) == Counter(cells)
    assert len(view.tops) == len(view.curves) + 1
    method_of = {run.info.run_id: run.data.tags["method"] for run in view.curves}
    for cell in view.cells:
        assert method_of[cell.data.tags[PARENT]] == cell.data.tags["method"]
        of_cell = runs[(runs["method"] == cell.data.tags["method"]) & (runs["lr"] == float(cell.data.tags["lr"]))]
        assert cell.data.metrics["n"] == len(of_cell)
    assert {run.data.tags[STATE] for run in view.tops} == {"complete"}
    assert {run.info.status for run in view.runs} == {"FINISHED"}


class Killed(BaseException):
    """What a kill looks like from inside: nothing handles it."""


class Watched:
    """An MLflow client that counts its writes, and dies after as many as it is given."""

    def __init__(self, client: Any, writes: list[str], last: float) -> None:
        self.client, self.writes, self.last = client, writes, last

    def __getattr__(self, name: str) -> Any:
        call: Callable[..., Any] = getattr(self.client, name)
        if name in READS:
            return call

        def write(*args: Any, **kwargs: Any) -> Any:
            answer = call(*args, **kwargs)
            self.writes.append(name)
            if len(self.writes) >= self.last:
                raise Killed
            return answer

        return write


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[..., contextlib.AbstractContextManager[list[str]]]:
    client = mirror._client

    @contextlib.contextmanager
    def watch(last: float = math.inf) -> Iterator[list[str]]:
        writes: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(mirror, "_client", lambda uri: Watched(client(uri), writes, last))
            yield writes

    return watch


# What is shown -------------------------------------------------------------------------------------------------------


def test_a_curve_is_a_line_of_rates_over_the_learning_rate(folder: Path) -> None:
    result = mirror.mirror(folder)
    view = View(folder, experiment=result.experiment_id)
    runs = record.read_runs(folder)
    for method in ("none", "clippy"):
        cells = runs[(runs["method"] == method) & (runs["role"] == "cell")].groupby("lr")
        by_hand = {round(float(str(lr)) * 1e6): (of_lr["outcome"] == "diverged").mean() for lr, of_lr in cells}
        shown = view.history(view.curve(f"small · {method}"), "divergence_rate")
        assert shown == by_hand
        assert set(shown) == {100_000, 400_000, 1_600_000}
    assert view.history(view.curve("small · none"), "divergence_rate")[1_600_000] == 1
    assert view.history(view.curve("small · none"), "auc_click")[1_600_000] == 0.5
    assert set(view.history(view.curve("small · none"), "n").values()) == {4}
    assert (result.curves, result.cells) == (2, 6)
    assert f"/#/experiments/{result.experiment_id}/runs?compareRunsMode=CHART" in result.url_path
    assert view.client.get_experiment(result.experiment_id).name == "simulated"
    assert_exactly_once(folder, view)


def test_a_cell_says_which_it_is_in_params_and_tags(folder: Path) -> None:
    mirror.mirror(folder)
    view = View(folder)
    expected = {"study": "simulated", "model": "small", "method": "clippy", "lr": "0.4", "rel": "0.5", "abs": "0.01"}
    (cell,) = [run for run in view.cells if run.info.run_name == "small · clippy · lr 0.4"]
    assert cell.data.params == expected
    assert expected.items() <= cell.data.tags.items()
    metrics = {"divergence_rate", "divergence_rate_low", "divergence_rate_high", "micro_rate", "undertrained_rate"}
    assert set(cell.data.metrics) == metrics | {"n", "kept", "auc_click", "auc_like", "rmse_play"}
    assert set(view.history(cell, "divergence_rate")) == {0}
    assert cell.data.metrics["divergence_rate_low"] <= cell.data.metrics["divergence_rate"]


def test_the_page_of_charts_draws_the_curves_in_the_studys_order(folder: Path) -> None:
    """It takes the newest ten runs, newest first; the study and the cells must not be among them."""
    mirror.mirror(folder)
    newest_first = sorted(View(folder).runs, key=lambda run: -run.info.start_time)
    names = [run.info.run_name for run in newest_first]
    assert names[:3] == ["small · none", "small · clippy", "study · simulated"]
    assert names[3:] == [f"small · {method} · lr {lr:g}" for method in ("none", "clippy") for lr in LRS]
    assert len({run.info.start_time for run in newest_first}) == len(names)


def test_curves_of_one_method_have_their_own_names_and_shades_of_its_colour(tmp_path: Path, folder: Path) -> None:
    write(folder, arms=(*ARMS, Arm(method="clippy", options={"rel": 0.1, "norm": "rms"})))
    mirror.mirror(folder)
    view = View(folder)
    colours = {run.info.run_name: run.data.tags["mlflow.runColor"] for run in view.curves}
    assert len(colours) == len(set(colours.values())) == 3
    (odd,) = [run for run in view.curves if run.data.params.get("norm") == "rms"]
    assert odd.data.params["rel"] == "0.1"


def test_nan_and_infinity_stay_out(folder: Path) -> None:
    runs = record.read_runs(folder)
    nonfinite = runs[runs["reason"] == "nonfinite"]
    assert len(nonfinite) > 0
    tables = {path: pd.read_parquet(path) for path in sorted((folder / "runs").glob("*.parquet"))}
    path, table = next((p, t) for p, t in tables.items() if set(t["method"]) == {"none"} and set(t["role"]) == {"cell"})
    table.loc[table["lr"] == 1.6, ["kept", "final_loss", "seconds"]] = None
    record.write_trial(folder, path.stem, without_nan(table), [])
    mirror.mirror(folder)
    view = View(folder)
    (cell,) = [run for run in view.cells if run.info.run_name == "small · none · lr 1.6"]
    assert "kept" not in cell.data.metrics
    assert set(view.history(view.curve("small · none"), "kept")) == {100_000, 400_000}
    with contextlib.closing(sqlite3.connect(folder / mirror.DATABASE)) as database:
        (odd,) = database.execute("select count(*) from metrics where is_nan or abs(value) > 1e300").fetchone()
        (all_,) = database.execute("select count(*) from metrics").fetchone()
    assert odd == 0
    assert all_ > 50


def without_nan(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def test_the_study_run_holds_definition_report_and_figures(folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "figures" / "rates.png").write_bytes(b"a picture")
    (folder / "report.html").write_text("first")
    mirror.mirror(folder)
    before = study_run(folder)
    (folder / "report.html").write_text("second")
    mirror.mirror(folder)
    after = study_run(folder)
    assert after.info.run_id == before.info.run_id
    artifacts = Path(after.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "report.html").read_text() == "second"
    assert (artifacts / "figures" / "rates.png").read_bytes() == b"a picture"
    assert json.loads((artifacts / "study.json").read_text())["study"]["name"] == "simulated"
    assert artifacts.is_relative_to(folder / mirror.ARTIFACTS)
    assert after.data.tags["runs"] == "24"
    assert after.data.params["recipe.batch"] == "512"


def study_run(folder: Path) -> Any:
    (run,) = [run for run in View(folder).tops if run.data.tags[KIND] == "study"]
    return run


def answers_of(folder: Path) -> dict[str, float]:
    return mirror._answers(folder, read_definition(folder), analysis.load(folder))


def test_the_study_run_holds_what_was_found(folder: Path) -> None:
    write(folder, seeds=8, lrs=(0.1, 0.2, 0.4, 0.8, 1.6))
    mirror.mirror(folder)
    shown = study_run(folder).data.metrics
    assert shown == answers_of(folder)
    runs, definition = analysis.load(folder), read_definition(folder)
    edge = {row["curve"]: row for row in analysis.edges(runs).to_dict("records")}
    assert shown["study LR50 small none"] == pytest.approx(edge["none"]["edge"], rel=1e-5)
    assert shown["study LR50_low small none"] == pytest.approx(edge["none"]["low"], rel=1e-5)
    (ratio,) = [row for row in contrasts(runs, definition).to_dict("records") if row["planned"]]
    assert shown["study LR50_ratio_low small clippy"] == pytest.approx(ratio["low"], rel=1e-5)
    assert shown["study LR50_ratio_p small clippy"] == pytest.approx(ratio["p_holm"], rel=1e-5)
    assert shown["study nominated_lr small clippy"] == 1.6
    assert shown["study quality_difference small clippy"] == pytest.approx(ratio["difference"], rel=1e-5)
    # Clippy's edge was not reached: no number says that it was.
    assert not {"study LR50 small clippy", "study LR50_high small clippy", "study LR50_ratio small clippy"} & set(shown)
    assert not [name for name in shown if "claimed" in name]
    assert all(math.isfinite(value) for value in shown.values())


def test_what_was_found_is_written_when_no_more_runs_come_and_once(folder: Path, watch: Any) -> None:
    mirror.mirror(folder, finished=False)
    before = study_run(folder)
    assert before.data.metrics == {}
    mirror.mirror(folder)
    after = study_run(folder)
    assert after.info.run_id == before.info.run_id
    assert after.data.metrics == answers_of(folder)
    with watch() as writes:
        mirror.mirror(folder, finished=False)
        mirror.mirror(folder)
    assert writes == []


def test_other_findings_are_a_new_generation_of_the_studys_run(folder: Path) -> None:
    mirror.mirror(folder)
    first = study_run(folder)
    write(folder, seeds=6)
    mirror.mirror(folder, finished=False)
    growing = study_run(folder)
    assert (growing.info.run_id, growing.data.metrics) == (first.info.run_id, first.data.metrics)
    mirror.mirror(folder)
    second = study_run(folder)
    assert second.info.run_id != first.info.run_id
    assert second.data.metrics == answers_of(folder) != first.data.metrics
    assert_exactly_once(folder, View(folder))
    view = View(folder)
    for metric, value in second.data.metrics.items():
        assert view.history(second, metric) == {0: value}


def test_the_study_run_holds_the_tables(folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / "edges.csv").write_text("model,curve\n")
    mirror.mirror(folder)
    artifacts = Path(study_run(folder).info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "tables" / "edges.csv").read_text() == "model,curve\n"


# Exactly once --------------------------------------------------------------------------------------------------------


def test_a_second_mirror_writes_nothing(folder: Path, watch: Any) -> None:
    first = mirror.mirror(folder)
    with watch() as writes:
        assert mirror.mirror(folder) == first
    assert writes == []


def test_a_rebuild_from_nothing_gives_the_same_view(folder: Path, empty_database: Path) -> None:
    mirror.mirror(folder)
    before = View(folder).content()
    write(folder.parent / "other")  # a copy of the database that no open connection still knows
    moved = folder.with_name("other")
    for path in (folder / "runs").iterdir():
        shutil.copystat(path, moved / "runs" / path.name)
    shutil.copy(empty_database, moved)
    mirror.mirror(moved)
    assert View(moved).content() == before


def test_a_cell_costs_three_calls_and_a_curve_four(folder: Path, watch: Any) -> None:
    with watch() as writes:
        mirror.mirror(folder)
    study = ["create_experiment", "create_run", "log_batch", "log_artifact", "set_terminated", "log_batch"]
    cell = ["create_run", "log_batch", "set_terminated"]
    curve = ["create_run", "log_batch", *cell * 3, "set_terminated", "set_tag"]
    assert writes == [study[0], *curve, *curve, *study[1:]]


@pytest.mark.parametrize("grown", [False, True], ids=["first", "grown"])
def test_after_a_kill_at_any_write_the_next_mirror_ends_with_everything_once(
    tmp_path: Path, empty_database: Path, watch: Any, grown: bool
) -> None:
    shutil.copy(empty_database, tmp_path)
    write(tmp_path, seeds=2, lrs=(0.8,))
    if grown:
        mirror.mirror(tmp_path)
        write(tmp_path, seeds=3, lrs=(0.8,))
    found = answers_of(tmp_path)
    with (
        contextlib.closing(sqlite3.connect(tmp_path / mirror.DATABASE)) as database,
        contextlib.closing(sqlite3.connect(":memory:")) as start,
    ):
        database.backup(start)
        with watch() as undisturbed:
            mirror.mirror(tmp_path)
        assert len(undisturbed) >= 20
        for last in range(1, len(undisturbed) + 1):
            start.backup(database)
            with watch(last), pytest.raises(Killed):
                mirror.mirror(tmp_path)
            mirror.mirror(tmp_path)
            assert_exactly_once(tmp_path, View(tmp_path))
            assert study_run(tmp_path).data.metrics == found
            with watch() as writes:
                mirror.mirror(tmp_path)
            assert writes == []


class AskedTwice:
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


@pytest.mark.parametrize("grown", [False, True], ids=["first", "grown"])
def test_what_a_server_was_asked_twice_is_there_once(
    tmp_path: Path, folder: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, grown: bool
) -> None:
    """Of a shared server, which only differs from this database in its address."""
    monkeypatch.chdir(tmp_path)  # MLflow keeps the files of such a one in the current folder
    uri = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'shared.db')}"
    client = mirror._client
    if grown:
        mirror.mirror(folder, uri)
        write(folder, seeds=8)
    monkeypatch.setattr(mirror, "_client", lambda uri: AskedTwice(client(uri)))
    result = mirror.mirror(folder, uri)
    monkeypatch.undo()
    assert (result.curves, result.cells) == (2, 6)
    assert_exactly_once(folder, View(folder, uri, experiment=result.experiment_id))


def test_a_curve_waits_for_its_last_run_unless_the_study_is_finished(tmp_path: Path, empty_database: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    write(folder, leave_out=[("small", "clippy", 0.4, 1), ("small", "clippy", 1.6, 1)])
    assert mirror.mirror(folder, finished=False).curves == 1
    assert [run.info.run_name for run in View(folder).curves] == ["small · none"]
    assert mirror.mirror(folder, finished=True).curves == 2
    view = View(folder)
    assert view.curve("small · clippy").data.tags["missing"] == "2"
    assert view.curve("small · none").data.tags["missing"] == "0"
    assert view.history(view.curve("small · clippy"), "n") == {100_000: 4, 400_000: 3, 1_600_000: 3}
    assert study_run(folder).data.tags["missing"] == "2"


def test_new_seeds_replace_a_generation_once_they_are_all_there(folder: Path) -> None:
    mirror.mirror(folder)
    before = {run.info.run_id for run in View(folder).curves}
    write(folder, seeds=5, leave_out=[("small", "none", 0.4, 4), ("small", "clippy", 0.4, 4)])
    mirror.mirror(folder, finished=False)
    assert {run.info.run_id for run in View(folder).curves} == before
    write(folder, seeds=5)
    mirror.mirror(folder, finished=False)
    view = View(folder)
    assert not {run.info.run_id for run in view.curves} & before
    assert view.history(view.curve("small · none"), "n") == {100_000: 5, 400_000: 5, 1_600_000: 5}
    assert_exactly_once(folder, view)


def test_what_someone_deleted_by_hand_comes_back_and_their_own_runs_stay(folder: Path) -> None:
    result = mirror.mirror(folder)
    view = View(folder)
    own = view.client.create_run(result.experiment_id, run_name="my own")
    view.client.delete_run(view.cells[0].info.run_id)
    mirror.mirror(folder)
    view = View(folder)
    assert own.info.run_id in {run.info.run_id for run in view.tops}
    view.client.delete_run(own.info.run_id)
    assert_exactly_once(folder, View(folder))
    view.client.delete_experiment(result.experiment_id)
    assert mirror.mirror(folder).experiment_id == result.experiment_id
    view = View(folder)  # bringing an experiment back brings all of its deleted runs back
    view.client.delete_run(own.info.run_id)
    assert_exactly_once(folder, View(folder))


def test_more_runs_than_one_page_are_all_seen(folder: Path, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror.mirror(folder)
    monkeypatch.setattr(mirror, "PAGE", 2)
    with watch() as writes:
        mirror.mirror(folder)
    assert writes == []


def test_more_metrics_than_one_call_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "METRICS_PER_BATCH", 4)
    mirror.mirror(folder)
    view = View(folder)
    assert len(view.history(view.curve("small · none"), "rmse_play")) == 3


# Around it -----------------------------------------------------------------------------------------------------------


def test_a_first_mirror_sets_up_the_database_whole(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / f".{mirror.DATABASE}.of-a-killed-one").write_bytes(b"half a database")
    mirror.mirror(tmp_path)
    assert_exactly_once(tmp_path, View(tmp_path))
    assert sorted(path.name for path in tmp_path.glob("*mlflow*")) == [".mlflow.lock", "mlflow-artifacts", "mlflow.db"]


def test_a_moved_folder_keeps_its_files_beside_it(folder: Path) -> None:
    mirror.mirror(folder)
    moved = folder.with_name("moved")
    folder.rename(moved)
    result = mirror.mirror(moved)
    view = View(moved, experiment=result.experiment_id)
    assert_exactly_once(moved, view)
    assert not folder.exists()
    assert str(moved) in str(view.curves[0].info.artifact_uri)


def test_a_study_without_runs_shows_nothing_yet(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path)
    open_study(tmp_path, simulated_definition())
    result = mirror.mirror(tmp_path)
    assert (result.curves, result.cells, View(tmp_path).runs) == (0, 0, [])


def test_no_study_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no study"):
        mirror.mirror(tmp_path)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:s3cret@host:5000/path", "http://host:5000/path"),
        ("https://me:s3/cr?et@host", "https://host"),
        ("https://host/x?token=s3cret", "https://host/x"),
        ("postgresql+psycopg://me:s3cret@db/mlflow", "postgresql+psycopg://db/mlflow"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("databricks", "databricks"),
    ],
)
def test_a_uri_is_shown_without_credentials(uri: str, shown: str) -> None:
    assert mirror.without_credentials(uri) == shown


@pytest.mark.parametrize("uri", ["http://me:s3cret@127.0.0.1:{port}", "nonsense://me:s3cret@127.0.0.1:{port}/x"])
def test_a_server_that_does_not_answer_is_one_line_without_the_password(
    folder: Path, uri: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        began = time.monotonic()
        with pytest.raises(TrackingError) as caught:
            mirror.mirror(folder, uri.format(port=unused.getsockname()[1]))
    assert time.monotonic() - began < 10
    assert "\n" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    said = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    assert "s3cret" not in said.replace(uri, "")
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ
    mirror.mirror(folder)  # and the record is as it was
    assert_exactly_once(folder, View(folder))


def test_two_do_not_write_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "WAIT_SECONDS", 0.1)
    with (folder / ".mlflow.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match="another process is writing the MLflow view"):
            mirror.mirror(folder)
    mirror.mirror(folder)


def test_a_broken_database_is_named(folder: Path) -> None:
    (folder / mirror.DATABASE).write_bytes(b"no database at all, but long enough to look at" * 30)
    with pytest.raises(TrackingError, match="move it away, and it is rebuilt from the record"):
        mirror.mirror(folder)


def test_a_taken_port_is_said(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TrackingError, match=f"port {port} cannot be used"), mirror.server(folder, port=port):
            pass


def test_nobody_pays_for_mlflow_who_does_not_use_it() -> None:
    code = "import sys, study.tracking.mirror; sys.exit('mlflow' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_shared_server_tells_two_folders_apart(folder: Path) -> None:
    """`serve` as a user runs it, and its server as the shared one of two studies of the same name."""
    command = [sys.executable, "-m", "study", "ui", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        try:
            line = user.stdout.readline().strip()
            address, _, page = line.partition("/#/")
            assert page.startswith("experiments/1/runs?compareRunsMode=CHART")
            with urllib.request.urlopen(f"{address}/health", timeout=10) as answer:
                assert answer.status == 200
            other = folder.with_name("other")
            write(other, seeds=2)
            (other / "report.html").write_text("a report")
            results = [mirror.mirror(where, address) for where in (folder, other, folder, other)]
            assert results[:2] == results[2:]
            assert results[0].experiment_id != results[1].experiment_id
            assert_exactly_once(folder, View(folder, address, results[0].experiment_id))
            view = View(other, address, results[1].experiment_id)
            assert_exactly_once(other, view)
            (study,) = [run for run in view.tops if run.data.tags[KIND] == "study"]
            files = {file.path for file in view.client.list_artifacts(study.info.run_id)}
            assert files == {"report.html", "study.json"}
        finally:
            user.send_signal(signal.SIGTERM)
            assert user.wait(timeout=30) == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


@pytest.mark.slow
@pytest.mark.skipif(screenshots.chromium() is None, reason="no Chromium is installed")
def test_the_charts_are_drawn_as_the_page_opens(folder: Path, tmp_path: Path) -> None:
    for picture in screenshots.take(folder, tmp_path / "pictures"):
        assert picture.stat().st_size > 30_000


@pytest.mark.slow
def test_four_hundred_cells_take_seconds(tmp_path: Path) -> None:
    lrs = tuple(0.01 * i for i in range(1, 41))
    write_simulated_study(tmp_path, simulated_definition(lrs=lrs, seeds=range(2)), with_losses=False)
    began = time.process_time()  # a busy disk is not ours to test
    assert mirror.mirror(tmp_path).cells == 400
    assert time.process_time() - began < 20


# --- beside a training --------------------------------------------------------------------------------------------


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_follower_shows_what_is_complete_and_everything_at_the_end(folder: Path) -> None:
    shutil.rmtree(folder / "runs")
    write(folder, leave_out=[("small", "clippy", 0.4, 2)])
    with mirror.Follower(folder, None) as follower:
        follower.look()
        wait_for(lambda: any(run.data.tags.get(STATE) == "complete" for run in View(folder).curves))
        assert [run.info.run_name for run in View(folder).curves] == ["small · none"]
        shown = follower.end()
        child = follower.child
    assert shown is not None
    assert (shown.curves, shown.cells) == (2, 6)
    assert str(shown) == f"MLflow: 2 curves, 6 cells in {mirror.default_uri(folder)}"
    assert child is not None
    assert child.returncode == 0
    assert mirror.mirror(folder) == shown


def test_a_follower_nudged_often_looks_seldom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror.sys, "executable", "/bin/cat")  # whatever is written to it, nobody mirrors
    said: list[str] = []
    with mirror.Follower(folder, None, seconds=10) as follower:
        monkeypatch.setattr(follower, "_say", said.append)
        for now in (100.0, 105.0, 109.9, 110.0, 115.0, 121.0):
            monkeypatch.setattr(mirror.time, "monotonic", lambda now=now: now)
            follower.nudge()
    assert said == ["look"] * 3


def test_a_follower_that_died_says_so(folder: Path) -> None:
    with mirror.Follower(folder, None) as follower:
        assert follower.child is not None
        follower.child.kill()
        follower.child.wait()
        follower.look()
        assert follower.end() is None
    assert not View(folder).runs


def test_a_follower_without_orders_is_ended_at_once_and_writes_nothing(tmp_path: Path) -> None:
    with mirror.Follower(tmp_path, None) as follower:
        assert follower.child is not None
    assert follower.child.returncode == -signal.SIGKILL
    assert not list(tmp_path.iterdir())


def test_a_follower_tells_what_went_wrong(folder: Path) -> None:
    (folder / mirror.DATABASE).write_bytes(b"no database")
    with mirror.Follower(folder, None) as follower, pytest.raises(TrackingError, match=r"cannot write .*mlflow\.db"):
        follower.end()


def test_a_follower_ends_with_the_process_that_follows(folder: Path) -> None:
    """However that ends: the other end of a pipe is closed by the system."""
    code = "import sys, time\nfrom pathlib import Path\nfrom study import tracking\n"
    code += "f = tracking.Follower(Path(sys.argv[1]), None)\nf.look()\nprint(f.child.pid, flush=True)\ntime.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2])


def test_a_study_of_many_cells_shows_its_curves_alone(
    folder: Path, watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.mirror(folder)
    nested = View(folder)
    monkeypatch.setattr(mirror, "MOST_CELLS", 5)  # there are six
    monkeypatch.setattr(mirror, "MOST_CURVES", 1)
    shown = mirror.mirror(folder)
    view = View(folder)
    assert (shown.curves, shown.cells) == (2, 6)
    assert len(view.runs) == 3
    assert not view.cells
    for name in ("small · none", "small · clippy"):
        for metric in ("divergence_rate", "kept", "n"):
            assert view.history(view.curve(name), metric) == nested.history(nested.curve(name), metric)
    (study,) = [run for run in view.tops if run.data.tags[KIND] == "study"]
    assert study.data.metrics == {}
    with watch() as writes:
        mirror.mirror(folder)
    assert writes == []
    monkeypatch.undo()
    mirror.mirror(folder)
    assert View(folder).content() == nested.content()


def test_the_end_of_a_study_does_not_wait_for_mlflow_for_ever(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "END_SECONDS", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        mirror.Follower(folder, f"http://127.0.0.1:{silent.getsockname()[1]}") as follower,
    ):
        began = time.monotonic()
        with pytest.raises(TrackingError, match="it took longer than"):
            follower.end()
        assert time.monotonic() - began < 5
        assert follower.child is not None
        assert follower.child.wait(timeout=10)
