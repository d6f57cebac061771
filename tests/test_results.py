"""The published findings: every table of docs/results.md comes from the rows beside it."""

from pathlib import Path

import pandas as pd
import pytest
from simulated_record import simulated_definition, write_simulated_study

from analysis import results
from analysis.report import tables, write
from study.config import Arm
from study.record import RecordError

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = "a\n<!-- table {what} s --> old <!-- end -->\nb <!-- table about s -->\n<!-- end -->\n"


def test_the_page_is_what_its_rows_say() -> None:
    page = (DOCS / "results.md").read_text()
    assert page.count("<!-- table ") >= 4
    assert results.remade(page, DOCS / "results") == page


def test_what_is_published_names_no_place_and_is_small() -> None:
    folders = [path.parent for path in (DOCS / "results").rglob("study.json")]
    assert folders
    for folder in folders:
        assert '"dir"' not in (folder / "study.json").read_text()
        assert {path.name for path in folder.iterdir()} == {"study.json", "runs.parquet"}
    assert sum(path.stat().st_size for path in (DOCS / "results").rglob("*")) < 5e6


@pytest.fixture
def published(tmp_path: Path) -> Path:
    arms = (Arm(method="none"), *(Arm(method="agc", options={"max_ratio": value}) for value in (0.02, 0.1)))
    definition = simulated_definition(models=("small",), arms=arms, lrs=(0.1, 0.4, 1.6))
    write_simulated_study(tmp_path / "study", definition, edges={"none": 0.2, "agc": 0.8})
    write(tables(tmp_path / "study"))
    results.publish(tmp_path / "study", tmp_path / "docs" / "s")
    return tmp_path / "docs"


@pytest.mark.parametrize("what", list(results.TABLES))
def test_every_table_is_made_from_the_rows_alone_and_again_the_same(published: Path, what: str) -> None:
    once = results.remade(PAGE.format(what=what), published)
    assert "old" not in once
    assert once.startswith("a\n<!-- table")
    assert results.remade(once, published) == once
    if what != "about":
        assert once.count("| ") > 8


def test_tables_follow_the_rows(published: Path) -> None:
    rows = pd.read_parquet(published / "s" / "runs.parquet")
    before = results.rates(results.read(published / "s"))
    assert "| 1.6 | 8/8 |" in before
    gone = (rows["seed"] == 3) & (rows["lr"] == 1.6) & (rows["method"] == "none")
    rows.loc[~gone].to_parquet(published / "s" / "runs.parquet")
    assert "| 1.6 | 7/7 |" in results.rates(results.read(published / "s"))


def test_what_is_not_there_is_said(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ValueError, match="unknown table 'colours'; there are about, rates"):
        results.remade(PAGE.format(what="colours"), published)
    with pytest.raises(RecordError, match="no study"):
        results.remade(PAGE.format(what="rates"), tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(what="rates"))
    assert results.main([str(page)]) == 2
    assert capsys.readouterr().err.startswith("results: ")
    assert page.read_text() == PAGE.format(what="rates")
