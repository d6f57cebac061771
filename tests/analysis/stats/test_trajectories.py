"""What happens during training: shares over steps, gains, example pairs."""

import numpy as np
import pandas as pd
import pytest
from simulated_record import TASKS, write_simulated_study

import analysis
from analysis.loading import records
from analysis.stats import trajectories
from analysis.stats.trajectories import diverged_by_step, example_pairs, gain_by_step
from study.record.tables import read_losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    write_simulated_study(folder)
    return folder


def test_diverged_by_step_ends_at_the_share_of_diverged_runs(folder):
    runs = analysis.load(folder)
    table = diverged_by_step(runs)
    for (model, curve), of_curve in table.groupby(["model", "curve"]):
        rows = runs[(runs["model"] == model) & (runs["curve"] == curve)]
        assert of_curve["share"].is_monotonic_increasing
        assert of_curve["step"].is_monotonic_increasing
        assert of_curve["share"].iloc[-1] == pytest.approx((rows["outcome"] == "diverged").mean())
        assert (of_curve["share"].iloc[0], of_curve["step"].iloc[-1]) == (0, 200)


def test_gain_by_step_by_hand():
    tasks = [{"constant_loss": 0.5}, {"constant_loss": 1.5}]
    losses = pd.DataFrame(
        {
            "run_id": ["a", "a"],
            "task": ["x", "y"],
            "loss": [np.array([0.5, 0.3, np.inf]), np.array([1.5, 1.3, 1.0])],
            "constant": [np.array([0.5, 0.5, 0.5]), np.array([1.5, 1.5, 1.5])],
        }
    )
    table = gain_by_step(losses, tasks, 3)
    assert table["gain"].tolist()[:2] == pytest.approx([0, 0.2])  # (2.0 - 1.6) / 2
    assert table["smooth"].tolist()[:2] == pytest.approx([0, 0.1])
    assert table.loc[2, ["gain", "smooth"]].isna().all()


def test_example_pairs_are_of_one_curve(folder):
    pairs = example_pairs(analysis.load(folder))
    assert 1 <= len(pairs) <= 8
    for broken, healthy in pairs:
        assert (broken["outcome"], healthy["outcome"]) == ("diverged", "completed")
        assert (broken["model"], broken["curve"]) == (healthy["model"], healthy["curve"])
    table = gain_by_step(read_losses(folder, [pairs[0][0]["run_id"]]), TASKS)
    assert len(table) == 200


def test_only_curves_that_are_shown_are_searched_for_examples(folder, monkeypatch):
    runs = analysis.load(folder)
    every = example_pairs(runs, limit=100)
    searched = []
    monkeypatch.setattr(trajectories, "records", lambda curve: searched.append(1) or records(curve))
    pairs = example_pairs(runs, limit=2)
    assert [(a["run_id"], b["run_id"]) for a, b in pairs] == [(a["run_id"], b["run_id"]) for a, b in every[:2]]
    assert len(searched) < runs.groupby(["model", "curve"]).ngroups
