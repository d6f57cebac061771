"""What a search for the best quality found: its best cells, as fresh seeds judge them, in tables and words."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from searched import FRESH, TUNED, study_of, write
from simulated_record import simulated_definition, write_simulated_study
from simulated_tuning import DATA, opened
from text_checks import contains

import analysis
from analysis.report.page import write as write_report
from analysis.report.tables import report_tables
from analysis.stats import best
from analysis.stats.intervals import mean_interval, median_interval
from analysis.text import best as best_text
from study.commands.report import report
from study.commands.status import status
from study.config import JUDGED_FROM
from study.record import tables as record
from study.record.definition import Definition


def found(folder: Path, definition: Definition) -> pd.DataFrame:
    runs = record.read_runs(folder)
    return best.best(runs, best.gains(runs, record.read_losses(folder), definition), definition)


def test_best_is_judged_by_fresh_seeds_alone(tmp_path: Path) -> None:
    definition = write(tmp_path, [*TUNED, ("none", 0.3, {}, FRESH), ("none", 0.1, {}, FRESH)])
    table = found(tmp_path, definition).set_index("method")
    assert list(table.index) == ["none", "clippy"]
    none = table.loc["none"]
    assert (none["lr"], none["n_tuned"], none["k_tuned"], none["cells"], none["runs"]) == (0.3, 20, 0, 4, 43)
    assert none["gain"] == pytest.approx(0.09, abs=0.001)
    assert (none["n"], none["k"], none["low"]) == (40, 0, 0)
    assert none["bound"] == pytest.approx(1 - 0.05 ** (1 / 40))
    runs = record.read_runs(tmp_path)
    own = runs.loc[(runs["lr"] == 0.3) & (runs["seed"] >= JUDGED_FROM)]
    assert len(own) == 40
    assert none["auc_click"] == pytest.approx(np.median(own["auc_click"]))
    assert none["auc_click_mean"] == pytest.approx(np.mean(own["auc_click"]))
    assert none["auc_click_low"] < none["auc_click"] < none["auc_click_high"]
    clippy = table.loc["clippy"]
    assert (clippy["rel"], clippy["n"]) == (0.4, 0)
    assert math.isnan(clippy["auc_click"])
    assert math.isnan(clippy["bound"])


@pytest.mark.parametrize(
    ("n", "gain", "within", "expected"),
    [
        ([4, 32], [0.3, 0.2], [True, True], 1),  # the higher mean is of too few seeds
        ([16, 32], [0.3, 0.2], [True, True], 0),
        ([4, 32], [0.3, 0.4], [True, False], 0),  # what is out of the risk sets no standard
        ([4, 4, 4], [0.1, 0.2, 0.2], [True, True, True], 1),
        ([4, 4], [0.1, 0.2], [False, False], None),
    ],
)
def test_best_needs_enough_seeds_and_a_low_risk(
    n: list[int], gain: list[float], within: list[bool], expected: int | None
) -> None:
    assert best.best_of(pd.DataFrame({"n": n, "gain": gain, "within_risk": within})) == expected


def test_diverged_seed_counts_as_worst_result(tmp_path: Path) -> None:
    definition = write(tmp_path, [("none", 0.9, {}, range(20)), ("none", 0.9, {}, FRESH)], risk=0.9)
    row = found(tmp_path, definition).iloc[0]
    k = int((record.read_runs(tmp_path).query("seed >= @JUDGED_FROM")["outcome"] == "diverged").sum())
    assert 4 < k < 25
    assert (row["n"], row["k"]) == (40, k)
    assert row["auc_click_mean"] == pytest.approx((0.5 * k + (0.5 + 0.12) * (40 - k)) / 40, abs=0.001)
    assert row["rmse_play_mean"] == pytest.approx((1.4 * k + (1.4 - 0.12) * (40 - k)) / 40, abs=0.001)


def test_gains_are_of_the_last_day_and_the_given_task(tmp_path: Path) -> None:
    definition = write(tmp_path, [("none", 0.3, {}, range(1))])
    assert best.last_steps(definition, 1000) == round(2_000 / 512)
    assert best.last_steps(definition, 8) == 2
    assert best.last_steps(definition, 1) == 1
    runs = record.read_runs(tmp_path)
    losses = pd.DataFrame(
        [
            {"run_id": runs["run_id"][0], "seed": 0, "task": task, "loss": loss, "constant": constant}
            for task, loss, constant in (
                ("click", np.array([9.0] * 20 + [0.57, 0.47, 0.67, 0.77]), np.full(24, 0.67)),
                ("play", np.array([9.0] * 20 + [0.5, 0.5, 0.5, 0.5]), np.full(24, 1.0)),
            )
        ]
    )
    assert best.gains(runs, losses, definition) == {
        runs["run_id"][0]: pytest.approx((0.1 + 0.2 + 0.0 - 0.1) / 4 / 0.67)
    }
    other = Definition(study=study_of(task="play"), data=DATA, versions={})
    assert best.gains(runs, losses, other) == {runs["run_id"][0]: pytest.approx(0.5)}
    diverged = runs.assign(outcome="diverged")
    assert best.gains(diverged, losses, definition) == {runs["run_id"][0]: 0.0}


def test_sentence_has_setting_divergence_and_quality(tmp_path: Path) -> None:
    definition = write(tmp_path, [*TUNED, ("none", 0.3, {}, FRESH)])
    none, clippy = found(tmp_path, definition).to_dict("records")
    said = best_text.sentence(none, definition)
    contains(said, "none: best at lr 0.3", "0 of 40 fresh seeds", "at most 7%", "held-out")
    assert f"AUC click {none['auc_click']:.4f} ({none['auc_click_low']:.4f} to {none['auc_click_high']:.4f})" in said
    assert "range" not in said
    contains(best_text.sentence(clippy, definition), "clippy: best at lr 0.5, rel 0.4", "8 seeds", "not judged")
    proven = best_text.sentence(none | {"n": 80, "bound": 0.037}, definition)
    assert "risk" not in proven
    broken = best_text.sentence(none | {"k": 9}, definition)
    contains(broken, "9 of 40 fresh seeds", "0 of 20 in tuning", "risk of 0.05")
    ended = best_text.sentence(none | {"at_end": "lr"}, definition)
    contains(ended, "lr at the end of the range")
    head, rows = best_text.best_table(found(tmp_path, definition), definition)
    assert head == ["model", "method", "best at", "diverged", "AUC click", "RMSE play"]
    assert rows[1] == ["small", "clippy", "lr 0.5, rel 0.4", "-", "-", "-"]
    assert rows[0][:4] == ["small", "none", "lr 0.3", "0/40"]
    assert best_text.text(found(tmp_path, definition), definition).splitlines()[0].split()[:3] == [
        "model",
        "method",
        "best",
    ]


@pytest.mark.parametrize(("lr", "rel", "at_end"), [(0.06, 0.3, "lr"), (0.5, 0.95, "rel"), (4.5, 0.1, "lr, rel")])
def test_values_at_the_end_of_a_range_are_named(tmp_path: Path, lr: float, rel: float, at_end: str) -> None:
    definition = write(tmp_path, [("clippy", lr, {"rel": rel}, range(4))], risk=0.99)
    runs = record.read_runs(tmp_path)
    cells = best.tuned_cells(runs, best.gains(runs, record.read_losses(tmp_path), definition), definition)
    assert best._at_end(cells.to_dict("records")[0], definition.study) == at_end.split(", ")


def test_a_range_of_an_arms_own_has_its_own_end(tmp_path: Path) -> None:
    definition = write(tmp_path, [("clippy", 4.5, {"rel": 0.3}, range(4))], risk=0.99)
    runs = record.read_runs(tmp_path)
    cells = best.tuned_cells(runs, best.gains(runs, record.read_losses(tmp_path), definition), definition)
    arms = tuple(replace(arm, lrs=(1.0, 100.0)) for arm in definition.study.arms)
    assert best._at_end(cells.to_dict("records")[0], definition.study) == ["lr"]
    assert best._at_end(cells.to_dict("records")[0], replace(definition.study, arms=arms)) == []


def test_report_uses_only_judged_runs(tmp_path: Path) -> None:
    """Tuning runs belong to no curve, cell or rate."""
    write(tmp_path, [*TUNED, ("none", 0.3, {}, FRESH), ("clippy", 0.5, {"rel": 0.4}, FRESH)])
    runs = analysis.load(tmp_path)
    assert set(zip(runs["curve"], runs["lr"], strict=True)) == {("none", 0.3), ("clippy", 0.5)}
    assert (runs["seed"] >= JUDGED_FROM).all()
    assert len(runs) == 80
    page = write_report(report_tables(tmp_path)).read_text()
    assert "The best quality within the risk" in page
    assert "0/40" in page
    assert "runs are not recorded" not in page
    shown = report(tmp_path)
    assert shown.splitlines()[0].startswith("model  method  best at")
    assert "simulated: 131 runs recorded, 0 failed" in status(tmp_path)


def test_search_without_runs_has_a_report(tmp_path: Path) -> None:
    definition = opened(tmp_path, study_of())
    assert found(tmp_path, definition).empty
    assert report(tmp_path).startswith("no runs recorded yet")
    assert "No runs recorded yet" in (tmp_path / "report.html").read_text()


def test_other_studies_have_no_quality_section(tmp_path: Path) -> None:
    write_simulated_study(tmp_path, simulated_definition(models=("small",), lrs=(0.1, 0.5), seeds=range(3)))
    tables = report_tables(tmp_path)
    assert tables.best is None
    assert "The best quality" not in write_report(tables).read_text()


def test_median_interval_by_hand() -> None:
    assert median_interval(np.arange(5.0)) == pytest.approx((math.nan, 2, math.nan), nan_ok=True)
    assert median_interval(np.arange(6.0)[::-1]) == (0, 2.5, 5)  # 1 - 2 / 2 ** 6 = 0.969
    assert median_interval(np.arange(10.0)) == (1, 4.5, 8)  # 1 - 2 * 11 / 2 ** 10 = 0.979
    assert median_interval(np.array([])) == pytest.approx([math.nan] * 3, nan_ok=True)


@pytest.mark.parametrize("n", [6, 9, 32])
def test_median_interval_is_the_narrowest_that_covers(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.exponential(size=(4000, n))
    ends = np.array([median_interval(values) for values in draws])[:, ::2]
    median = math.log(2)
    covered = np.mean((ends[:, 0] <= median) & (median <= ends[:, 1]))
    assert covered >= 0.945
    inside = int(np.sum(np.sort(draws[0]) < ends[0, 0]))
    assert 2 * stats.binom.cdf(inside + 1, n, 0.5) > 0.05  # one order statistic further in does not


def test_mean_interval_equals_students() -> None:
    values = np.array([1.0, 2.0, 4.0])
    expected = stats.t.interval(0.95, 2, loc=values.mean(), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx(expected)
    assert math.isnan(mean_interval(values[:1])[0])
