"""The API, the CSV files of a report and MLflow tell the same numbers of one record."""

import math
from pathlib import Path

import pandas as pd
import pytest
from mlflow_view import View
from simulated_record import simulated_definition, write_simulated_study

import study
from study.config import Arm
from study.tracking.client import default_uri, open_client
from study.tracking.mirror import mirror
from study.tracking.view import lr_steps
from study.tracking.writing import KEY


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> study.Result:
    folder = tmp_path_factory.mktemp("record")
    arms = (Arm("none"), Arm("agc"))
    write_simulated_study(folder, simulated_definition(arms=arms, lrs=(0.2, 0.4, 0.8, 1.6), seeds=range(6), steps=60))
    found = study.open(folder)
    found.report()
    mirror(folder)
    return found


def csv(result: study.Result, name: str) -> pd.DataFrame:
    return pd.read_csv(Path(result.folder) / "tables" / f"{name}.csv")


def same(told: pd.DataFrame, written: pd.DataFrame, columns: list[str]) -> None:
    """What has no end is an empty field of a file."""
    told = told[columns].replace(math.inf, math.nan).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        pd.DataFrame(told), written[columns], check_dtype=False, rtol=1e-9, check_column_type=False
    )


def test_the_tables_are_those_of_the_report(result: study.Result) -> None:
    same(result.rates(), csv(result, "cells"), ["model", "curve", "lr", "n", "k", "rate", "low", "high"])
    edges = pd.concat([result.edges(0.5), result.edges(0.05)])
    same(edges, csv(result, "edges"), ["model", "curve", "level", "edge", "low", "high", "status", "seeds"])
    same(
        result.contrasts(),
        csv(result, "contrasts"),
        ["model", "curve", "against", "ratio", "low", "high", "p", "p_holm"],
    )
    same(result.recommend(), csv(result, "recommendation"), ["model", "curve", "status", "lr", "k", "n", "bound"])
    same(result.across_models(), csv(result, "across_models"), ["curve", "against", "moves", "ratio", "low", "high"])


def test_the_curves_of_mlflow_have_the_rates_and_edges(result: study.Result) -> None:
    view = View(result.folder)
    edges = result.edges().set_index(["model", "curve"])
    for (model, curve), cells in result.rates().groupby(["model", "curve"]):
        run = view.curve(f"{model} · {curve}")
        for metric, column in (("rate", "rate"), ("rate_low", "low"), ("rate_high", "high"), ("runs", "n")):
            history = view.history(run, f"divergence/{metric}")
            assert list(history) == lr_steps(cells["lr"].tolist())
            assert list(history.values()) == pytest.approx(cells[column].tolist(), rel=1e-5)
        edge = edges.loc[(model, curve), "edge"]
        assert run.data.metrics.get("edges/LR50", math.nan) == pytest.approx(edge, rel=1e-5, nan_ok=True)


def test_the_training_runs_of_mlflow_are_the_runs(result: study.Result) -> None:
    client = open_client(default_uri(result.folder))
    experiment = client.get_experiment_by_name("simulated training runs")
    assert experiment is not None
    shown = {run.data.tags[KEY]: run.data for run in client.search_runs([experiment.experiment_id], max_results=1000)}
    for row in result.runs.to_dict("records"):
        run = shown[row["run_id"]]
        assert (float(run.params["lr"]), int(run.params["seed"])) == (row["lr"], row["seed"])
        assert run.tags["outcome"] == row["outcome"]
        assert run.metrics.get("outcome/kept", math.nan) == pytest.approx(row["kept"], nan_ok=True)
    diverged = sum(run.metrics.get("outcome/diverged", 0) for run in shown.values())
    assert diverged == result.rates()["k"].sum()
