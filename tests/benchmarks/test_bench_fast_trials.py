"""What the benchmark of fast trials says, from figures by hand."""

import json

import fast_trials
import numpy as np

FOUND = [
    {"runs": 1_000, "seconds": {"plan": 0.5, "fixed": 2.0}, "bytes": 2_000_000, "pace": 1000, "reached": 990.0},
    {"runs": 4_000, "seconds": {"plan": 2.0, "fixed": 2.0}, "bytes": 8_000_000, "pace": 1000, "reached": 900.0},
]


def test_a_row_says_seconds_of_a_thousand_runs_their_growth_and_the_cores_that_keep_up() -> None:
    _, plan, fixed, paced, size = fast_trials.table(FOUND, rate=16_000).splitlines()
    assert plan.split() == ["plan", "0.5", "0.5", "1.00", "8"]
    assert fixed.split() == ["fixed", "2", "0.5", "0.00", "8"]
    assert paced.split()[-6:] == ["990", "of", "1,000", "900", "of", "1,000"]
    assert size.split()[-2:] == ["2,000", "2,000"]


def test_fake_runs_above_the_edge_come_back() -> None:
    trained = fast_trials.fake([0.1, 2.0], 100, 1, np.random.default_rng(0))
    assert trained.loss.shape == (2, 100, 1)
    assert trained.loss[:, -20:].mean((1, 2)).round(1).tolist() == [0.5, 1.0]


def test_every_part_of_a_study_is_measured(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(fast_trials, "CELLS", fast_trials.LRS)
    asked = ["--runs", "300", "--stack", "50", "--steps", "40", "--pace", "1000000", "--folder", str(tmp_path)]
    assert fast_trials.main(asked) == 0
    rows = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[1:] == [
        "plan",
        "queue",
        "worker: stack from its text",
        "worker: judge and record",
        "MLflow: an update meanwhile",
        "MLflow: an update, nothing new",
        "resume: the record is read",
        "resume: plan",
        "queue, paced",
        "results a second, paced",
        "bytes of the record a run",
    ]
    told = json.loads((tmp_path / "300" / "told.json").read_text())
    assert told["runs"] >= 300
    assert told["bytes"] > 100 * told["runs"]
    assert all(seconds > 0 for seconds in told["seconds"].values())
    assert told["reached"] > 0
