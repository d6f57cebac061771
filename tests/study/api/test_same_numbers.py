"""The API, a report and its CSV files, and MLflow tell the same numbers of one record."""

import html
import math
import re
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


def tables_of_the_page(result: study.Result) -> list[pd.DataFrame]:
    """The tables of report.html, as the texts of their cells."""
    page, tables = (Path(result.folder) / "report.html").read_text(), []
    for table in re.findall(r"<table>(.*?)</table>", page, re.DOTALL):
        lines = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in table.split("<tr>")[1:]]
        head, *rows = [[html.unescape(re.sub("<.*?>", "", cell)) for cell in line] for line in lines]
        tables.append(pd.DataFrame(rows, columns=pd.Index(head)))
    return tables


def on_page(result: study.Result, table: pd.DataFrame, keys: list[str], *columns: str) -> pd.DataFrame:
    """The first table of the page with these columns, its rows in the order of the table."""
    found = next(one for one in tables_of_the_page(result) if {*keys, *columns} <= set(one))
    found = found.loc[:, ~found.columns.duplicated()].set_index(keys)
    assert len(found) == len(table)
    return found.loc[[tuple(f"{v:g}" if isinstance(v, float) else v for v in row) for row in table[keys].to_numpy()]]


def test_the_page_has_the_numbers_of_the_tables(result: study.Result) -> None:
    curve = ["model", "curve"]
    cells = result.rates()
    page = on_page(result, cells, [*curve, "lr"], "n", "k", "rate")
    spans = page["95% interval"].str.split(" to ", expand=True)
    for texts, column in (
        (page["n"], "n"),
        (page["k"], "k"),
        (page["rate"], "rate"),
        (spans[0], "low"),
        (spans[1], "high"),
    ):
        assert texts.astype(float).tolist() == pytest.approx(cells[column].tolist(), abs=0.0051), column
    for level, column in ((0.5, "LR50"), (0.05, "LR05")):
        edges = result.edges(level)
        for text, row in zip(
            on_page(result, edges, curve, "LR50", "LR05")[column], edges.to_dict("records"), strict=True
        ):
            known = row["status"] == "reached"
            assert text.startswith(">") != known
            assert float(text.strip("> ")) == pytest.approx(row["edge"] if known else row["lr_max"], rel=0.05)
    planned = result.contrasts().query("planned")
    page = on_page(result, planned, [*curve, "against"], "LR50 ratio", "p (Holm)")
    for text, ratio in zip(page["LR50 ratio"], planned["ratio"], strict=True):
        assert text.startswith(">") == math.isnan(ratio)
        assert math.isnan(ratio) or float(text) == pytest.approx(ratio, rel=0.05)
    claims = result.recommend()
    page = on_page(result, claims, curve, "nominated lr", "diverged there")
    assert page["nominated lr"].astype(float).tolist() == claims["nominated"].tolist()
    counts = [f"{k:.0f} of {n:.0f}" for k, n in zip(claims["nominated_k"], claims["nominated_n"], strict=True)]
    assert page["diverged there"].tolist() == counts


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
