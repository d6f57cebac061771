"""CSV files: text is never a formula of a spreadsheet, numbers stay numbers."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study

from analysis.report.csv_file import FORMULA, write_csv
from study.cli.main import main
from study.config import Arm


def test_text_is_no_formula_and_numbers_stay(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "method": ["=cmd()", "+1-x", "-x", "@sum", "\tx", "none"],
            "p": [-0.5, math.inf, -math.inf, np.nan, 1e-9, 0.1],
            "text": ["-0.5", "+3", "1e5", "a=b", "", None],
            "kind": pd.Categorical(["-x", "b", "b", "b", "b", "b"]),
            "=name": [True, False, True, False, True, False],
            "-n": range(-3, 3),
        }
    )
    before = table.copy()
    write_csv(tmp_path / "x.csv", table)
    pd.testing.assert_frame_equal(table, before)
    with (tmp_path / "x.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["method", "p", "text", "kind", "'=name", "'-n"]
    columns = list(zip(*rows, strict=True))
    assert columns[0] == ("'=cmd()", "'+1-x", "'-x", "'@sum", "'\tx", "none")
    assert columns[1] == ("-0.5", "", "", "", "1e-09", "0.1")
    assert columns[2] == ("-0.5", "+3", "1e5", "a=b", "", "")
    assert columns[3] == ("'-x", "b", "b", "b", "b", "b")
    assert columns[5] == ("-3", "-2", "-1", "0", "1", "2")


def test_an_empty_table_has_its_head(tmp_path: Path) -> None:
    write_csv(tmp_path / "x.csv", pd.DataFrame({"a": pd.Series([], dtype=str), "b": pd.Series([], dtype=float)}))
    assert (tmp_path / "x.csv").read_text() == "a,b\n"


def test_no_file_of_a_report_holds_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = [Arm(method="none"), Arm(method="=1+1", options={"-x": 0.5}), Arm(method="=1+1", options={"-x": 0.6})]
    write_simulated_study(tmp_path / "out", simulated_definition(models=["@small"], arms=arms, lrs=(0.1, 0.6)))
    assert main(["report", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    files = list((tmp_path / "out").rglob("*.csv"))
    assert files
    for path in files:
        with path.open(newline="") as file:
            for cell in (cell for row in csv.reader(file) for cell in row if cell.startswith(FORMULA)):
                float(cell)  # raises for a formula
    assert "'=1+1" in (tmp_path / "out" / "tables" / "edges.csv").read_text()
