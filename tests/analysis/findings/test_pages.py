"""Every table and figure of docs/results.md and docs/causes.md follows from the published rows."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib import image
from paths import ROOT
from range_rows import write_range_rows
from searched import FRESH, TUNED
from searched import write as write_searched
from simulated_record import simulated_definition, write_simulated_study
from watched import TABLE as WATCHED

from analysis.findings import pages, published, range_tests
from analysis.findings import tables as results_tables
from analysis.findings.figures import FIGURES
from analysis.findings.pages import TABLES
from analysis.findings.tables import rates as rates_table
from analysis.report.tables import report_tables
from analysis.stats import signals
from analysis.stats.edges import fits
from analysis.text.best import best_table
from analysis.text.scale import json_values
from study.commands import family, sizes
from study.commands.scale import scale
from study.config import Arm
from study.record.definition import RecordError, read_definition
from study.record.tables import read_runs

DOCS = ROOT / "docs"
ROWS = DOCS / "results"
PAGES = ("results.md", "causes.md")
PAGE = "a\n<!-- table {what} {studies} --> stale <!-- end -->\nb <!-- table about s -->\n<!-- end -->\n"
OF_FAMILIES = {"family"}
OF_SIGNALS = {name for name in (*TABLES, *FIGURES) if name.startswith("signals")}
OF_SCALE = {"exponents", "predictions", "scale"}
FILES = {"study.json", "runs.parquet", "gains.parquet", "signals.parquet", *published.SCALE_FILES}


def same_but_for_rounding(a: str, b: str) -> bool:
    """Return whether texts are equal, up to 1 in the last digit of fractions and percents, as processors round."""
    number = re.compile(r"\d+(?:\.\d+)?%?")
    if number.sub("#", a) != number.sub("#", b):
        return False
    return all(x == y or near(x, y) for x, y in zip(number.findall(a), number.findall(b), strict=True))


def near(x: str, y: str) -> bool:
    digits = {len(number.rstrip("%").partition(".")[2]) for number in (x, y)}
    if len(digits) > 1 or (digits == {0} and not x.endswith("%")) or x.endswith("%") != y.endswith("%"):
        return False
    return abs(float(x.rstrip("%")) - float(y.rstrip("%"))) <= 1.01 * 10.0 ** -digits.pop()


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_a_page_equal_those_made_from_its_rows(name: str) -> None:
    page = (DOCS / name).read_text()
    assert page.count("<!-- table ") >= 4
    made = pages.with_new_tables(page, ROWS)
    for was, now in zip(page.split("<!-- end -->"), made.split("<!-- end -->"), strict=True):
        assert same_but_for_rounding(was, now)


@pytest.mark.parametrize("name", PAGES)
def test_figures_of_a_page_equal_those_made_from_its_rows(name: str, tmp_path: Path) -> None:
    """A few pixels may differ: another processor shades them differently."""
    page = (DOCS / name).read_text()
    pages.draw(page, ROWS, tmp_path)
    files = pages.pictures(page, ROWS)
    assert files
    for file in files:
        was, now = (255 * image.imread(folder / file) for folder in (DOCS, tmp_path))
        assert was.shape == now.shape, file
        assert int((np.abs(was - now).max(axis=2) > 32).sum()) < 20, file


def test_same_but_for_rounding_accepts_only_the_last_digit() -> None:
    assert same_but_for_rounding("| 0.60 (0.55 to 0.64), 26% |", "| 0.61 (0.55 to 0.64), 27% |")
    for a, b in (("0.60", "0.62"), ("3/8", "4/8"), ("0.60", "> 0.60"), ("p 1.0", "p 0.03"), ("2", "2.9"), ("8", "9")):
        assert not same_but_for_rounding(f"| {a} |", f"| {b} |")
    assert not same_but_for_rounding("26%", "28%")


def test_published_files_are_small_and_name_no_folder() -> None:
    folders = [path.parent for path in ROWS.rglob("study.json")]
    assert folders
    for folder in folders:
        assert '"dir"' not in (folder / "study.json").read_text()
        assert {path.name for path in folder.iterdir()} <= FILES
    assert sum(path.stat().st_size for path in ROWS.rglob("*") if path.is_file()) < 7e6


def test_every_published_study_is_used() -> None:
    text = "".join((DOCS / name).read_text() for name in PAGES)
    named = {name for found in pages.MARK.finditer(text) for name in found["studies"].split()}
    assert {path.name for path in ROWS.iterdir()} <= {name.split("/")[0] for name in named}


def simulated(folder: Path, name: str, edges: dict[str, float], lrs: tuple[float, ...] = (0.1, 0.4, 1.6)) -> None:
    arms = (Arm(method="none"), *(Arm(method="agc", options={"max_ratio": value}) for value in (0.02, 0.1)))
    definition = simulated_definition(models=("small",), arms=arms, lrs=lrs, name=name)
    write_simulated_study(folder, definition, edges=edges, with_losses=False)
    with_rows(folder)


def write_scaled(folder: Path) -> None:
    """Write a study of five depths, with the edge at the deepest predicted from the others."""
    models = tuple("ranker" if depth == 2 else f"ranker depth={depth}" for depth in (1, 2, 3, 4, 6))
    definition = simulated_definition(models=models, arms=(Arm("none"),), lrs=(0.1, 0.2, 0.4, 0.8, 1.6))
    write_simulated_study(folder, definition, edges={"none": 0.4}, with_losses=False)
    with_rows(folder)
    scale(folder, "ranker.depth=6")


def with_rows(folder: Path) -> None:
    """Write the runs.parquet of a report, without the report."""
    read_runs(folder).to_parquet(folder / "runs.parquet", index=False)


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Publish a study `s`, a family `f` (a member has no runs), a search for quality `q`, signals `w`, scale `z`, and
    range tests `r`.
    """
    folder = tmp_path_factory.mktemp("results")
    simulated(folder / "study", "s", {"none": 0.2, "agc": 0.8})
    published.publish(folder / "study", folder / "docs" / "s")
    members = [{"label": x, "words": f"about {x}", "against": "a"} for x in ("a", "b", "empty")]
    for label, edge in (("a", 0.2), ("b", 0.8)):
        simulated(folder / "family" / label, label, {"none": edge, "agc": 4 * edge})
    (folder / "family" / "family.json").write_text(json.dumps({"format": 1, "name": "f", "members": members}))
    published.publish(folder / "family", folder / "docs" / "f")
    searched = [*TUNED, ("none", 0.3, {}, FRESH), ("clippy", 0.5, {"rel": 0.4}, FRESH)]
    write_searched(folder / "searched", searched)
    with_rows(folder / "searched")
    published.publish(folder / "searched", folder / "docs" / "q")
    (folder / "docs" / "w").mkdir()
    published.write_signals(WATCHED, folder / "docs" / "w")
    write_scaled(folder / "scaled")
    published.publish(folder / "scaled", folder / "docs" / "z")
    write_range_rows(folder / "docs" / "r", "small", {"none": 0.2, "agc": 0.8})
    return folder / "docs"


