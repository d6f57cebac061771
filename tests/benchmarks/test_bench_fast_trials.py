"""What the benchmark of fast trials says, from figures by hand."""

import fast_trials
import numpy as np

FOUND = [
    {"runs": 1_000, "seconds": {"plan": 0.5, "fixed": 2.0}, "bytes": 2_000_000},
    {"runs": 4_000, "seconds": {"plan": 2.0, "fixed": 2.0}, "bytes": 8_000_000},
]


def test_a_row_says_seconds_of_a_thousand_runs_their_growth_and_the_cores_that_keep_up() -> None:
    _, plan, fixed, size = fast_trials.table(FOUND, rate=16_000).splitlines()
    assert plan.split() == ["plan", "0.5", "0.5", "1.00", "8"]
    assert fixed.split() == ["fixed", "2", "0.5", "0.00", "8"]
    assert size.split()[-2:] == ["2,000", "2,000"]


def test_fake_runs_above_the_edge_come_back() -> None:
    trained = fast_trials.fake([0.1, 2.0], 100, 1, np.random.default_rng(0))
    assert trained.loss.shape == (2, 100, 1)
    assert trained.loss[:, -20:].mean((1, 2)).round(1).tolist() == [0.5, 1.0]
