"""A table of runs without `runs/` and `losses/` is read as it is, and no report replaces it by a smaller one."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from paths import ROOT
from records import B0, make_definition, make_losses, make_row
from simulated_record import simulated_definition, write_simulated_study

import analysis
from study.cli.main import main
from study.config import Arm
from study.record import tables
from study.record.definition import RecordError, open_study
from study.record.repair import set_bad_files_aside
from study.storage import stores

RESULTS = sorted(path.parent for path in (ROOT / "docs" / "results").rglob("runs.parquet"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STUDY_CACHE", str(tmp_path / "cache"))
    arms = [Arm(method="none"), Arm(method="clippy")]
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.6), seeds=(0, 1))
    write_simulated_study(tmp_path / "theirs", definition)
    return tmp_path / "theirs"


@pytest.fixture
def published(folder: Path) -> Path:
    """The two files that a colleague is sent."""
    tables.read_runs(folder).to_parquet(folder / "runs.parquet", index=False)
    for kind in ("runs", "losses"):
        shutil.rmtree(folder / kind)
    return folder


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.name)
def test_each_published_study_reads_as_it_was_recorded(results: Path) -> None:
    pd.testing.assert_frame_equal(tables.read_runs(results), pd.read_parquet(results / "runs.parquet"))


def test_every_reading_command_shows_a_published_study_and_leaves_it(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = (published / "runs.parquet").read_bytes()
    assert len(analysis.load(published)) == 8
    said = {}
    for command in ("status", "report", "recommend", "mlflow"):
        assert main([command, str(published)]) == 0
        said[command] = capsys.readouterr().out
        assert (published / "runs.parquet").read_bytes() == table
    assert "8 of 8 runs recorded" in said["status"]
    assert "the losses of 32 runs are missing: no course of a run" in said["report"]
    assert "cannot say with 2 seeds" in said["recommend"]
    assert "2 curves, 4 cells" in said["mlflow"]


@pytest.mark.parametrize("name", ["README", "Thumbs.db", "x.parquet.tmp", "sub/x.parquet"])
@pytest.mark.parametrize("kind", ["runs", "losses", "set_aside", "confirm"])
def test_a_file_of_others_does_not_hide_a_published_table(published: Path, kind: str, name: str) -> None:
    before = tables.read_runs(published)
    (published / kind / name).parent.mkdir(parents=True)
    (published / kind / name).write_bytes(b"theirs")
    pd.testing.assert_frame_equal(tables.read_runs(published), before)
    with pytest.raises(RecordError, match="a table of runs without their losses"):
        tables.check_not_published(published)
    assert main(["rescore", str(published), "--rule", "kept=0.5"]) == 2
    assert not (published / "rescored").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rescore", "--rule", "kept=0.5"], "the losses of 32 runs in .* are missing"),
        (["resume"], r"holds a table of runs without their losses \(runs.parquet, no runs/\)"),
        (["confirm", "--lr", "0.1", "--seeds", "100-158"], "holds a table of runs without their losses"),
    ],
)
def test_what_needs_losses_says_so_in_one_line(
    published: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    before = {path: path.read_bytes() for path in published.rglob("*")}
    assert main([words[0], str(published), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error)
    assert {path: path.read_bytes() for path in published.rglob("*")} == before


def test_a_search_for_the_best_quality_is_reported_from_its_published_gains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(ROOT / "docs" / "results" / "best_quality", tmp_path / "best"))
    assert main(["report", str(folder)]) == 0
    assert "clippy" in capsys.readouterr().out
    (folder / "gains.parquet").unlink()
    assert main(["report", str(folder)]) == 2
    assert "is judged by losses, and those in" in capsys.readouterr().err


def test_a_flipped_bit_of_a_published_table_is_found(folder: Path) -> None:
    before = tables.read_runs(folder)
    assert main(["report", str(folder)]) == 0
    for kind in ("runs", "losses"):
        shutil.rmtree(folder / kind)
    path = folder / "runs.parquet"
    content = path.read_bytes()
    pd.testing.assert_frame_equal(pd.read_parquet(path), before)
    pd.testing.assert_frame_equal(tables.read_runs(folder), before)
    for at in range(0, len(content), len(content) // 40):
        path.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(RecordError, match=r"runs\.parquet cannot be read"):
            tables.read_runs(folder)


def test_a_damaged_published_table_is_no_empty_study(published: Path) -> None:
    path = published / "runs.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(RecordError, match=r"runs\.parquet cannot be read"):
        analysis.load(published)


def test_no_report_replaces_a_table_by_a_smaller_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(folder)]) == 0
    table = (folder / "runs.parquet").read_bytes()
    path = next((folder / "runs").glob("*-01.parquet"))
    content = path.read_bytes()
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["report", str(folder)]) == 0
    assert (
        f"has {8 + 24 - len(tables.read_runs(folder))} runs that the record lacks, and is kept"
        in capsys.readouterr().err
    )
    assert (folder / "runs.parquet").read_bytes() == table
    path.write_bytes(content)
    (folder / "runs.parquet").write_bytes(b"no table")
    assert main(["report", str(folder)]) == 0
    assert len(pd.read_parquet(folder / "runs.parquet")) == len(tables.read_runs(folder)), "it is written anew"


def test_a_table_in_an_object_store_is_kept_too(folder: Path) -> None:
    url = f"memory://published/{folder.parent.name}"
    store, table = stores.store_for(url), tables.read_runs(folder)
    store.put("study.json", (folder / "study.json").read_bytes())
    table.to_parquet(folder / "runs.parquet", index=False)
    content = (folder / "runs.parquet").read_bytes()
    store.put("runs.parquet", content)
    mirror = stores.folder_of(url)
    pd.testing.assert_frame_equal(tables.read_runs(mirror), table)
    with pytest.raises(RecordError, match=r"memory://.* can be read and not continued"):
        tables.check_not_published(mirror)
    assert main(["report", url]) == 0
    assert store.get("runs.parquet") == content


def test_a_study_without_runs_is_not_published(tmp_path: Path) -> None:
    open_study(tmp_path, make_definition())
    assert main(["report", str(tmp_path)]) == 0
    tables.check_not_published(tmp_path)
    tables.write_trial(tmp_path, "a", [make_row()], make_losses({B0: 0}))
    assert main(["report", str(tmp_path)]) == 0
    (tmp_path / "runs" / "a.parquet").write_bytes(b"bad")
    with pytest.warns(RuntimeWarning, match="set aside"):
        set_bad_files_aside(tmp_path)
    tables.check_not_published(tmp_path)
    assert tables.recorded_ids(tmp_path) == set(), "it is trained again"
    assert json.loads((tmp_path / "study.json").read_text())["format"] == 1


def test_the_index_that_pandas_saves_is_no_threshold(published: Path) -> None:
    """A table that was filtered in pandas and saved with its defaults."""
    runs = tables.read_runs(published)
    kept = pd.read_parquet(published / "runs.parquet")
    kept[kept.index != 1].to_parquet(published / "runs.parquet")
    assert "__index_level_0__" in pq.read_schema(published / "runs.parquet").names
    again = tables.read_runs(published)
    assert list(again.columns) == list(runs.columns)
    assert len(again) == len(runs) - 1
