"""The numbers of the README are those of the published rows."""

from pathlib import Path

import pytest

from analysis.findings import published, range_tests
from analysis.loading import records
from analysis.stats.edges import REACHED, edges
from analysis.stats.intervals import upper_bound
from analysis.text.format import two_digits

ROOT = Path(__file__).parents[3]
TABLE = (ROOT / "README.md").read_text().splitlines()
README = " ".join(" ".join(TABLE).split())


@pytest.mark.parametrize(("column", "model"), list(enumerate(("small", "small_dcn", "large", "large_dcn"))))
def test_table_of_edges(column: int, model: str) -> None:
    assert "| `small` | `small_dcn` | `large` | `large_dcn` |" in README
    for edge in records(edges(published.read(ROOT / "docs" / "results" / f"lr_{model}").runs)):
        (row,) = [line for line in TABLE if line.startswith(f"| `{edge['curve']}` | ") and line.count("|") == 6]
        said = row.strip("| ").split(" | ")[1 + column]
        if edge["status"] == REACHED:
            assert said == f"{two_digits(edge['edge'])} ({two_digits(edge['low'])} to {two_digits(edge['high'])})"
        else:
            assert said == f"> {edge['lr_max']:g}"


def test_what_lr_find_suggests() -> None:
    folders = [ROOT / "docs" / "results" / name for name in SUGGESTED.split()]
    table = range_tests.beside(folders)
    around = table.loc[((table["rule"] == "lightning") & (table["lr_from"] == range_tests.SLOW["lr_from"])).to_numpy()]
    over = (around["edge"] / around["middle"]).dropna()
    assert f"{over.min():.0f} to {float(f'{over.max():.2g}'):,.0f} times below LR50" in README
    assert f"<!-- table range_tests_span {SUGGESTED} -->" in (ROOT / "docs" / "results.md").read_text()


def test_speed_is_that_of_the_page() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    (row,) = [line for line in page.splitlines() if line.startswith("| `small`: 320 runs | ")]
    runs, *_, times = row.strip("| ").split(" | ")[1:]
    assert f"{runs} runs of `small` a minute, {times.split()[0]} times a plain Ray Tune script" in README


SUGGESTED = "range_tests lr_small lr_small_dcn lr_large lr_large_dcn"


def test_words_under_the_figure() -> None:
    runs = published.read(ROOT / "docs" / "results" / "lr_small_dcn").runs
    of_curve = {row["curve"]: row for row in records(edges(runs))}
    none, seeds = of_curve["none"], runs["seed"].nunique()
    lrs = runs["lr"].nunique()
    assert f"{runs['steps'].max()} steps, {seeds} seeds at each of {lrs} lrs, {len(runs)} runs" in README
    said = f"lr {two_digits(none['edge'])} (95% interval {two_digits(none['low'])} to {two_digits(none['high'])})"
    assert said in README
    clippy = runs[runs["curve"] == "clippy"]
    assert not (clippy["outcome"] == "diverged").any()
    assert f"0 of {seeds} diverged at each lr up to {clippy['lr'].max():g}" in README
    assert f"a risk of at most {100 * upper_bound(0, seeds):.0f}%" in README
