"""The benchmark of loops counts what it says."""

import loops
import numpy as np
import pytest


def test_overhead_is_the_time_of_the_workers_less_that_of_the_loops() -> None:
    times = np.array([[7, 0.0, 1.0], [7, 1.1, 2.0], [8, 0.5, 1.5], [8, 1.7, 2.0]])
    found = loops.overhead(times, workers=2)
    assert found["runs, the control included"] == 4
    assert found["worker processes"] == 2
    assert found["a run's own time, ms"] == pytest.approx(1e3 * (1.0 + 0.9 + 1.0 + 0.3) / 4)
    assert found["overhead of a run, ms"] == pytest.approx(1e3 * (2 * 2.0 - 3.2) / 4)
    assert found["between two runs of a worker, median ms"] == pytest.approx(1e3 * (0.1 + 0.2) / 2)


@pytest.mark.slow
def test_the_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert loops.main(["--runs", "20", "--workers", "1", "--calls", "100"]) == 0
    said = capsys.readouterr().out
    assert "watch, a float" in said
    assert "overhead of a run, ms" in said
    assert "runs, the control included: 44" in said
