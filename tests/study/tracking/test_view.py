"""What MLflow shows of a study."""

import contextlib
import json
import math
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow_view import ARMS, LRS, View, answers_of, assert_exactly_once, mirror_curves, shown_answers, study_run, write
from simulated_record import simulated_definition

import analysis
from analysis.stats.contrasts import contrasts
from study.config import Arm
from study.record import tables as record
from study.record.definition import open_study, read_definition
from study.tracking import view as tracking_view
from study.tracking.client import ARTIFACTS, DATABASE
from study.tracking.view import lr_steps


def test_curve_metrics_are_rates_by_learning_rate(folder: Path) -> None:
    result = mirror_curves(folder)
    view = View(folder, experiment=result.experiment_id)
    runs = record.read_runs(folder)
    for method in ("none", "clippy"):
        cells = runs[(runs["method"] == method) & (runs["role"] == "cell")].groupby("lr")
        by_hand = [(of_lr["outcome"] == "diverged").mean() for _, of_lr in cells]
        shown = view.history(view.curve(f"small · {method}"), "divergence/rate")
        assert shown == dict(zip((5000, 5602, 6204), by_hand, strict=True))  # lrs 0.1, 0.4, 1.6
    assert view.history(view.curve("small · none"), "divergence/rate")[6204] == 1
    assert view.history(view.curve("small · none"), "quality/auc_click")[6204] == 0.5
    assert set(view.history(view.curve("small · none"), "divergence/runs").values()) == {4}
    assert (result.curves, result.cells) == (2, 6)
    assert f"/#/experiments/{result.experiment_id}/runs?compareRunsMode=CHART" in result.url_path
    assert view.client.get_experiment(result.experiment_id).name == "simulated"
    assert_exactly_once(folder, view)


def test_cell_has_its_params_as_tags_too(folder: Path) -> None:
    mirror_curves(folder)
    view = View(folder)
    expected = {"study": "simulated", "model": "small", "method": "clippy", "lr": "0.4", "rel": "0.5", "abs": "0.01"}
    (cell,) = [run for run in view.cells if run.info.run_name == "small · clippy · lr 0.4"]
    assert cell.data.params == expected
    assert expected.items() <= cell.data.tags.items()
    metrics = {f"divergence/{name}" for name in ("rate", "rate_low", "rate_high", "runs")} | {
        "micro/rate",
        "micro/undertrained",
    }
    metrics |= {f"quality/{name}" for name in ("kept", "auc_click", "auc_like", "rmse_play")}
    assert set(cell.data.metrics) == metrics
    assert set(view.history(cell, "divergence/rate")) == {0}
    assert cell.data.metrics["divergence/rate_low"] <= cell.data.metrics["divergence/rate"]


def test_a_page_has_at_most_twenty_charts_and_begins_with_divergence(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path)
    write(tmp_path, seeds=59, lrs=(0.05, 0.1, 0.2, 0.4, 0.8, 1.6))
    mirror_curves(tmp_path)
    charts = sorted({name for run in View(tmp_path).tops for name in run.data.metrics})
    assert len(charts) <= 20
    assert charts[:4] == ["divergence/rate", "divergence/rate_high", "divergence/rate_low", "divergence/runs"]
    assert "edges/claimed_lr" in charts


@pytest.mark.parametrize(
    ("lrs", "steps"),
    [
        ([1e-6, 1e-3, 0.1, 1, 1e4], [0, 3000, 5000, 6000, 10_000]),
        ([3e-8], [-1523]),
        ([1, 1.0005, 1.001, 1.1], [6000, 6001, 6002, 6041]),
    ],
)
def test_steps_are_logarithms_and_differ(lrs: list[float], steps: list[int]) -> None:
    assert lr_steps(lrs) == steps


def test_newest_runs_are_the_curves_in_the_order_of_the_study(folder: Path) -> None:
    """It takes the newest ten runs, newest first; the study and the cells must not be among them."""
    mirror_curves(folder)
    newest_first = sorted(View(folder).runs, key=lambda run: -run.info.start_time)
    names = [run.info.run_name for run in newest_first]
    assert names[:3] == ["small · none", "small · clippy", "study · simulated"]
    assert names[3:] == [f"small · {method} · lr {lr:g}" for method in ("none", "clippy") for lr in LRS]
    assert len({run.info.start_time for run in newest_first}) == len(names)


def test_curves_of_one_method_have_different_colours(tmp_path: Path, folder: Path) -> None:
    write(folder, arms=(*ARMS, Arm(method="clippy", options={"rel": 0.1, "norm": "rms"})))
    mirror_curves(folder)
    view = View(folder)
    colours = {run.info.run_name: run.data.tags["mlflow.runColor"] for run in view.curves}
    assert len(colours) == len(set(colours.values())) == 3
    (odd,) = [run for run in view.curves if run.data.params.get("norm") == "rms"]
    assert odd.data.params["rel"] == "0.1"


