"""The main job from end to end: plan, Ray Tune, stacks, record, report and MLflow, as child processes that may die."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import CONTROL, FIXED, SMALL, Studies, kill_child, losses, recorded, shown, table
from waiting_for import wait_until

from study import data
from study.record import tables
from study.record.failures import read_failures
from study.tracking.client import DATABASE

# --- theory -------------------------------------------------------------------------------------------------------


def write_table(folder: Path, block_rows: int, blocks: int) -> None:
    """A log in which every batch of `block_rows` holds the same rows: gradient descent on it is exact. The last two
    blocks are held out."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    x = rng.standard_normal((block_rows, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    y = x @ np.array([0.5, -0.8, 1.1]) + 0.1 * rng.standard_normal(block_rows)
    frame = pd.DataFrame(np.tile(np.column_stack([x, y]), (blocks, 1)), columns=["a", "b", "c", "y"])
    frame.insert(0, "second", 1_700_000_000 + np.arange(len(frame)))
    frame.to_csv(folder / "rows.csv", index=False)
    (folder / "table.toml").write_text(
        'files = ["rows.csv"]\ntime = "second"\ntime_unit = "s"\nnumbers = ["a", "b", "c"]\n'
        f'heldout = {2 / blocks}\n\n[tasks]\ny = "regression"\n'
    )


def test_folders_of_any_name_serve(tmp_path: Path) -> None:
    odd = tmp_path / "feature%2Flogin b?c#d'\"ü"
    odd.mkdir()
    write_table(odd / "data", block_rows=64, blocks=52)
    studies = Studies(odd)
    studies.environment["TMPDIR"] = str(odd)
    settings = ["models=small", "methods=none", "lr=0.1", "batch=64", "window=64", "warmup=0"]
    words = [*FIXED, *(word for setting in settings for word in ("--set", setting))]
    printed = studies(
        *("run", "quick", "--data", "table", "--data-dir", odd / "data", "--seeds", "0", "--out", odd / "out", *words)
    )
    assert "MLflow: 1 curve, 1 cell" in printed
    assert len(recorded(odd / "out")) == CONTROL + 1
    assert list(tmp_path.iterdir()) == [odd]


