"""What docs/operations.md promises is held by tests that are there: each row of its table names some, by file and
name."""

import ast
import re

import pytest
from paths import ROOT

DOCUMENT = (ROOT / "docs" / "operations.md").read_text()
HEADING = "## Promises and their tests\n"


def rows(document: str) -> list[list[str]]:
    """The cells of each row of the table under the heading."""
    _, found, part = document.partition(HEADING)
    assert found
    lines = [line for line in part.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def collected(source: str) -> set[str]:
    """The tests of a file as pytest collects them: functions at its top, and methods of its Test classes."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return {name for name in found if name.rpartition("::")[2].startswith("test_")}


def missing(cell: str) -> list[str]:
    """What a cell names that is no test."""
    named = re.findall(r"`([^`]+)`", cell)
    gone = []
    for name in named:
        path, _, test = name.partition("::")
        file = ROOT / path
        if not (
            re.fullmatch(r"tests/[\w/]+/test_\w+\.py", path) and file.is_file() and test in collected(file.read_text())
        ):
            gone.append(name)
    return gone if named else ["nothing is named"]


ROWS = rows(DOCUMENT)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}: {row[1]}")
def test_each_promise_names_tests_that_are_there(row: list[str]) -> None:
    assert len(row) == 3
    assert all(row)
    assert missing(row[2]) == []


def test_every_promise_of_the_page_is_in_the_table() -> None:
    head = DOCUMENT.partition("These are the promises:\n")[2].partition("\n\nEach promise is held")[0]
    promised = {line.strip("|").split("|")[0].strip() for line in head.splitlines() if line.startswith("|")}
    promised -= {"promise", "---"}
    assert len(promised) >= 6
    assert promised <= {row[0] for row in ROWS}


def test_every_file_of_tests_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"[\w/]*\btest_\w+\.py", DOCUMENT))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "some tests",
        "`tests/architecture/test_nowhere.py::test_it`",
        "`tests/architecture/test_promises.py`",
        "`tests/architecture/test_promises.py::rows`",
        "`tests/architecture/test_promises.py::test_it_is_not_there`",
        "`tests/faults.py::main`",
    ],
)
def test_a_name_without_a_test_is_seen(cell: str) -> None:
    assert missing(cell)


def test_what_is_there_is_found() -> None:
    assert missing("`tests/architecture/test_promises.py::test_what_is_there_is_found`") == []
    assert collected("class TestX:\n def test_a(self): ...\n def b(self): ...\ndef test_c(): ...\n") == {
        "TestX::test_a",
        "test_c",
    }
