"""Thresholds with the name of another column: refused before training, and read as `threshold.NAME` in a record."""

from pathlib import Path

import pandas as pd
import pytest
from own_files import own_folder, write  # noqa: F401 - a fixture
from simulated_record import simulated_definition, write_simulated_study

import analysis
from analysis.loading import with_defaults
from study.cli.main import main
from study.config import Arm
from study.record.schema import COLUMNS, COUNTS, OF_SOME, OF_TABLES, threshold_column, threshold_of
from study.record.tables import read_published, read_runs

METHOD = """
from study.transforms import chain, scale

def build(lr, *, base, {name}=0.5):
    return chain(base(), scale(lr))
"""

RESERVED = sorted({*COLUMNS.names, *COUNTS, *OF_SOME, *OF_TABLES, "kept_click", "auc_x"})


def make_record(folder: Path, name: str, method: str = "own.method") -> Path:
    arms = [Arm(method="none"), *(Arm(method=method, options={name: value}) for value in (3.5, 4.5))]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.6), seeds=(0, 1))
    write_simulated_study(folder, definition)
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", ["model", "lr", "steps", "seed", "kept_click", "share", "curve"])
def test_a_record_with_a_reserved_name_is_read(tmp_path: Path, name: str) -> None:
    """Its other trials have no such threshold, and are read as before."""
    folder = make_record(tmp_path / "one", name)
    runs = read_runs(folder)
    assert runs[f"threshold.{name}"].value_counts().to_dict() == {3.5: 4, 4.5: 4}
    assert list(runs.columns).count(name) <= 1
    curves = set(analysis.load(folder)["curve"])
    assert curves == {"none", f"own.method threshold.{name}=3.5", f"own.method threshold.{name}=4.5"}


@pytest.mark.parametrize("name", ["model", "basis"])
def test_every_command_reads_such_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    folder = make_record(tmp_path / "one", name)
    for command in ("status", "recommend", "report"):
        assert main([command, str(folder)]) == 0
        assert "cannot" not in capsys.readouterr().err
    content = (folder / "runs.parquet").read_bytes()
    assert read_published(content)["thresholds"].to_pylist().count(f'{{"{name}":3.5}}') == 4
    for kind in ("runs", "losses"):
        (folder / kind).rename(tmp_path / kind)
    pd.testing.assert_frame_equal(read_runs(folder), pd.read_parquet(folder / "runs.parquet"))


def test_the_name_of_a_threshold_is_found_from_its_column() -> None:
    for name in (*RESERVED, "rel", "threshold.rel"):
        assert threshold_of(threshold_column(name)) == name
    assert (threshold_column("rel"), threshold_column("share")) == ("rel", "threshold.share")


def test_the_default_of_a_reserved_name_is_filled_in() -> None:
    runs = pd.DataFrame({"method": ["m", "m"], "options": ["{}", "{}"], "threshold.steps": [3.0, None]})
    assert with_defaults(runs, {"steps": 5.0})["threshold.steps"].tolist() == [3.0, 5.0]


@pytest.mark.parametrize("name", ["model", "kept_click", "curve"])
def test_a_method_of_a_ranker_with_a_reserved_name_is_refused(
    own_folder: Path,  # noqa: F811 - a fixture
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    method = write(own_folder, METHOD.format(name=name))
    before = sorted(own_folder.rglob("*.parquet"))
    assert main(["plan", "quick", "--set", f"methods=none,{method}", "--set", "data.rows=4000"]) == 2
    said = capsys.readouterr().err
    assert f"the arm {method} has the option {name}, but reports have a column of this name" in said
    assert len(said.splitlines()) == 1
    assert sorted(own_folder.rglob("*.parquet")) == before


def test_a_task_with_the_column_of_a_record_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`diverged_at_step` holds a step in every record, and would hold whether the task diverged."""
    (tmp_path / "log.csv").write_text("a,y\n" + "".join(f"{i % 7},{i % 3}\n" for i in range(4000)))
    task = 'at_step = {column = "y", kind = "regression"}'
    (tmp_path / "table.toml").write_text(f'files = ["log.csv"]\norder = "rows"\nnumbers = ["a"]\n[tasks]\n{task}\n')
    assert main(["plan", "quick", "--data", "table", "--data-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said == "study: the task at_step would have the column diverged_at_step, which every record has; rename it\n"
    pd.DataFrame({"lr": 0.1, "step": [0, 1], "at_step": 1.0}).to_csv(tmp_path / "losses.csv")
    words = ["import", str(tmp_path / "losses.csv"), "--lr", "lr", "--loss", "at_step", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "the task at_step" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