def test_plain_gradient_descent_diverges_beyond_two_over_the_curvature(studies: Studies, tmp_path: Path) -> None:
    write_table(tmp_path / "data", block_rows=64, blocks=12)
    log = data.load("table", {"dir": str(tmp_path / "data")}, tmp_path / "cache")
    x = log.numbers[:64].astype(np.float64)
    np.testing.assert_array_equal(log.numbers, np.tile(log.numbers[:64], (12, 1)))
    edge = 2 / np.linalg.eigvalsh(2 / 64 * x.T @ x)[-1]

    shares = {0.5: "completed", 0.97: "completed", 1.03: "diverged", 1.5: "diverged"}
    lrs = {share: float(f"{share * edge:.6g}") for share in shares}
    settings = [
        "models=own_models.linear",
        "methods=none",
        "none.base=sgd",
        f"lr={','.join(str(lr) for lr in lrs.values())}",
        "batch=64",
        "window=64",
        "steps=400",
        "warmup=0",
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    printed = studies(
        "run",
        "quick",
        "--data",
        "table",
        "--data-dir",
        tmp_path / "data",
        "--seeds",
        "0-1",
        "--out",
        tmp_path / "out",
        *words,
    )

    runs = tables.read_runs(tmp_path / "out")
    control = runs[runs["role"] == "control"]
    assert len(control) == 24
    assert set(control["options"]) == {"{}"}, "the control is Adagrad"
    cells = runs[runs["role"] == "cell"].set_index("lr")
    for share, outcome in shares.items():
        cell = cells.loc[[lrs[share]]]
        assert list(cell["outcome"]) == [outcome] * 2, f"lr = {share} * 2/h"
        assert cell["kept"].isna().all() if share == 1.5 else cell["kept"].notna().all()
    assert (cells.loc[lrs[0.97], "kept"] > 0.95).all()
    assert set(cells.loc[lrs[1.03], "reason"]) == {"never_learned"}, "its error grows from the first step"
    assert list(cells.loc[lrs[1.5], "reason"]) == ["nonfinite"] * 2
    # No draw of the seed reaches this loss: the same rows in another order.
    assert cells.loc[lrs[0.97], "rmse_y"].nunique() == 1 or np.ptp(cells.loc[lrs[0.97], "rmse_y"]) < 1e-4
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000
    assert "none: half of the runs diverge" in printed


# --- growing, resuming and dying ----------------------------------------------------------------------------------

RUNS = 3 * 3 * 4


@pytest.fixture(scope="module")
def grown(studies: Studies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of seeds 0-1, then grown to 0-3 and finished undisturbed."""
    folder = tmp_path_factory.mktemp("grown") / "out"
    studies("run", "quick", *SMALL, "--seeds", "0-1", "--out", folder)
    files = {path: path.read_bytes() for path in (folder / "runs").iterdir()}
    assert len(recorded(folder)) == CONTROL + RUNS // 2
    printed = studies("run", "quick", *SMALL, "--seeds", "0-3", "--out", folder)
    assert f"{RUNS} runs in 9 cells, {RUNS // 2} recorded; {RUNS // 2} to train (control included)" in printed
    assert all(path.read_bytes() == content for path, content in files.items()), "recorded runs were written again"
    return folder


@pytest.mark.slow
def test_a_study_grows_by_its_new_seeds_and_resumes_with_nothing_to_do(grown: Path, studies: Studies) -> None:
    ids = recorded(grown)
    assert len(ids) == len(set(ids)) == CONTROL + RUNS
    assert sorted(tables.read_runs(grown).query("role == 'cell'")["seed"].unique()) == [0, 1, 2, 3]
    before, view = {path: path.stat().st_mtime_ns for path in (grown / "runs").iterdir()}, shown(grown / DATABASE)
    printed = studies("resume", grown)
    assert f"{RUNS} runs in 9 cells, {RUNS} recorded; 0 to train (control included)" in printed
    assert {path: path.stat().st_mtime_ns for path in (grown / "runs").iterdir()} == before
    assert shown(grown / DATABASE) == view


@pytest.mark.slow
def test_a_study_that_was_killed_ends_where_an_undisturbed_one_does(
    grown: Path, studies: Studies, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    words = ["run", "quick", *SMALL, "--seeds", "0-3", "--out", folder, "--stack", "4", "--workers", "2"]
    child = studies.start(*words)
    try:
        wait_until(child, lambda: len(recorded(folder)) >= CONTROL + 6)
    finally:
        kill_child(child)
    survived = recorded(folder)
    assert CONTROL < len(survived) < CONTROL + RUNS
    assert not (folder / "report.html").exists()

    printed = studies("resume", folder)
    assert f"{len(survived) - CONTROL} recorded; {CONTROL + RUNS - len(survived)} to train" in printed
    ids = recorded(folder)
    assert sorted(ids) == sorted(recorded(grown))
    assert len(ids) == len(set(ids))
    pd.testing.assert_frame_equal(table(folder), table(grown), check_exact=True)
    assert losses(folder) == losses(grown)
    assert shown(folder / DATABASE) == shown(grown / DATABASE)
    assert not read_failures(folder)
    assert not (folder / "set_aside").exists()


SEARCH = [
    *FIXED,
    *("--data", "synthetic", "--set", "data.rows=5000", "--set", "batch=64", "--set", "window=500"),
    *("--set", "models=small", "--set", "methods=none,layer_clip", "--set", "lr=0.1,0.4,1.6,6.4"),
    *("--precision", "1.6", "--budget", "36"),
]


@pytest.mark.slow
def test_a_search_that_was_killed_ends_where_an_undisturbed_one_does(studies: Studies, tmp_path: Path) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "out"
    printed = studies("run", "edges", *SEARCH, "--out", whole)
    assert "search    of 2 curves, the lr at which half of the runs diverge, to within a factor of 1.6" in printed
    assert " of 2 edges found" in printed
    assert "none: half of the runs diverge" in printed
    child = studies.start("run", "edges", *SEARCH, "--out", folder, "--workers", "3", "--stack", "3")
    try:
        wait_until(child, lambda: len(recorded(folder)) >= CONTROL + 14)
    finally:
        kill_child(child)
    survived = recorded(folder)
    assert len(survived) < len(recorded(whole))

    studies("resume", folder)
    ids = recorded(folder)
    assert sorted(ids) == sorted(recorded(whole))
    assert len(ids) == len(set(ids))
    pd.testing.assert_frame_equal(table(folder), table(whole), check_exact=True)
    cells = tables.read_runs(folder).query("role == 'cell'")
    status = studies("status", folder)
    for method, runs in cells.groupby("method"):
        assert sorted(runs["seed"]) == list(range(len(runs)))
        assert f"  {method}: {len(runs)} runs, {(runs['outcome'] == 'diverged').sum()} diverged; edge " in status
