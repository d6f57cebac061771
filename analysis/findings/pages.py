"""Pages of findings, whose tables and figures are made again from the published rows of their studies.

    python -m analysis.findings.pages docs/results.md docs/causes.md --rows docs/results      `make results`

A table stands between `<!-- table WHAT STUDY... -->` and `<!-- end -->`, a figure's `![...](file.png)` between
`<!-- figure WHAT STUDY... -->` and `<!-- end -->`: WHAT one of `TABLES` or `results_figures.FIGURES`,
STUDY a folder of the rows (`analysis.findings.published`). All else on a page is written by hand.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.figures.axes import figure_style
from analysis.findings import signals, tables
from analysis.findings.figures import FIGURES
from analysis.report.html import DPI

TABLES = tables.TABLES | signals.TABLES

MARK = re.compile(
    r"<!-- (?P<kind>table|figure) (?P<what>\S+) (?P<studies>[^>]*?) -->\n?(?P<body>.*?)<!-- end -->", re.S
)
PICTURE = re.compile(r"!\[[^\]]*\]\((?P<file>[\w./-]+\.png)\)")


def remade(page: str, rows: Path) -> str:
    """The page with every table made again from the studies in the folder of rows. Raises ValueError for a table,
    figure or study that is not known."""

    def one(found: re.Match[str]) -> str:
        what, kind = found["what"], found["kind"]
        known = TABLES if kind == "table" else FIGURES
        if what not in known:
            raise ValueError(f"unknown {kind} {what!r}; there are {', '.join(known)}")
        if kind == "figure":
            return found[0]
        made = TABLES[what](_folders(found, rows))
        return f"<!-- table {what} {found['studies']} -->\n\n{made}\n\n<!-- end -->"

    return MARK.sub(one, page)


def pictures(page: str, rows: Path) -> dict[str, tuple[str, list[Path]]]:
    """file, beside the page -> (WHAT, folders of its studies) of every figure. Raises ValueError for a figure without a
    picture."""
    drawn = {}
    for found in MARK.finditer(page):
        if found["kind"] == "figure":
            picture = PICTURE.search(found["body"])
            if picture is None:
                raise ValueError(f"the figure {found['what']} has no ![...](file.png) before its <!-- end -->")
            drawn[picture["file"]] = (found["what"], _folders(found, rows))
    return drawn


def _folders(found: re.Match[str], rows: Path) -> list[Path]:
    return [rows / name for name in found["studies"].split()]


def draw(page: str, rows: Path, beside: Path) -> None:
    """Save every figure of the page."""
    with figure_style():
        for file, (what, folders) in pictures(page, rows).items():
            FIGURES[what](folders).savefig(beside / file, format="png", dpi=DPI)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.findings.pages", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("pages", type=Path, nargs="+", metavar="PAGE")
    parser.add_argument("--rows", type=Path, required=True, metavar="DIR", help="the folder of published studies")
    asked = parser.parse_args(arguments)
    try:
        for path in asked.pages:
            page = path.read_text()
            made = remade(page, asked.rows)
            draw(page, asked.rows, path.parent)
            path.write_text(made)
    except (OSError, ValueError) as error:
        print(f"results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
