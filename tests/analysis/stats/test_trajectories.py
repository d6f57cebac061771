"""What happens during training: shares over steps, gains, example pairs."""

import numpy as np
import pandas as pd
import pytest
from simulated_record import TASKS, simulated_definition

import analysis
from analysis.loading import records, with_curves
from analysis.stats import trajectories
from analysis.stats.onsets import with_onsets
from analysis.stats.trajectories import diverged_by_step, example_pairs, gain_by_step
from study.record.tables import read_losses


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


def test_a_run_that_never_learned_counts_from_its_onset_if_losses_are_there():
    """The control learns over 100 steps; a run explodes at step 25, as one of 0 steps the judge would say."""
    steps, rng = 200, np.random.default_rng(0)
    definition = simulated_definition(models=("small",), steps=steps)
    control = np.where(np.arange(steps) < 10, -1.0, np.clip(np.arange(steps) / 100, 0, 1))
    broken = np.where(np.arange(steps) < 25, 0.0, -20.0)
    healthy = control + 0.01 * rng.normal(size=steps)
    gains = {"c0": control, "c1": control, "broken": broken, "healthy": healthy, "never": broken - 20}
    losses = pd.DataFrame(
        {
            "run_id": run,
            "task": task["name"],
            "constant": np.full(steps, task["constant_loss"]),
            "loss": task["constant_loss"] * (1 - 0.1 * gain),  # 0.1 is the reference gain
        }
        for run, gain in gains.items()
        for task in TASKS
    )
    every = pd.DataFrame(
        {"run_id": list(gains), "model": "small", "method": "none", "options": "", "lr": [0.02, 0.02, 0.8, 0.8, 0.8]}
        | {
            "role": ["control", "control", "cell", "cell", "cell"],
            "seed": range(5),
            "steps": steps,
            "study": "s",
            "data": "d",
        }
        | {"outcome": ["completed", "completed", "diverged", "completed", "diverged"]}
        | {"diverged_at_step": [None, None, 0, None, 0]}
        | {"reason": [None, None, "never_learned", None, "never_learned"]}
    )
    runs = with_curves(every)
    lost = with_onsets(runs, every, losses, {"small": {"lr": 0.02, "gain": 0.1}}, definition).set_index("run_id")
    assert abs(lost.loc["broken", "lost_at"] - 25) <= 2
    assert np.isnan(lost.loc["healthy", "lost_at"])
    assert abs(lost.loc["never", "lost_at"] - 10) <= 2, "no run is healthy before"
    known = diverged_by_step(lost.reset_index())
    assert known.loc[known["share"] == 0, "step"].tolist() == [0]
    assert known["known"].all()
    unknown = diverged_by_step(runs)
    assert unknown["share"].tolist() == [0, 0, 2 / 3], "nothing at step 0: it is not known when it was lost"
    assert unknown["known"].tolist() == [True, True, False]
