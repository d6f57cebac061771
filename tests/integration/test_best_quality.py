"""`study run best_quality` from end to end, on a few tiny runs."""

import math
from collections import Counter
from pathlib import Path

from studies import Studies

from analysis.stats import best
from study.config import JUDGED_FROM
from study.record import tables
from study.record.definition import read_definition
from study.search.optuna_tpe import JOURNAL


def test_a_search_trains_from_plan_to_report(tmp_path: Path) -> None:
    studies = Studies(tmp_path)
    words = ["--set", "models=small", "--set", "methods=none,clippy", "--set", "search.budget=16"]
    words += ["--set", "search.batch=4", "--set", "search.judged=2", "--set", "steps=60", "--set", "warmup=5"]
    words += ["--data", "synthetic", "--set", "data.rows=20000", "--seeds", "0-1", "--out", "out", "--workers", "2"]
    planned = studies("plan", "best_quality", *words)
    assert "the best quality of none, clippy" in planned
    assert "2 rounds of 4 cells x 2 seeds an arm, then 2 fresh seeds for its best cell" in planned
    assert not (tmp_path / "out").exists()
    printed = studies("run", "best_quality", *words)
    runs = tables.read_runs(tmp_path / "out")
    cells = runs.loc[runs["role"] == "cell"]
    assert Counter(cells.loc[cells["seed"] < JUDGED_FROM, "method"]) == {"none": 16, "clippy": 16}
    losses, definition = tables.read_losses(tmp_path / "out"), read_definition(tmp_path / "out")
    table = best.best(runs, best.gains(runs, losses, definition), definition)
    rows = {row["method"]: row for row in table.to_dict("records")}
    for method, row in rows.items():
        judged = cells.loc[(cells["method"] == method) & (cells["seed"] >= JUDGED_FROM)]
        assert len(judged) == (0 if math.isnan(row["lr"]) else 2)
        assert f"{method}: " in printed
    assert any(row["n"] == 2 and math.isfinite(row["auc_click"]) for row in rows.values())
    assert (tmp_path / "out" / JOURNAL).exists()
