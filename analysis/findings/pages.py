"""Make the tables and figures of the pages of findings again, from published studies.

    python -m analysis.findings.pages docs/results.md docs/causes.md --rows docs/results      `make results`

A table stands between `<!-- table WHAT STUDY... -->` and `<!-- end -->`, a figure's `![...](file.png)` between
`<!-- figure WHAT STUDY... -->` and `<!-- end -->`. WHAT is a key of `TABLES` or of `analysis.findings.figures.FIGURES`,
STUDY a folder of published rows (`analysis.findings.published`). The rest of a page is written by hand.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.axes import figure_style
from analysis.findings import range_tests, signals, tables
from analysis.findings.figures import FIGURES
from analysis.report.html import DPI

TABLES = tables.TABLES | signals.TABLES | range_tests.TABLES

MARK = re.compile(
    r"<!-- (?P<kind>table|figure) (?P<what>\S+) (?P<studies>[^>]*?) -->\n?(?P<body>.*?)<!-- end -->", re.S
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<file>[\w./-]+\.png)\)")


def with_new_tables(page: str, rows: Path) -> str:
    """Return a page with every table made again.

    Args:
        page: The text of the page.
        rows: The folder of published studies.

    Raises:
        ValueError: If a table, figure or study is unknown.
    """

    def updated(mark: re.Match[str]) -> str:
        what, kind = mark["what"], mark["kind"]
        known = TABLES if kind == "table" else FIGURES
        if what not in known:
            raise ValueError(f"unknown {kind} {what!r}; there are {', '.join(known)}")
        if kind == "figure":
            return mark[0]
        made = TABLES[what](_folders(mark, rows))
        return f"<!-- table {what} {mark['studies']} -->\n\n{made}\n\n<!-- end -->"

    return MARK.sub(updated, page)


def pictures(page: str, rows: Path) -> dict[str, tuple[str, list[Path]]]:
    """Return file name -> (WHAT, folders of its studies) of every figure.

    Raises:
        ValueError: If a figure has no picture.
    """
    drawn = {}
    for mark in MARK.finditer(page):
        if mark["kind"] == "figure":
            picture = PICTURE.search(mark["body"])
            if picture is None:
                raise ValueError(f"the figure {mark['what']} has no ![...](file.png) before its <!-- end -->")
            drawn[picture["file"]] = (mark["what"], _folders(mark, rows))
    return drawn


def _folders(mark: re.Match[str], rows: Path) -> list[Path]:
    return [rows / name for name in mark["studies"].split()]


def draw(page: str, rows: Path, folder: Path) -> None:
    """Draw every figure of a page into a folder."""
    with figure_style():
        for file, (what, folders) in pictures(page, rows).items():
            FIGURES[what](folders).savefig(folder / file, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.findings.pages", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE")
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="folder of published studies")
    options = parser.parse_args(arguments)
    try:
        for path in options.pages:
            page = path.read_text()
            made = with_new_tables(page, options.rows)
            draw(page, options.rows, path.parent)
            path.write_text(made)
    except (OSError, ValueError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
