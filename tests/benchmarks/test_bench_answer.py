"""The benchmark of an answer: how many seeds a grid needs, and what its line says."""

import answer
import numpy as np
import pandas as pd
import pytest
from bench import Timed
from shapes import logistic

LRS = tuple(np.geomspace(0.05, 2, 10).tolist())


def grid(scale: float, seeds: int, lr50: float = 0.3) -> pd.DataFrame:
    did = logistic(1 / scale, lr50=lr50).draw(LRS, seeds, np.random.default_rng(1))
    rows = [
        {"model": "m", "method": "none", "curve": "none", "lr": lr, "seed": seed, "diverged": bool(did[seed, i])}
        for seed in range(seeds)
        for i, lr in enumerate(LRS)
    ]
    table = pd.DataFrame(rows)
    return table.assign(outcome=np.where(table["diverged"], "diverged", "completed"))


def test_the_seeds_of_a_shallow_curve_do_not_depend_on_how_many_were_recorded() -> None:
    """Widths fall as one over the root of the number of seeds."""
    few, many = (answer.seeds_needed(grid(0.15, seeds))["none"] for seeds in (16, 64))
    assert few == pytest.approx(many, rel=0.5)
    assert many > answer.seeds_needed(grid(0.03, 64))["none"]


def test_a_curve_above_the_grid_has_as_many_seeds_as_were_recorded() -> None:
    assert answer.seeds_needed(grid(0.05, 16, lr50=1000.0)) == {"none": 16}


def test_ratios_count_the_start_of_the_plain_script_once() -> None:
    ours = Timed(runs=300, seconds=100.0, split={})
    plain = Timed(runs=40, seconds=30.0, split={"start-up": 10.0})
    assert answer.seconds_of(plain, 400) == pytest.approx(10 + 400 * 20 / 40)
    assert answer.line(1, ours, plain, 400).endswith("ratio 2.1")
    assert answer.summary([ours], [plain], 600).startswith(
        "medians of 1: 2.0 times as many runs, 3.1 times the seconds"
    )
