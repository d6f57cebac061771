"""The benchmark of load counts what it says, and finds the exponent of a cost that is known."""

import importlib
import sys
from pathlib import Path

import load
import pandas as pd
import pytest

from study import data
from study.config import Study


def test_exponents_are_those_of_the_ends() -> None:
    loads = [load.Load(cells=cells) for cells in (1_000, 5_000, 20_000)]
    assert load.growth(loads, [1.0, 4.0, 20.0]) == "1.00"
    assert load.growth(loads, [1.0, 4.0, 400.0]) == "2.00"
    assert load.growth(loads, [3.0, 9.0, 3.0]) == "0.00"
    assert load.growth(loads[:1], [3.0]) == "-"


def test_a_row_says_each_study_and_how_it_grows() -> None:
    loads = [
        load.Load(cells=n, parts={"report": load.Cost(n / 100, 7, 2 * 10**8)}, stacks=n, overhead_ms=4, idle_ms=1)
        for n in (100, 1_000)
    ]
    head, report, *_ = load.table(loads).splitlines()
    assert head.split()[-5:] == ["100", "cells", "1,000", "cells", "exponent"]
    assert report.split() == ["report", "1.00", "(7.00;", "200)", "10.00", "(7.00;", "200)", "1.00"]


@pytest.mark.parametrize("cells", [100, 1_000, 20_000])
def test_a_space_has_as_many_cells_as_asked_for_and_its_data_read(
    cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load.write_space(tmp_path, cells, seeds=2)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("own_spaces", load.SPACE):
        monkeypatch.delitem(sys.modules, name, raising=False)
    study: Study = importlib.import_module(load.SPACE).study
    monkeypatch.delitem(sys.modules, load.SPACE)
    assert len(study.arms) * len(study.lrs) * len(study.models) == pytest.approx(cells, rel=0.02)
    assert study.seeds == (0, 1)
    load.write_data(tmp_path / "data")
    log = data.load("table", {"dir": str(tmp_path / "data")}, tmp_path / "cache")
    assert log.train_rows == 900


@pytest.mark.slow
def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert load.main(["--cells", "100", "--workers", "1"]) == 0
    said = capsys.readouterr().out
    for part in ("plan", "run: Tune", "run: report", "status", "report", "recommend", "overhead of a cell, ms"):
        assert f"\n{part} " in said


@pytest.mark.slow
def test_the_benchmark_of_recorded_runs_reads_each_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--recorded", "--cells", "100", "--seeds", "2", "--folder", str(tmp_path)]
    assert load.main(words) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:5]] == ["plan", "status", "report", "recommend"]
    runs = pd.read_parquet(tmp_path / "100" / "study" / "runs.parquet")
    assert (runs["role"] == "cell").sum() == 2 * 100
    assert set(runs.loc[runs["role"] == "cell", "outcome"]) == {"completed", "diverged"}
