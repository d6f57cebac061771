"""Each training run of a small study is in MLflow exactly once, with its loss curve, outcome, lr and seed."""

import itertools
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import searched
from mlflow_view import Killed, View
from simulated_record import simulated_definition, write_simulated_study

from study.cli.main import main
from study.config import Arm
from study.record import tables
from study.record.definition import Definition, read_definition
from study.tracking import training_runs
from study.tracking.choices import MOST_RUNS
from study.tracking.client import default_uri, open_client
from study.tracking.mirror import mirror
from study.tracking.training_runs import POINTS, mirror_runs, thinned
from study.tracking.writing import FINISHED, KEY


def written(folder: Path, **changes: Any) -> None:
    values: dict[str, Any] = {"models": ["small"], "arms": (Arm("none"),), "lrs": (0.4, 1.6), "seeds": range(2)}
    write_simulated_study(folder, simulated_definition(**values | {"steps": 250} | changes))


@pytest.fixture
def small(tmp_path: Path, empty_database: Path) -> Path:
    folder = tmp_path / "small"
    folder.mkdir()
    shutil.copy(empty_database, folder)
    written(folder)
    return folder


def shown(folder: Path) -> dict[str, Any]:
    """The training runs that MLflow shows, by run id."""
    client = open_client(default_uri(folder))
    experiment = client.get_experiment_by_name("simulated training runs")
    if experiment is None:
        return {}
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    assert len({run.data.tags[KEY] for run in found}) == len(found), "each once"
    return {run.data.tags[KEY]: run for run in found}


def test_a_run_has_the_numbers_of_the_record(small: Path) -> None:
    result = mirror(small)
    assert "28 training runs" in str(result)
    there, runs = shown(small), tables.read_runs(small)
    assert set(there) == set(runs["run_id"])
    losses = tables.read_losses(small)
    for row in runs.to_dict("records"):
        found = there[row["run_id"]].data
        assert float(found.params["lr"]) == row["lr"]
        assert int(found.params["seed"]) == row["seed"]
        assert (found.params["method"], found.params["role"]) == (row["method"], row["role"])
        if row["role"] == "cell":
            assert found.tags["outcome"] == row["outcome"]
            assert found.metrics["outcome/diverged"] == (row["outcome"] == "diverged")
        if math.isfinite(row["kept"] or math.nan):
            assert found.metrics["outcome/kept"] == row["kept"]
            assert found.metrics["quality/auc_click"] == row["auc_click"]
    one = runs.query("role == 'cell' and outcome == 'completed'").iloc[0]["run_id"]
    history = View(small).history(there[one], "loss")
    total = np.sum([loss.astype(float) for loss in losses.query("run_id == @one")["loss"]], axis=0)
    assert list(history) == [*range(0, 250, 5), 249]
    assert history == {step: total[step] for step in history}


def test_the_name_of_a_run_has_the_threshold_in_which_arms_of_its_method_differ(
    tmp_path: Path, empty_database: Path
) -> None:
    shutil.copy(empty_database, tmp_path)
    written(tmp_path, arms=(Arm("none"), Arm("clippy", {"abs": 0.01}), Arm("clippy", {"abs": 0.001})))
    mirror(tmp_path)
    names = [run.info.run_name for run in shown(tmp_path).values()]
    assert len(set(names)) == len(names)
    assert {name for name in names if "lr 0.4 · seed 1" in name} == {
        "small · none · lr 0.4 · seed 1",
        "small · clippy abs=0.01 · lr 0.4 · seed 1",
        "small · clippy abs=0.001 · lr 0.4 · seed 1",
    }


def test_the_name_of_a_run_has_the_thresholds_that_a_search_varies() -> None:
    study = searched.study_of()
    definition = Definition(study=study, data=searched.DATA, versions={})
    row = {"model": "small", "method": "clippy", "lr": 0.5, "seed": 1, "role": "cell", "steps": 24, "study": "s"}
    rows = {str(rel): row | {"rel": rel, "abs": 0.01, "options": "{}"} for rel in (0.2, 0.7)}
    assert [*training_runs._names(definition, rows).values()] == [
        "small · clippy rel=0.2 · lr 0.5 · seed 1",
        "small · clippy rel=0.7 · lr 0.5 · seed 1",
    ]


def test_a_loss_that_is_not_finite_is_left_out(small: Path) -> None:
    mirror(small)
    gone = tables.read_runs(small).query("reason == 'nonfinite'")
    assert len(gone), "some run ends so"
    for row in gone.to_dict("records"):
        run = shown(small)[row["run_id"]]
        history = View(small).history(run, "loss")
        assert history
        assert max(history) < row["diverged_at_step"]
        assert "outcome/kept" not in run.data.metrics


@pytest.mark.parametrize("steps", [0, 1, 2, POINTS, POINTS + 1, 405, 10**5])
def test_thinned_steps_are_evenly_spaced_and_end_with_the_last(steps: int) -> None:
    kept = thinned(steps)
    assert len(kept) <= POINTS + 1
    assert len(kept) >= min(steps, POINTS // 2)
    assert len({b - a for a, b in itertools.pairwise(kept[:-1])}) <= 1
    assert not steps or (kept[0], kept[-1]) == (0, steps - 1)


def test_runs_are_written_once_and_new_ones_added(small: Path, watch: Any) -> None:
    mirror(small)
    before = {run.info.run_id for run in shown(small).values()}
    with watch() as writes:
        mirror(small)
    assert writes == []
    written(small, seeds=range(3))
    mirror(small, finished=False)
    after = {run.info.run_id for run in shown(small).values()}
    assert before < after
    assert len(after) == 30


def test_a_kill_at_any_write_of_a_run_leaves_no_half_run(small: Path, watch: Any) -> None:
    mirror(small, runs="none")
    for last in (1, 1, 2, 3, 4, 5):  # the first makes the experiment
        with watch(last), pytest.raises(Killed):
            mirror(small)
    mirror(small)
    there = shown(small)
    assert set(there) == set(tables.read_runs(small)["run_id"])
    assert {run.info.status for run in there.values()} == {FINISHED}
    assert all("loss" in run.data.metrics for run in there.values())


def test_larger_studies_have_them_by_choice(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_RUNS == 500
    monkeypatch.setattr("study.tracking.training_runs.MOST_RUNS", 20)
    assert mirror(small).runs is None
    assert shown(small) == {}
    assert main(["mlflow", str(small), "--mlflow-runs", "all"]) == 0
    assert len(shown(small)) == 28
    mirror(small)
    assert len(shown(small)) == 28, "they stay until the user decides otherwise"
    assert mirror(small, runs="none").runs == 0
    assert shown(small) == {}


def test_more_than_a_page_of_runs_is_deleted_at_once(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow counts pages from the start: what is deleted meanwhile moves later runs past the next page."""
    mirror(small)
    monkeypatch.setattr("study.tracking.writing.PAGE", 5)
    assert mirror(small, runs="none").runs == 0
    assert shown(small) == {}


def test_nothing_is_read_where_no_run_is_to_be_shown(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, definition = open_client(default_uri(small)), read_definition(small)
    monkeypatch.setattr("study.tracking.training_runs.MOST_RUNS", 3)
    monkeypatch.setattr(tables, "read_runs", lambda *_: pytest.fail("all runs were read"))
    assert mirror_runs(client, small, definition, own=True, began=0) is None
    assert mirror_runs(client, small, definition, own=True, began=0, which="none") == 0
