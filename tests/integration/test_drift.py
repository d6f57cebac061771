"""A log whose labels turn around for a while: all runs lose what they learned, and none of them is unstable."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from study import data
from study.config import CONTROL_LRS, CONTROL_SEEDS, Recipe, Rule, Run
from study.outcomes.judge import judge
from study.outcomes.reference import control_reference
from study.training.trainer import train

pytestmark = pytest.mark.slow

ROWS, TURNED = 26_000, slice(11_000, 14_000)
RECIPE = Recipe(batch=64, window=500)
DECLARED = """
files = ["rows.csv"]
time = "second"
time_unit = "s"
numbers = ["a", "b", "c", "d", "e", "f"]
heldout = 0.1

[tasks]
y = "binary"
"""


def write_drifting_table(folder: Path) -> None:
    draws = np.random.default_rng(0)
    numbers = draws.standard_normal((ROWS, 6))
    score = numbers @ (1.2 * draws.standard_normal(6))
    score[TURNED] *= -1
    rows = pd.DataFrame(numbers, columns=pd.Index(list("abcdef")))
    rows["second"] = 1_700_000_000 + 30 * np.arange(ROWS)
    rows["y"] = (draws.random(ROWS) < 1 / (1 + np.exp(-score))).astype(int)
    folder.mkdir()
    rows.to_csv(folder / "rows.csv", index=False)
    (folder / "table.toml").write_text(DECLARED)


def test_a_drifting_log_has_a_reference_and_only_unstable_runs_diverge(tmp_path: Path) -> None:
    write_drifting_table(tmp_path / "table")
    log = data.load("table", {"dir": str(tmp_path / "table")}, tmp_path / "cache")
    unit = np.array([task.constant_loss for task in log.tasks])

    def runs(lrs: tuple[float, ...], seeds: tuple[int, ...]) -> list[Run]:
        one = {"data": log.content, "model": "small", "method": "none", "recipe": RECIPE}
        return [Run(lr=lr, seed=seed, **one) for seed in seeds for lr in lrs]

    control = runs(CONTROL_LRS, CONTROL_SEEDS)
    left = train(control, log)
    lrs, seeds = [run.lr for run in control], [run.seed for run in control]
    reference = control_reference(lrs, seeds, left.loss, left.constant, unit, Rule(), left.moved)
    assert reference.lr == 0.16
    assert reference.gain > 0.3

    trained = train(runs((0.05, 0.4, 100.0), (0, 1)), log)
    judged = judge(trained.loss, trained.constant, unit, trained.finite, reference, Rule(), trained.moved)
    assert [run.outcome for run in judged] == ["completed", "completed", "diverged"] * 2
    assert all(run.kept is not None and 0.9 < run.kept < 1.1 for run in judged[:2])