def test_published_signals_give_the_same_tables(docs: Path) -> None:
    said, whole = signals.tables(published.read_signals(docs / "w")), signals.tables(WATCHED)
    for name, table in whole.items():
        pd.testing.assert_frame_equal(said[name], table, atol=2e-3, rtol=5e-3)
    assert (docs / "w" / "signals.parquet").stat().st_size < 100_000


def test_published_edges_by_size_give_the_same_tables(docs: Path, tmp_path: Path) -> None:
    write_scaled(tmp_path / "z")
    whole = json.loads(scale(tmp_path / "z", "ranker.depth=6", as_json=True))
    said = json_values(published.read_scale(docs / "z"))
    assert said["exponents"][0]["exponent"] == pytest.approx(whole["exponents"][0]["exponent"])
    assert said["predictions"][0]["high"] == pytest.approx(whole["predictions"][0]["high"])
    assert [row["size"] for row in said["predictions"]] == [6, 6]


@pytest.mark.parametrize(
    ("study", "key"), [("scale_depth", "ranker.depth"), ("scale_batch", "batch"), ("scale_features", "data.only_ids")]
)
def test_edges_by_size_are_published_as_they_are_fitted_today(study: str, key: str) -> None:
    folder = ROWS / study
    members = family.read_members(folder) if family.is_family(folder) else None
    _, today = sizes.of_members(*members, key) if members else sizes.of_folder(folder, key)
    same_edges(today, pd.read_csv(folder / "scale_points.csv"))


def test_edges_of_the_long_study_stand_beside_those_of_its_horizons() -> None:
    folder = ROWS / "steps_1620"
    runs = published.read(folder).runs
    said = pd.read_csv(folder / "scale_points.csv")
    same_edges(sizes.edges_of(runs, fits(runs)).assign(size=1620.0), said.loc[said["size"] == 1620])


def same_edges(found: pd.DataFrame, said: pd.DataFrame) -> None:
    order = ["model", "curve", "level", "size"]
    said = said.assign(high=said["high"].fillna(math.inf))
    found, said = (
        table.sort_values(order, ignore_index=True)[[*order, "edge", "low", "high"]] for table in (found, said)
    )
    pd.testing.assert_frame_equal(found, said, rtol=1e-3, check_dtype=False)