def test_nan_and_infinity_are_left_out(folder: Path) -> None:
    runs = record.read_runs(folder)
    nonfinite = runs[runs["reason"] == "nonfinite"]
    assert len(nonfinite) > 0
    tables = {path: pd.read_parquet(path) for path in sorted((folder / "runs").glob("*.parquet"))}
    path, table = next((p, t) for p, t in tables.items() if set(t["method"]) == {"none"} and set(t["role"]) == {"cell"})
    table.loc[table["lr"] == 1.6, ["kept", "final_loss", "seconds"]] = None
    record.write_trial(folder, path.stem, without_nan(table), [])
    mirror_curves(folder)
    view = View(folder)
    (cell,) = [run for run in view.cells if run.info.run_name == "small · none · lr 1.6"]
    assert "quality/kept" not in cell.data.metrics
    assert set(view.history(view.curve("small · none"), "quality/kept")) == {5000, 5602}
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database:
        (odd,) = database.execute("select count(*) from metrics where is_nan or abs(value) > 1e300").fetchone()
        (all_,) = database.execute("select count(*) from metrics").fetchone()
    assert odd == 0
    assert all_ > 50


def without_nan(table: pd.DataFrame) -> list[dict[str, Any]]:
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def test_study_run_has_definition_report_and_figures(folder: Path) -> None:
    (folder / "figures").mkdir()
    (folder / "figures" / "rates.png").write_bytes(b"a picture")
    (folder / "report.html").write_text("first")
    mirror_curves(folder)
    before = study_run(folder)
    (folder / "report.html").write_text("second")
    mirror_curves(folder)
    after = study_run(folder)
    assert after.info.run_id == before.info.run_id
    artifacts = Path(after.info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "report.html").read_text() == "second"
    assert (artifacts / "figures" / "rates.png").read_bytes() == b"a picture"
    assert json.loads((artifacts / "study.json").read_text())["study"]["name"] == "simulated"
    assert artifacts.is_relative_to(folder / ARTIFACTS)
    assert after.data.tags["runs"] == "24"
    assert after.data.params["recipe.batch"] == "512"


def test_curves_have_finite_answers(folder: Path) -> None:
    write(folder, seeds=8, lrs=(0.1, 0.2, 0.4, 0.8, 1.6))
    mirror_curves(folder)
    shown = shown_answers(folder)
    assert shown == answers_of(folder)
    none, clippy = shown["small · none"], shown["small · clippy"]
    runs, definition = analysis.load(folder), read_definition(folder)
    edge = {row["curve"]: row for row in analysis.edges(runs).to_dict("records")}
    assert none["edges/LR50"] == pytest.approx(edge["none"]["edge"], rel=1e-5)
    assert none["edges/LR50_low"] == pytest.approx(edge["none"]["low"], rel=1e-5)
    (ratio,) = [row for row in contrasts(runs, definition).to_dict("records") if row["planned"]]
    assert clippy["edges/ratio_low"] == pytest.approx(ratio["low"], rel=1e-5)
    # Clippy's edge was not reached: no number says that it was.
    assert not {"edges/LR50", "edges/LR50_high", "edges/ratio", "edges/claimed_lr"} & set(clippy)
    assert all(math.isfinite(value) for values in shown.values() for value in values.values())


def test_study_run_has_the_tables(folder: Path) -> None:
    (folder / "tables").mkdir()
    (folder / "tables" / "edges.csv").write_text("model,curve\n")
    mirror_curves(folder)
    artifacts = Path(study_run(folder).info.artifact_uri.removeprefix("file://"))
    assert (artifacts / "tables" / "edges.csv").read_text() == "model,curve\n"


def test_large_study_has_curves_without_cells(folder: Path, watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_curves(folder)
    nested = View(folder)
    monkeypatch.setattr("study.tracking.view.MOST_CELLS", 5)  # there are six
    monkeypatch.setattr("study.tracking.view.MOST_CURVES", 1)
    shown = mirror_curves(folder)
    view = View(folder)
    assert (shown.curves, shown.cells) == (2, 6)
    assert len(view.runs) == 3
    assert not view.cells
    for name in ("small · none", "small · clippy"):
        for metric in ("divergence/rate", "quality/kept", "divergence/runs"):
            assert view.history(view.curve(name), metric) == nested.history(nested.curve(name), metric)
    assert shown_answers(folder) == {}
    with watch() as writes:
        mirror_curves(folder)
    assert writes == []
    monkeypatch.undo()
    mirror_curves(folder)
    assert View(folder).content() == nested.content()


def test_study_without_runs_has_an_empty_view(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path)
    open_study(tmp_path, simulated_definition())
    result = mirror_curves(tmp_path)
    assert (result.curves, result.cells, View(tmp_path).runs) == (0, 0, [])


def test_import_does_not_load_mlflow() -> None:
    code = "import sys, study.tracking.mirror; sys.exit('mlflow' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_too_many_curves_have_no_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mirror_curves(folder)
    monkeypatch.setattr(tracking_view, "MOST_CELLS", 1)
    result = mirror_curves(folder)
    assert View(folder).curves == []
    assert study_run(folder).data.tags["runs"] == "24"
    assert "the study without its curves, which are in tables/edges.csv and cells.csv, in" in str(result)


def shown(folder: Path) -> list[tracking_view.Curve]:
    return tracking_view.build_view(folder, read_definition(folder), finished=False)[0]


def test_missing_runs_are_counted_on_the_grid_of_each_arm(tmp_path: Path, empty_database: Path) -> None:
    arms = (Arm(method="none"), Arm(method="clippy", lrs=(1.6, 3.2)))
    write(tmp_path, arms=arms, leave_out=[("small", "clippy", 3.2, 1)])
    assert [curve.missing for curve in shown(tmp_path)] == [0, 1]
    mirror_curves(tmp_path)
    assert study_run(tmp_path).data.tags["missing"] == "1"
