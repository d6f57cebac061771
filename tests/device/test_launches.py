"""How many operations a step starts on a device: those of the table in docs/performance.md."""

import re

import pytest
import torch
from fake_device import Launches, computing_nothing, four_runs, trained, try_on_cpu
from paths import ROOT
from stacks import LOG

from study import methods

PAGE = ROOT / "docs" / "performance.md"


def rows_of_table() -> dict[str, list[str]]:
    """The cells of the table of operations, by the first cell of their row."""
    table = PAGE.read_text().split("a test holds the table):", 1)[1].split("\n\n")[1]
    cells = [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in table.splitlines()]
    return {first: rest for first, *rest in cells if not set(first) <= {"-"}}


def operations(method: str, model: str) -> int:
    runs = four_runs(method, model)
    try_on_cpu(runs, LOG)
    launches = Launches()
    with computing_nothing():
        trained(runs, watch=launches)
    return sum(launches.counts.values())


OFTEN = ("none", "clippy", "adagc")
"""Without `slow`."""


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in OFTEN else pytest.mark.slow) for name in methods.names()]
)
def test_the_page_says_how_many_operations_a_step_starts(method: str) -> None:
    rows = rows_of_table()
    models = [model for model in rows["method"] if re.fullmatch(r"\w+", model)]
    assert rows.keys() == {"method", *methods.names()}
    assert [operations(method, model) for model in models] == [int(cell) for cell in rows[method]]


def test_launches_count_operations_and_no_views() -> None:
    with Launches() as launches:
        x = torch.ones(3, 4)
        (x.view(4, 3).mT[1:] + 1).mul_(2)
    assert launches.counts == {"ones": 1, "add": 1, "mul_": 1}