def studies_for(what: str) -> str:
    of = dict.fromkeys(OF_FAMILIES, "f") | dict.fromkeys(OF_SIGNALS, "w")
    of |= dict.fromkeys(OF_SCALE, "z") | {"best": "q", "agreement": "s s", "grid_and_search": "s s"}
    of |= dict.fromkeys([*range_tests.TABLES], "r s")
    return of.get(what, "s")


@pytest.mark.parametrize("what", TABLES)
def test_tables_need_the_rows_alone_and_are_repeatable(docs: Path, what: str) -> None:
    once = pages.with_new_tables(PAGE.format(what=what, studies=studies_for(what)), docs)
    assert "stale" not in once
    assert once.startswith("a\n<!-- table")
    assert pages.with_new_tables(once, docs) == once
    if what not in ("about", "signals_watched"):
        assert once.count("\n| ") > 2  # its head, the rule below it, and a row


@pytest.mark.parametrize("what", FIGURES)
def test_figures_need_the_rows_alone(docs: Path, tmp_path: Path, what: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"<!-- figure {what} {studies_for(what)} -->\n![P](own.png)\n<!-- end -->\n")
    before = page.read_text()
    assert pages.main([str(page), "--rows", str(docs)]) == 0
    assert (tmp_path / "own.png").stat().st_size > 5000
    assert page.read_text() == before


def test_published_search_equals_its_record(docs: Path) -> None:
    folder = docs.parent / "searched"
    head, rows = best_table(report_tables(folder).best, read_definition(folder))
    assert results_tables.best_of_search([docs / "q"]) == results_tables.markdown(head, rows)
    assert [row[2] for row in rows] == ["lr 0.3", "lr 0.5, rel 0.4"]
    assert not (docs / "s" / "gains.parquet").exists()
    with pytest.raises(RecordError, match=r"cannot read .*gains\.parquet"):
        results_tables.best_of_search([docs / "s"])


def test_family_is_published_with_its_members(docs: Path) -> None:
    assert [member.label for member in published.family_members(docs / "f")] == ["a", "b", "empty"]
    made = pages.with_new_tables(PAGE.format(what="family", studies="f"), docs)
    assert "| about a · none |" in made or "| about a |" in made
    assert "about empty" not in made
    assert "2 studies, 144 runs" in pages.with_new_tables("<!-- table about f --> <!-- end -->", docs)


def test_agreement_counts_pairs_ordered_alike_and_unlike(docs: Path, tmp_path: Path) -> None:
    lrs = (0.05, 0.15, 0.3, 0.6, 1.2, 1.6)  # an lr between two edges tells them apart
    for name, edges in (("s", {"none": 0.2, "agc": 0.8}), ("turned", {"none": 0.8, "agc": 0.1})):
        simulated(tmp_path / name, name, edges, lrs)
        published.publish(tmp_path / name, tmp_path / "rows" / name)
    alike, unlike = (
        pages.with_new_tables(f"<!-- table agreement s {other} --> <!-- end -->", tmp_path / "rows").splitlines()[4]
        for other in ("s", "turned")
    )
    assert alike.startswith("| small | synthetic and synthetic | 3 | 2 | 0 | 1 |")
    assert unlike.startswith("| small | synthetic and synthetic | 3 | 0 | 2 | 1 |")
    with pytest.raises(ValueError, match="in pairs"):
        pages.with_new_tables("<!-- table agreement s --> <!-- end -->", docs)


def test_tables_change_with_the_rows(docs: Path, tmp_path: Path) -> None:
    for path in (docs / "s").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert "| 1.6 | 8/8 |" in rates_table([tmp_path])
    rows = pd.read_parquet(tmp_path / "runs.parquet")
    gone = (rows["seed"] == 3) & (rows["lr"] == 1.6) & (rows["method"] == "none")
    rows.loc[~gone].to_parquet(tmp_path / "runs.parquet")
    assert "| 1.6 | 7/7 |" in rates_table([tmp_path])


def test_unknown_tables_figures_and_studies_are_refused(
    docs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ValueError, match="unknown table 'colours'; there are about, rates"):
        pages.with_new_tables(PAGE.format(what="colours", studies="s"), docs)
    with pytest.raises(ValueError, match="unknown figure 'colours'; there are divergence"):
        pages.with_new_tables("<!-- figure colours s -->\n![x](x.png)\n<!-- end -->", docs)
    with pytest.raises(ValueError, match=r"has no !\[...\]"):
        pages.pictures("<!-- figure forest s -->\n<!-- end -->", docs)
    with pytest.raises(RecordError, match="no study"):
        pages.with_new_tables(PAGE.format(what="rates", studies="s"), tmp_path)
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(what="rates", studies="s"))
    assert pages.main([str(page), "--rows", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("results: ")
    assert page.read_text() == PAGE.format(what="rates", studies="s")
    assert published.main([str(tmp_path), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("published: ")
    assert not (tmp_path / "out").exists()
