"""The benchmark of growth counts what it says, and finds the exponent of a cost that is known."""

from dataclasses import replace
from pathlib import Path

import growth
import numpy as np
import pytest

SMALL = growth.Work(runs=6, stack=4, of_seed=2, steps=3, features=3, vocabulary=300, rows=2_000, heldout=100)


def cost(steps_seconds: float = 1.0, around_seconds: float = 1.0, peak: int = 10**6) -> growth.Cost:
    return growth.Cost(steps_seconds=steps_seconds, around_seconds=around_seconds, input_seconds=0.25, bytes=peak)


def test_exponents_of_known_costs():
    assert growth.exponent((10, 100, 1000), (7, 700, 70_000)) == pytest.approx(2)
    assert growth.exponent((1, 2, 4), (3, 3, 3)) == pytest.approx(0)


def test_only_the_upper_part_and_the_chosen_cost_tell():
    series = growth.Series(name="x", field="rows", sizes=(1, 10, 100), work=SMALL, cost="around_seconds", upper=2)
    line = growth.growth_line(series, [cost(around_seconds=t) for t in (5, 5, 50)])
    assert line.split()[:3] == ["x", "1.00", "1"]
    assert "100: 50, 1" in line


def test_each_size_keeps_its_least_cost_and_is_measured_in_turn(monkeypatch, tmp_path):
    asked = []

    def measured(work: growth.Work, folder: Path, repetition: int) -> growth.Cost:
        asked.append(work.rows)
        return cost(steps_seconds=work.rows + (3 - repetition) ** 2, peak=work.rows + repetition)

    monkeypatch.setattr(growth, "cost_of", measured)
    series = growth.Series(name="x", field="rows", sizes=(100, 200), work=SMALL)
    costs = growth.measure(series, 3, tmp_path)
    assert asked == [100, 200] * 3
    assert [(c.steps_seconds, c.bytes) for c in costs] == [(101, 100), (201, 200)]
    assert "25.0%" in growth.input_line("y", replace(SMALL, rows=0), 3, tmp_path)  # 0.25 s of 1 s


def test_memory_of_a_run_is_the_slope(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "cost_of", lambda work, folder: cost(peak=10**8 + 2 * 10**6 * work.runs))
    monkeypatch.setattr(growth, "bytes_of_run", lambda *_: 5 * 10**6)
    assert growth.memory_line("small", SMALL, (2, 4, 8), tmp_path).split()[1:4] == ["2.00", "5.00", "2.50"]


def test_stacks_and_data_are_as_asked(tmp_path):
    log = growth.log_of(SMALL, tmp_path)
    assert (log.ids.shape, log.numbers.shape, log.labels.shape) == ((2_100, 3), (2_100, 5), (2_100, 4))
    assert isinstance(log.ids.base, np.memmap)
    assert log.vocabulary == (300, 200, 200)
    assert (log.ids.max(axis=0) < log.vocabulary).all()
    assert (log.ids[:, 0] >= 200).any()
    stacks = growth._stacks(SMALL, log)
    assert [[(run.seed, run.lr) for run in stack] for stack in stacks] == [
        [(0, 0.01), (0, 0.02), (1, 0.01), (1, 0.02)],
        [(2, 0.01), (2, 0.02)],
    ]
    growth._train(replace(SMALL, runs=2), log)


def test_all_that_is_measured_is_spent(tmp_path):
    log = growth.log_of(SMALL, tmp_path)
    steps, around = growth._train(SMALL, log)
    assert steps > 0
    assert around > 0
    assert growth._read(SMALL, log) > 0


@pytest.mark.slow
def test_the_benchmark_runs(capsys):
    assert growth.main(["--quick", "--only", "runs of a stack,table rows: steps,input,memory"]) == 0
    said = capsys.readouterr().out
    assert "runs of a stack" in said
    assert "small, 32 runs of 8 seeds" in said
    assert said.splitlines()[-1].startswith("small ")
